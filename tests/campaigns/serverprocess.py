"""`maitred serve` as a process of its own, to be killed, and calls that outlive it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from tests.campaigns.killing import CALL_TIMEOUT_S, START_TIMEOUT_S, TRANSIENT, KillFailure

from maitred.v1 import session_pb2

RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
]


class ServerProcess:
    """One data directory, and one server after another on it, behind the same UNIX socket."""

    def __init__(
        self, directory: Path, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Take more arguments of `maitred serve`, and variables for what is secret."""
        self._socket = directory / "maitred.sock"
        self._data = f"sqlite:{directory / 'maitred.db'}"
        self._arguments = arguments
        self._environment = environment
        self._channel: grpc.aio.Channel | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold a connection that finds every new server."""
        async with grpc.aio.insecure_channel(f"unix:{self._socket}", options=RECONNECT) as channel:
            self._channel = channel
            yield

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a server, which may be dead at the end. Raises: KillFailure."""
        self._socket.unlink(missing_ok=True)
        process = await self._maitred(
            "serve",
            "--listen=",
            f"--unix-socket={self._socket}",
            f"--data={self._data}",
            *self._arguments,
        )
        try:
            ready = asyncio.create_task(self._ready())
            ended = asyncio.create_task(process.wait())
            await asyncio.wait(
                {ready, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            ended.cancel()
            if not ready.done():
                ready.cancel()
                raise KillFailure(f"the server did not start: exit code {process.returncode}")
            await ready
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def check(self) -> None:
        """Have the file checked, with no server on it. Raises: KillFailure."""
        process = await self._maitred("check", self._data)
        if await process.wait() != 0:
            raise KillFailure("`maitred check` found the file wrong")

    async def ask(self, method: str, request: Message, response_type: type[Message]) -> Any:
        """Send until answered, with the same request id: nothing else tells what became of it.

        Raises: KillFailure, where the answer is one that asking again does not change.
        """
        assert self._channel is not None
        call: grpc.aio.UnaryUnaryMultiCallable[Message, Message] = self._channel.unary_unary(
            f"/maitred.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        while True:
            try:
                return await call(request, timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRANSIENT:
                    problem = f"{method}: {error.code()} {error.details()}"
                    raise KillFailure(problem) from error
                await asyncio.sleep(0.02)

    async def _ready(self) -> None:
        request = session_pb2.ListSessionsRequest(page_size=1)
        await self.ask("SessionService/ListSessions", request, session_pb2.ListSessionsResponse)

    async def _maitred(self, *arguments: str) -> asyncio.subprocess.Process:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAITRED_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "maitred.server",
            *arguments,
            env={**inherited, **self._environment},
        )
