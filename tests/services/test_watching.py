"""Streams tell their place at once, speak at least every heartbeat, and never go back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tests.services.test_watches import Guest, read
from tests.support.wire import Wire, wired

from maitred.server.engine.limits import EVENT_BYTES
from maitred.server.stores.values import PAGE_BYTES
from maitred.v1 import conversation_pb2, order_pb2, payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money

HEARTBEAT_S = 0.25


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A server with quick heartbeats and a session `s1`."""
    async with wired(heartbeat_s=HEARTBEAT_S) as (_, wire):
        await create(wire, "s1")
        yield wire


async def create(wire: Wire, session_id: str) -> None:
    """Create a session."""
    request = session_pb2.CreateSessionRequest(session_id=session_id)
    await wire("SessionService/CreateSession", request)


def watch_events(wire: Wire, **fields: Any) -> Any:
    """Watch everything."""
    return wire.call("SessionService/WatchEvents", session_pb2.WatchEventsRequest(**fields))


def watch_payment(wire: Wire, **fields: Any) -> Any:
    """Watch what `s1` owes."""
    request = payment_pb2.WatchPaymentRequest(session_id="s1", **fields)
    return wire.call("PaymentService/WatchPayment", request)


def watch_session(wire: Wire, session_id: str = "s1", **fields: Any) -> Any:
    """Watch a session."""
    request = session_pb2.WatchSessionRequest(session_id=session_id, **fields)
    return wire.call("SessionService/WatchSession", request)


async def add(wire: Wire, cents: int = 100) -> int:
    """Put something on the tab; answers the version."""
    price = Money(minor_units=cents, currency="USD")
    request = order_pb2.AddItemRequest(session_id="s1", item="Special", open_price=price)
    reply = await wire("OrderService/AddItem", request)
    return int(reply.event.version)


@asynccontextmanager
async def busy(wire: Wire) -> AsyncIterator[None]:
    """Keep a session changing in what has to do with neither money nor closing."""

    async def talk() -> None:
        guest = Guest(wire.channel, "s1")
        while True:
            await guest.turn()
            await asyncio.sleep(HEARTBEAT_S / 20)

    talking = asyncio.create_task(talk())
    try:
        yield
    finally:
        talking.cancel()


async def first_of(call: Any) -> Any:
    """The first message of a stream, which is ended."""
    message = await read(call)
    call.cancel()
    return message


