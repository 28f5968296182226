"""One pipeline, two transports: whichever door a call comes through, the answer is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.app.conftest import FILES, empty_handlers
from tests.support.bar import add, open_bar
from tests.support.inprocess import InProcess
from tests.support.requests import GUEST, READS, VALID
from tests.support.wire import METHODS, Failure, Wire, wired

from maitred.server.app.pipeline.auth import Authenticator, add_token
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.engine.clock import ManualClock
from maitred.server.telemetry import metrics
from maitred.v1 import order_pb2, session_pb2
from maitred.v1.common_pb2 import Role

BACKUP = "AdminService/Backup"
"""The second one of a name is refused, so it says by itself that it came to the same place."""

TIMED = frozenset({"AdminService/SweepExpired"})
"""How long it took is part of the answer."""

ADD_ITEM = "OrderService/AddItem"
WATCH = "SessionService/WatchSession"
REQUEST = order_pb2.AddItemRequest(session_id="s", item="x")


class Doors(NamedTuple):
    """The two ways into one server."""

    grpc: Wire
    inside: InProcess
    viewer: str
    """A token that is bound to the guest's session."""

    async def both(self, rpc: str, request: Message | bytes, **options: Any) -> tuple[Any, Any]:
        """Make a call through each."""
        first = await self.grpc.outcome(rpc, request, **options)
        return first, await self.inside.outcome(rpc, request, **options)


@pytest.fixture(scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    """Run a server with tokens and a guest."""
    folder: Path = tmp_path_factory.mktemp("doors")
    tokens = folder / "tokens.jsonl"
    admin = add_token(tokens, "admin", Role.ROLE_ADMIN)
    viewer = add_token(tokens, "viewer", Role.ROLE_VIEWER, GUEST)
    async with wired(
        data=f"sqlite:{folder / 'maitred.db'}",
        clock=ManualClock(),
        tokens=str(tokens),
        backup_dir=str(folder / "backups"),
        heartbeat_s=3600.0,
    ) as (server, wire):
        wire.token = admin
        await open_bar(wire)
        created = session_pb2.CreateSessionRequest(session_id=GUEST)
        await wire("SessionService/CreateSession", created)
        await wire(ADD_ITEM, add(GUEST, "negroni", quantity=2))
        assert server.pipeline is not None
        yield Doors(wire, InProcess(server.pipeline), viewer)


@pytest.mark.parametrize("rpc", METHODS)
async def test_answers_are_the_same(doors: Doors, rpc: str) -> None:
    """Of every rpc: what is read is equal, and a change is made once and then replayed."""
    request: Any = READS.get(rpc) or (await VALID[rpc](doors.grpc)).request
    if rpc in VALID:
        request.request_id = "once"
    first, second = await doors.both(rpc, request, token=doors.grpc.token)

    if rpc == BACKUP:
        assert first.done == first.total
        assert second.reason == "ALREADY_EXISTS"
        return
    assert type(first) is type(second)
    if rpc in VALID:
        assert (first.replayed, second.replayed) == (False, True)
        second.replayed = False
    if rpc not in TIMED:
        assert first == second


@pytest.mark.parametrize("rpc", METHODS)
async def test_refusals_are_the_same(doors: Doors, rpc: str) -> None:
    """Of every rpc: no token, one for another session, wrong bytes, wrong fields, too many."""
    empty = GetMessageClass(METHODS[rpc].input_type)()
    attempts: list[tuple[Message | bytes, str]] = [
        (empty, ""),
        (empty, "mtd_unknown"),
        (empty, doors.viewer),
        (b"\x0a\x05other", doors.viewer),
        (b"\xff\xff\xff", doors.grpc.token),
        (b"\x0a\x03a b", doors.grpc.token),
        (b"\x0a\x00" * 600_000, doors.grpc.token),
    ]
    refused = 0
    for request, token in attempts:
        first, second = await doors.both(rpc, request, token=token, timeout=5)
        if isinstance(first, Failure):
            refused += 1
            assert first == second
            assert first.reason

    assert refused >= 4


# --- what a transport without deadlines of its own relies on --------------------------------------


def _pipeline(**special: Any) -> Pipeline:
    services = {}
    for file in FILES:
        for each in file.DESCRIPTOR.services_by_name.values():
            own = {name: made for name, made in special.items() if name in each.methods_by_name}
            services[each] = [empty_handlers(each, **own)]
    return Pipeline(services, Authenticator(None))


@pytest.mark.parametrize("timeout", [0.0, 0.02])
async def test_the_pipeline_keeps_a_deadline(timeout: float) -> None:
    """Calls and streams that outlast their deadline are ended, and their handlers clean up."""
    ended: list[str] = []

    async def add_item(self: object, request: Any, call: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ADD_ITEM)

    async def watch(self: object, request: Any, call: Any) -> Any:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.append(WATCH)

    inside = InProcess(_pipeline(AddItem=add_item, WatchSession=watch))

    for rpc in (ADD_ITEM, WATCH):
        failure = await inside.outcome(rpc, REQUEST, timeout=timeout)
        assert (failure.status, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert ended == ([ADD_ITEM, WATCH] if timeout else [])


async def test_a_timeout_of_the_handler_is_no_deadline() -> None:
    """A TimeoutError inside a handler is its own failure, although a deadline is being kept."""

    async def add_item(self: object, request: Any, call: Any) -> Any:
        raise TimeoutError

    inside = InProcess(_pipeline(AddItem=add_item))

    assert (await inside.outcome(ADD_ITEM, REQUEST)).reason == "INTERNAL"


async def test_streams_end_while_a_message_is_on_its_way() -> None:
    """Told to end, a stream stops a transport that is sending, unless that must not be stopped."""

    async def watch(self: object, request: Any, call: Any) -> Any:
        while True:
            yield session_pb2.WatchSessionResponse(version=1)

    pipeline = _pipeline(WatchSession=watch)
    sending = asyncio.Event()
    release = asyncio.Event()

    async def send(*, interruptible: bool) -> None:
        method = pipeline.methods[f"maitred.v1.{WATCH}"]
        async with pipeline.stream(method, pipeline.admit(())) as stream:
            async for _ in stream.messages(b"\x0a\x01s", None):
                stream.interruptible = interruptible
                sending.set()
                await release.wait()

    for interruptible in (True, False):
        sending.clear()
        task = asyncio.create_task(send(interruptible=interruptible))
        await sending.wait()
        pipeline.end_streams()
        if not interruptible:
            release.set()
        (ended,) = await asyncio.gather(task, return_exceptions=True)

        assert getattr(ended, "reason", ended) == "SHUTTING_DOWN"
        assert not pipeline.streams


async def test_a_cancelled_call_stays_cancelled() -> None:
    """Whoever hangs up is told nothing; the handler cleans up and the call is counted."""
    begun = asyncio.Event()

    async def add_item(self: object, request: Any, call: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    inside = InProcess(_pipeline(AddItem=add_item))
    cancelled = metrics.CALLS.labels(f"maitred.v1.{ADD_ITEM}", "CANCELLED")
    before = cancelled.value
    task = asyncio.create_task(inside(ADD_ITEM, REQUEST))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.value == before + 1
