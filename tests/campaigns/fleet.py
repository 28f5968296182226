"""Several `maitred serve` processes on one store, which are killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message
from tests.campaigns.killing import CALL_TIMEOUT_S, START_TIMEOUT_S, TRANSIENT, KillFailure

from maitred.v1 import session_pb2

MessageT = TypeVar("MessageT", bound=Message)

_LOG_END = 2000
"""How much of a server's log a failure shows, in characters."""


def is_transient(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether a call may be sent again; what a server did not foresee is never that."""
    foreseen = "internal error" not in (error.details() or "")
    return error.code() in TRANSIENT and foreseen


class Fleet:
    """Servers by their number, each behind a channel that outlives it."""

    def __init__(self, directory: Path, urls: Sequence[str]) -> None:
        """Prepare; `urls` name the store as each server reaches it."""
        self._directory = directory
        self._urls = urls
        self._processes: list[asyncio.subprocess.Process | None] = [None] * len(urls)
        self._channels: list[grpc.aio.Channel] = []
        self._undo = AsyncExitStack()

    def __len__(self) -> int:
        return len(self._urls)

    async def __aenter__(self) -> Self:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        for number in range(len(self)):
            channel = grpc.aio.insecure_channel(f"unix:{self._socket(number)}", options=options)
            self._channels.append(await self._undo.enter_async_context(channel))
        try:
            # The first one makes the tables; it is no fault if that takes it a moment.
            for number in range(len(self)):
                await self.start(number)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        running = [process for process in self._processes if process is not None]
        for process in running:
            if process.returncode is None:
                process.kill()
        for process in running:
            await process.wait()
        await self._undo.aclose()

    async def start(self, number: int) -> None:
        """Start a server and wait until it answers. Raises: KillFailure."""
        self._socket(number).unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAITRED_")}
        with self._log(number).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "maitred.server", "serve", "--listen="),
                f"--unix-socket={self._socket(number)}",
                f"--data={self._urls[number]}",
                f"--simulated-dir={self._directory / 'provider'}",
                "--simulated-outcome=pay",
                "--simulated-delay-s=0",
                "--log-level=warning",
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._processes[number] = process
        ready = asyncio.create_task(self._ready(number))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait(
                {ready, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not ready.done():
                raise KillFailure(
                    f"server {number} did not start: exit code {process.returncode}\n"
                    f"{self.log(number)}"
                )
            await ready
        finally:
            ready.cancel()
            ended.cancel()

    async def kill(self, number: int) -> None:
        """End a server as `kill -9` does."""
        process = self._processes[number]
        assert process is not None
        process.send_signal(signal.SIGKILL)
        await process.wait()

    def log(self, number: int) -> str:
        """Read the end of a server's log."""
        return self._log(number).read_text(errors="replace")[-_LOG_END:]

    async def call(
        self, number: int, method: str, request: Message, response_type: type[MessageT]
    ) -> MessageT:
        """Call a method of a server once. Raises: grpc.aio.AioRpcError."""
        call: grpc.aio.UnaryUnaryMultiCallable[Message, MessageT]
        call = self._channels[number].unary_unary(
            f"/maitred.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        return await call(request, timeout=CALL_TIMEOUT_S)

    def stream(
        self, number: int, method: str, request: Message, response_type: type[MessageT]
    ) -> grpc.aio.UnaryStreamCall[Message, MessageT]:
        """Open a stream of a server, without a deadline."""
        call: grpc.aio.UnaryStreamMultiCallable[Message, MessageT]
        call = self._channels[number].unary_stream(
            f"/maitred.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        return call(request)

    async def _ready(self, number: int) -> None:
        request = session_pb2.ListSessionsRequest(page_size=1)
        method, reply = "SessionService/ListSessions", session_pb2.ListSessionsResponse
        while True:
            try:
                await self.call(number, method, request, reply)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return

    def _socket(self, number: int) -> Path:
        return self._directory / f"server-{number}.sock"

    def _log(self, number: int) -> Path:
        return self._directory / f"server-{number}.log"