async def rest_of(call: Any) -> list[Any]:
    """What is left of a stream that ends by itself."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


STREAMS: dict[str, Callable[..., Any]] = {
    "everything": watch_events,
    "filtered": lambda wire, **fields: watch_events(wire, changes=["session_closed"], **fields),
    "payment": watch_payment,
    "session": watch_session,
    "latest": lambda wire, **fields: watch_session(
        wire, mode=session_pb2.WATCH_MODE_LATEST, **fields
    ),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_every_stream_tells_its_place_at_once(wire: Wire, name: str) -> None:
    """The first message has a token and the heartbeat interval, also when the stream resumes."""
    first = await first_of(STREAMS[name](wire))
    resumed = await first_of(STREAMS[name](wire, resume_token=first.resume_token))

    for message in (first, resumed):
        assert message.resume_token
        assert message.heartbeat_interval.ToMilliseconds() == 250


@pytest.mark.parametrize("name", ["filtered", "payment"])
async def test_a_stream_that_leaves_everything_out_still_speaks(wire: Wire, name: str) -> None:
    """Heartbeats are counted from what was sent, and move on over what was left out."""
    async with busy(wire):
        call = STREAMS[name](wire)
        async with asyncio.timeout(30):
            tokens = [(await read(call)).resume_token for _ in range(4)]
        call.cancel()

    assert len(set(tokens)) == len(tokens)


async def test_what_happens_before_the_first_event_is_not_lost(wire: Wire) -> None:
    """Who is cut off before anything passed its filter resumes where it began."""
    first = await first_of(watch_events(wire, changes=["session_closed"]))
    await wire("SessionService/CloseSession", session_pb2.CloseSessionRequest(session_id="s1"))
    call = watch_events(wire, changes=["session_closed"], resume_token=first.resume_token)
    message = await read(call)
    call.cancel()

    assert [each.event.WhichOneof("change") for each in message.events] == ["session_closed"]


@pytest.mark.parametrize("seed", range(6))
async def test_a_payment_watch_never_falls(wire: Wire, seed: int) -> None:
    """Over resumes at random points, while writes go on, versions and states only rise."""
    chance = random.Random(seed)
    writing = asyncio.create_task(_write(wire, random.Random(seed + 100), 260))
    shown: list[tuple[int, int]] = []
    token, newest = b"", 0
    while not writing.done() or newest < writing.result():
        call = watch_payment(wire, resume_token=token) if token else watch_payment(wire)
        for _ in range(chance.choice((1, 1, 2, 5, 40))):
            message = await read(call)
            assert message.version >= newest, "a message went back"
            if not message.heartbeat:
                assert message.version > newest or not token, "a version came twice"
                shown.append((message.version, message.state.version))
            newest, token = message.version, message.resume_token
            if writing.done() and newest >= writing.result():
                break
        call.cancel()
        await asyncio.sleep(chance.choice((0, 0, 0.01, 0.05)))

    versions = [version for version, _ in shown]
    assert versions == sorted(set(versions))
    assert [state for _, state in shown] == sorted({state for _, state in shown})


async def _write(wire: Wire, chance: random.Random, number: int) -> int:
    guest, version = Guest(wire.channel, "s1"), 0
    for _ in range(number):
        version = await (add(wire, 1) if chance.random() < 0.4 else guest.turn())
    return version


async def test_a_slow_reader_of_a_deleted_session_is_told_what_it_missed(wire: Wire) -> None:
    """What the ring holds is delivered; what was erased unread is said to be, and nothing else."""
    guest = Guest(wire.channel, "s1")
    near, far = watch_session(wire), watch_session(wire)
    await read(near)
    token = (await read(far)).resume_token
    far.cancel()
    last = await guest.turn()
    await wire(
        "SessionService/DeleteSession",
        session_pb2.DeleteSessionRequest(session_id="s1", reason="asked for"),
    )
    seen: list[int] = []
    while not (message := await read(near)).HasField("end"):
        seen += [event.version for event in message.events.events]
    behind = watch_session(wire, resume_token=token)
    end = await read(behind)

    assert seen == [2, last + 1] == [2, 3]
    assert not message.end.unread
    assert (end.end.deleted, end.end.unread, end.version) == (True, True, 1)
    assert await behind.read() is grpc.aio.EOF
    at_end = await first_of(watch_session(wire, after_version=last))
    assert at_end.events.events[0].HasField("session_deleted")


async def test_a_deletion_says_what_it_left_unread_of_payments(wire: Wire) -> None:
    """As for a session: who had read all but the deletion is told so, and who had not, too."""
    near = watch_payment(wire)
    token = (await read(near)).resume_token
    latest = (await first_of(watch_session(wire, mode=session_pb2.WATCH_MODE_LATEST))).resume_token
    last = await add(wire)
    await wire("OrderService/ClearOrder", order_pb2.ClearOrderRequest(session_id="s1"))
    await wire(
        "SessionService/DeleteSession",
        session_pb2.DeleteSessionRequest(session_id="s1", reason="asked for"),
    )
    shown = [message for message in await rest_of(near) if not message.heartbeat]
    behind = await rest_of(watch_payment(wire, resume_token=token))
    at_end = await rest_of(watch_payment(wire, after_version=last + 1))
    newest = await rest_of(
        watch_session(wire, resume_token=latest, mode=session_pb2.WATCH_MODE_LATEST)
    )

    assert [message.version for message in shown] == [last, last + 1, last + 2]
    assert (shown[-1].deleted, shown[-1].unread) == (True, False)
    assert [(each.version, each.deleted, each.unread) for each in behind] == [(1, True, True)]
    assert [(each.version, each.unread) for each in at_end] == [(last + 2, False)]
    assert [(each.version, each.end.deleted) for each in newest] == [(last + 2, True)]


async def test_tokens_are_good_for_what_they_were_given_for(wire: Wire) -> None:
    """A token of another stream or session, or one that was changed, is OUT_OF_RANGE."""
    await create(wire, "s2")
    tokens = {name: (await first_of(stream(wire))).resume_token for name, stream in STREAMS.items()}
    other = (await first_of(watch_session(wire, "s2"))).resume_token
    chance = random.Random(3)
    good = tokens["session"]
    wrong: dict[str, list[bytes]] = {
        "session": [other, tokens["payment"], tokens["everything"][:64]],
        "payment": [other, tokens["session"], tokens["everything"][:64]],
        "everything": [tokens["session"], tokens["payment"]],
    }
    for name, candidates in wrong.items():
        own = tokens[name]
        candidates += [own[:-1], own + b"\0", own[:16], b"x", chance.randbytes(25), bytes(len(own))]
        for at in range(0, len(own), 5):
            candidates.append(own[:at] + bytes([own[at] ^ 1]) + own[at + 1 :])
        for token in candidates:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read(STREAMS[name](wire, resume_token=token))
            assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE, (name, token)
    assert (await first_of(STREAMS["latest"](wire, resume_token=good))).resume_token


async def test_a_reader_far_behind_gets_what_default_clients_can_read() -> None:
    """Twelve MiB behind, messages stay well under the 4 MiB that gRPC receives by default."""
    async with wired(heartbeat_s=60.0) as (server, wire):
        await create(wire, "s1")
        guest, text = Guest(wire.channel, "s1"), "x" * 16_000
        last = 0
        for _ in range(96):
            request = _long_turn(text, 8)
            last = (await guest.conversations.RecordTurn(request)).event.version
        async with grpc.aio.insecure_channel(server.address) as plain:
            reader = Guest(plain, "s1")
            call, seen, sizes = reader.watch(after_version=0), 0, []
            while seen < last:
                message = await read(call)
                sizes.append(message.ByteSize())
                seen = message.version
            call.cancel()
            feed = reader.sessions.WatchEvents(session_pb2.WatchEventsRequest(from_beginning=True))
            count = 0
            while count < last:
                found = await read(feed)
                sizes.append(found.ByteSize())
                count += len(found.events)
            feed.cancel()

    assert max(sizes) < PAGE_BYTES + EVENT_BYTES


def _long_turn(text: str, number: int) -> Any:

    request = conversation_pb2.RecordTurnRequest(session_id="s1")
    for _ in range(number):
        request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=text)
    return request
