"""A call that is given up leaves a whole change or none, no lock, and no watcher in the dark."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from tests.concurrency.conftest import Bar
from tests.support.bar import add, new_guest, session, turn
from tests.support.wire import Wire, wired

from maitred.server.kinds.session import session_ref
from maitred.v1 import admin_pb2, session_pb2

GIVEN_UP = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
ADD, TURN = "OrderService/AddItem", "ConversationService/RecordTurn"


async def follow(wire: Wire, guest: str) -> list[int]:
    """Watch a session until it is closed, and list every version that was told."""
    versions: list[int] = []
    watch = wire.call(
        "SessionService/WatchSession", session_pb2.WatchSessionRequest(session_id=guest)
    )
    async for message in watch:
        if message.HasField("snapshot"):
            versions.append(message.version)
        for event in message.events.events:
            versions.append(event.version)
            if event.HasField("session_closed"):
                watch.cancel()
                return versions
    return versions


def any_write(chance: random.Random, guest: str, request_id: str) -> tuple[str, Any]:
    """Choose a write that is never refused."""
    if chance.random() < 0.5:
        return ADD, add(guest, "olives", request_id=request_id)
    return TURN, turn(guest, request_id=request_id)


async def give_up(wire: Wire, chance: random.Random, rpc: str, request: Any) -> Any:
    """Make a call and give it up at some point; answers the reply if that came first."""
    if chance.random() < 0.5:
        # Often too short to arrive, sometimes long enough to be answered.
        call = wire.call(rpc, request, timeout=chance.choice((0.005, 0.02, 0.2)) * chance.random())
    else:
        call = wire.call(rpc, request)
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await asyncio.wait([asyncio.ensure_future(call.code())], timeout=chance.random() / 20)
        call.cancel()
    try:
        return await call
    except asyncio.CancelledError:
        return None
    except grpc.aio.AioRpcError as error:
        if error.code() not in GIVEN_UP:
            raise
        return None


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_of_cancelled_calls_leaves_whole_changes_only(bar: Bar, seed: int) -> None:
    """Calls given up at random points and sent again have one effect each, and all are watched."""
    wire, engine = bar.wire, bar.server.engine
    guests = [await new_guest(wire, balance=10_000_000) for _ in range(4)]
    watches = [asyncio.create_task(follow(wire, guest)) for guest in guests]
    per_task, tasks = 12, 6

    ends: Counter[tuple[bool, bool]] = Counter()
    """By whether it was answered, and whether it had happened when it was sent again."""

    async def storm(guest: str, number: int) -> None:
        chance = random.Random(f"{seed}/{number}/{guests.index(guest)}")
        for at in range(per_task):
            rpc, request = any_write(chance, guest, f"{number}-{at}")
            first = await give_up(wire, chance, rpc, request)
            again = await wire(rpc, request)
            ends[first is not None, again.replayed] += 1
            if first is not None:
                assert again.replayed
                assert again.event == first.event

    await asyncio.gather(*(storm(guest, number) for guest in guests for number in range(tasks)))
    for guest in guests:
        await wire(
            "SessionService/CloseSession",
            session_pb2.CloseSessionRequest(session_id=guest, reason="the storm is over"),
        )
    async with asyncio.timeout(20):
        seen = await asyncio.gather(*watches)
    wanted = 1 + per_task * tasks + 1

    for guest, versions in zip(guests, seen, strict=True):
        audit = await wire(
            "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=guest)
        )
        found = await session(wire, guest)
        assert audit.valid, audit
        assert found.version == wanted
        assert versions == list(range(versions[0], wanted + 1))
    assert ends[False, True] + ends[False, False], ends
    assert ends[True, True] + ends[False, True], ends
    assert not ends[True, False], ends
    assert not any(engine.locks.held(session_ref(guest)) for guest in guests)
    assert engine.committer.in_flight == 0


async def test_a_call_that_was_given_up_for_good_happened_wholly_or_not(bar: Bar) -> None:
    """Without a retry the session holds at least what was acknowledged, and adds up."""
    wire, engine = bar.wire, bar.server.engine
    guest = await new_guest(wire, balance=10_000_000)
    chance = random.Random(7)
    acknowledged: list[int] = []
    attempts = 150

    async def one(at: int) -> None:
        rpc, request = any_write(chance, guest, f"once-{at}")
        reply = await give_up(wire, chance, rpc, request)
        if reply is not None:
            acknowledged.append(reply.event.version)

    await asyncio.gather(*(one(at) for at in range(attempts)))
    last = await wire(TURN, turn(guest))
    audit = await wire("AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=guest))

    assert len(set(acknowledged)) == len(acknowledged)
    assert 2 + len(acknowledged) <= last.event.version <= 2 + attempts
    assert audit.valid, audit
    assert not engine.locks.held(session_ref(guest))


async def test_watchers_that_leave_at_random_leave_nothing_behind(bar: Bar) -> None:
    """Opening and giving up watches in a burst of writes forgets every one of them."""
    wire, hub = bar.wire, bar.server.engine.hub
    guest = await new_guest(wire)
    chance = random.Random(3)
    before = hub.watchers

    async def glance() -> None:
        call = wire.call(
            "SessionService/WatchSession", session_pb2.WatchSessionRequest(session_id=guest)
        )
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED

    await asyncio.gather(
        *(glance() for _ in range(200)), *(wire(TURN, turn(guest)) for _ in "12345")
    )
    async with asyncio.timeout(10):
        while hub.watchers > before:
            await asyncio.sleep(0.001)

    assert hub.watchers == before


async def test_a_busy_session_delays_no_other(bar: Bar) -> None:
    """While one session is locked, others are written and the locked one is still read."""
    wire, locks = bar.wire, bar.server.engine.locks
    busy, free = await new_guest(wire), await new_guest(wire)
    assert locks.try_acquire(session_ref(busy))
    waiting = asyncio.create_task(wire(TURN, turn(busy)))
    replies = [await wire(TURN, turn(free)) for _ in range(20)]
    read = await session(wire, busy)

    assert [reply.event.version for reply in replies] == list(range(2, 22))
    assert read.version == 1
    assert not waiting.done()
    locks.release(session_ref(busy))
    assert (await waiting).event.version == 2
    assert not locks.held(session_ref(busy))


async def test_a_deadline_is_kept_while_waiting_for_the_session(bar: Bar) -> None:
    """A command whose deadline passes in the queue has no effect, and the next one is served."""
    wire, locks = bar.wire, bar.server.engine.locks
    guest = await new_guest(wire)
    assert locks.try_acquire(session_ref(guest))
    started = time.monotonic()
    failure = await wire.fails(TURN, turn(guest), timeout=0.05)
    took = time.monotonic() - started
    # The server's clock of the call began a little later than the client's.
    while locks._waiting[session_ref(guest)]:
        await asyncio.sleep(0.001)
    locks.release(session_ref(guest))
    reply = await wire(TURN, turn(guest))

    assert failure.status == "DEADLINE_EXCEEDED"
    assert took < 5
    assert reply.event.version == 2
    assert not locks.held(session_ref(guest))


async def test_waiting_for_a_busy_session_is_bounded() -> None:
    """A session that stays busy answers LOCK_TIMEOUT, which says that nothing happened."""
    async with wired(lock_timeout_s=0.05) as (server, wire):
        guest = await new_guest(wire)
        locks = server.engine.locks
        assert locks.try_acquire(session_ref(guest))
        failures = await asyncio.gather(*(wire.fails(TURN, turn(guest)) for _ in range(10)))
        locks.release(session_ref(guest))
        reply = await wire(TURN, turn(guest))

        assert {(each.status, each.reason) for each in failures} == {("ABORTED", "LOCK_TIMEOUT")}
        assert reply.event.version == 2
        assert len(locks) == 0


async def test_cancelled_waiters_do_not_break_the_queue(bar: Bar) -> None:
    """Of those who wait for a busy session, the ones that stay are served in their order."""
    wire, locks = bar.wire, bar.server.engine.locks
    guest = await new_guest(wire)
    assert locks.try_acquire(session_ref(guest))
    calls = [wire.call(TURN, turn(guest, str(at))) for at in range(12)]
    waiting = [asyncio.ensure_future(_text(wire, call, guest)) for call in calls[1::2]]
    queue = locks._waiting[session_ref(guest)]
    async with asyncio.timeout(10):
        while len(queue) < len(calls):
            await asyncio.sleep(0.001)
    for call in calls[::2]:
        call.cancel()
    async with asyncio.timeout(10):
        while len(queue) > len(waiting):
            await asyncio.sleep(0.001)
    locks.release(session_ref(guest))
    texts = await asyncio.gather(*waiting)
    found = await session(wire, guest)

    assert sorted(texts) == sorted(str(at) for at in range(1, 12, 2))
    assert found.version == 1 + len(waiting)
    assert not locks.held(session_ref(guest))


async def _text(wire: Wire, call: Any, guest: str) -> str:
    reply = await call
    return str(reply.event.turn_recorded.messages[0].text)
