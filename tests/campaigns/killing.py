"""`kill -9` in a loop, to see that everything acknowledged is still there, exactly once.

A real `maitred serve` process is killed while clients work on it. The clients keep a ledger of what
they were told; what they were not told they ask again, with the same request id, until they are.
After each kill the file is checked offline and the log of every session is held against the ledger.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.message import Message
from tests.campaigns.operations import CHANGES, Operation, operation_at

from maitred.v1 import (
    menu_pb2,
    session_pb2,
    state_pb2,
)
from maitred.v1.common_pb2 import Money

GUESTS = 8
START_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 10.0
TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)
"""After these the outcome is unknown or absent, and the same request is sent again."""

RECENT_S = 0.05
"""A kill counts as a trial if a write was acknowledged so shortly before it."""


class KillFailure(AssertionError):
    """Something acknowledged was lost, doubled or changed."""


@dataclass(slots=True)
class KillReport:
    """What a campaign did and found."""

    kills: int = 0
    trials: int = 0
    """Kills with a write acknowledged shortly before and one under way."""
    acknowledged: int = 0
    unknown_resolved: int = 0
    watched: int = 0
    lost: int = 0
    duplicated: int = 0


@dataclass(slots=True)
class _Guest:
    session_id: str
    operations: list[Operation] = field(default_factory=list)
    verified: int = 0
    """Operations before this one were compared with the log."""
    seen: list[int] = field(default_factory=list)
    """Versions that the watch delivered."""
    token: bytes = b""


class KillCampaign:
    """One data directory, one server after another, and guests who never give up."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.report = KillReport()
        self._directory = directory
        self._random = random.Random(seed)  # repeatable, not secret
        self._socket = directory / "maitred.sock"
        self._database = directory / "maitred.db"
        self._guests = [_Guest(f"guest-{at}") for at in range(GUESTS)]
        self._channel: grpc.aio.Channel | None = None
        self._last_ack = 0.0
        self._in_flight = 0
        self._stop = False

    async def run(self, kills: int, progress: Callable[[KillReport], None]) -> KillReport:
        """Kill the server so often.

        Raises: KillFailure.
        """
        async with grpc.aio.insecure_channel(
            f"unix:{self._socket}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        ) as channel:
            self._channel = channel
            async with self._server():
                await self._prepare()
            for _ in range(kills):
                await self._one_kill()
                progress(self.report)
            async with self._server():
                await self._verify(everything=True)
        return self.report

    async def _one_kill(self) -> None:
        async with self._server() as process:
            await self._verify(everything=False)
            self._stop = False
            clients = [asyncio.create_task(self._client(guest)) for guest in self._guests]
            clients += [asyncio.create_task(self._watcher(guest)) for guest in self._guests[:2]]
            floor = self.report.acknowledged + self._random.randrange(5, 60)
            while self.report.acknowledged < floor:
                _raise_finished(clients)
                await asyncio.sleep(0)
            if time.monotonic() - self._last_ack < RECENT_S and self._in_flight:
                self.report.trials += 1
            process.send_signal(signal.SIGKILL)
            await process.wait()
            self.report.kills += 1
            self._stop = True
            for client in clients:
                client.cancel()
            outcomes = await asyncio.gather(*clients, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        await self._check_file()

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[asyncio.subprocess.Process]:
        self._socket.unlink(missing_ok=True)
        process = await self._maitred(
            "serve",
            "--listen=",
            f"--unix-socket={self._socket}",
            f"--data=sqlite:{self._database}",
            f"--simulated-dir={self._directory / 'provider'}",
            "--simulated-outcome=pay",
            "--simulated-delay-s=0",
            "--log-level=warning",
        )
        try:
            assert self._channel is not None
            ready = asyncio.create_task(self._ready())
            ended = asyncio.create_task(process.wait())
            await asyncio.wait(
                {ready, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not ready.done():
                ready.cancel()
                raise KillFailure(f"the server did not start: exit code {process.returncode}")
            await ready
            ended.cancel()
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def _ready(self) -> None:
        request = session_pb2.ListSessionsRequest(page_size=1)
        while True:
            try:
                await self._call(
                    "SessionService/ListSessions", request, session_pb2.ListSessionsResponse
                )
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return

    async def _maitred(self, *arguments: str) -> asyncio.subprocess.Process:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAITRED_")}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "maitred.server", *arguments, env=environment
        )

    async def _check_file(self) -> None:
        process = await self._maitred("check", f"sqlite:{self._database}")
        if await process.wait() != 0:
            raise KillFailure(
                f"`maitred check` found the file wrong after kill {self.report.kills}"
            )

    async def _call(self, method: str, request: Message, response_type: type[Message]) -> Message:
        assert self._channel is not None
        call: grpc.aio.UnaryUnaryMultiCallable[Message, Message] = self._channel.unary_unary(
            f"/maitred.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        response: Message = await call(request, timeout=CALL_TIMEOUT_S)
        return response

    async def _prepare(self) -> None:
        menu = state_pb2.Menu(menu_id="default", currency="USD")
        menu.items.add(item_id="tea", name="Tea", price=Money(minor_units=100, currency="USD"))
        await self._call(
            "MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu), menu_pb2.PutMenuResponse
        )
        for guest in self._guests:
            await self._call(
                "SessionService/CreateSession",
                session_pb2.CreateSessionRequest(
                    session_id=guest.session_id,
                    opening_balance=Money(minor_units=10**12, currency="USD"),
                ),
                session_pb2.CreateSessionResponse,
            )

    async def _client(self, guest: _Guest) -> None:
        while not self._stop:
            operation = _next(guest)
            self._in_flight += 1
            try:
                await self._acknowledge(operation)
            finally:
                self._in_flight -= 1
            self._last_ack = time.monotonic()

    async def _acknowledge(self, operation: Operation) -> None:
        """Send until answered; a second try is how an unknown outcome is found out."""
        while True:
            try:
                reply = await self._call(
                    operation.method, operation.request, operation.response_type
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRANSIENT:
                    problem = f"{operation.method}: {error.code()} {error.details()}"
                    raise KillFailure(problem) from error
                await asyncio.sleep(0.01)
                continue
            version = reply.event.version  # type: ignore[attr-defined]  # every mutation has one
            if operation.version and operation.version != version:
                self.report.duplicated += 1
                raise KillFailure(
                    f"{operation.method} was version {operation.version}, now {version}"
                )
            if not operation.version:
                self.report.acknowledged += 1
                # Applied before the kill, and answered only now.
                self.report.unknown_resolved += reply.replayed  # type: ignore[attr-defined]  # as above
            operation.version = version
            return

    async def _watcher(self, guest: _Guest) -> None:
        assert self._channel is not None
        watch = self._channel.unary_stream(
            "/maitred.v1.SessionService/WatchSession",
            request_serializer=session_pb2.WatchSessionRequest.SerializeToString,
            response_deserializer=session_pb2.WatchSessionResponse.FromString,
        )
        request = session_pb2.WatchSessionRequest(
            session_id=guest.session_id, resume_token=guest.token
        )
        try:
            async for message in watch(request):
                guest.token = message.resume_token
                guest.seen.extend(event.version for event in message.events.events)
                if message.HasField("snapshot"):
                    guest.seen.append(message.version)
        except grpc.aio.AioRpcError as error:
            if error.code() not in TRANSIENT:
                raise KillFailure(f"watch: {error.code()} {error.details()}") from error

    async def _verify(self, *, everything: bool) -> None:
        """Hold the log against the ledger, then ask again what was acknowledged last."""
        for guest in self._guests:
            for operation in guest.operations[-3:] if not everything else guest.operations:
                await self._acknowledge(operation)
            first = 0 if everything else guest.verified
            await self._verify_log(guest, first, everything=everything)
            guest.verified = max(0, len(guest.operations) - 1)
            expected = (
                list(range(guest.seen[0], guest.seen[0] + len(guest.seen))) if guest.seen else []
            )
            if guest.seen != expected:
                raise KillFailure(f"{guest.session_id}: the watch saw {guest.seen[-20:]}")
            self.report.watched = sum(len(each.seen) for each in self._guests)

    async def _verify_log(self, guest: _Guest, first: int, *, everything: bool) -> None:
        after = guest.operations[first].version - 1 if guest.operations[first:] else 0
        changes = await self._log(guest, after)
        for operation in guest.operations[first:]:
            wanted = CHANGES[operation.method.rpartition("/")[2]]
            if changes.get(operation.version) != wanted:
                self.report.lost += 1
                raise KillFailure(
                    f"{guest.session_id}: {wanted} acknowledged as version {operation.version} is "
                    f"not in the log, which has {changes.get(operation.version)} there"
                )
        if everything:
            asked = Counter(CHANGES[o.method.rpartition("/")[2]] for o in guest.operations)
            found = Counter(changes.values())
            doubled = {name: found[name] - count for name, count in asked.items()}
            if any(doubled.values()):
                self.report.duplicated += sum(doubled.values())
                raise KillFailure(f"{guest.session_id}: more events than requests: {doubled}")

    async def _log(self, guest: _Guest, after: int) -> dict[int, str]:
        changes: dict[int, str] = {}
        page = session_pb2.ListEventsRequest(
            session_id=guest.session_id, after_version=max(0, after), page_size=1000
        )
        while True:
            reply = await self._call(
                "SessionService/ListEvents", page, session_pb2.ListEventsResponse
            )
            assert isinstance(reply, session_pb2.ListEventsResponse)
            for event in reply.events:
                if event.version != max(0, after) + len(changes) + 1:
                    raise KillFailure(f"{guest.session_id}: gap before version {event.version}")
                changes[event.version] = event.WhichOneof("change") or ""
            if not reply.next_page_token:
                return changes
            page.page_token = reply.next_page_token


def _next(guest: _Guest) -> Operation:
    """Take up what was not acknowledged, else think of something new."""
    if not guest.operations or guest.operations[-1].version:
        guest.operations.append(operation_at(guest.session_id, len(guest.operations)))
    return guest.operations[-1]


def _raise_finished(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is not None:
                raise error
