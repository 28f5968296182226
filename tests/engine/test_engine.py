"""The engine keeps its order of checks and its promises under cancellation, replay and failure."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.conftest import AGENT, create, turn

from maitred.server.domain import sessions
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.errors import (
    ConcurrentModification,
    DeadlineExceeded,
    InvalidSession,
    LockTimeout,
    RequestIdReused,
    SessionDeleted,
    SessionExpired,
)
from maitred.server.kinds.session import session_ref
from maitred.server.stores.base import CorruptData, Store, StoreFull, StoreUnavailable
from maitred.server.testing.faulty import Fault, FaultyStore
from maitred.v1.event_pb2 import Event
from maitred.v1.session_pb2 import CloseSessionRequest, DeleteSessionRequest
from maitred.v1.state_pb2 import SESSION_STATUS_CLOSED, SESSION_STATUS_EXPIRED, Session


def closing(**fields: Any) -> Command:
    """A command that closes the session."""
    request = CloseSessionRequest(session_id="s1", **fields)
    return Command(
        session_ref("s1"), lambda state, _now: sessions.close(state, "", staff=False), request
    )


async def test_lock_is_kept_until_the_commit_is_known(engine: Engine) -> None:
    """A call that is cancelled while its commit is under way does not free the session."""
    await create(engine)
    task = asyncio.create_task(engine.execute(turn(), AGENT))
    while not engine.committer.in_flight:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert not engine.committer.in_flight or engine.locks.held(session_ref("s1"))
    await engine.committer.drain()
    assert not engine.locks.held(session_ref("s1"))


async def test_a_lock_that_comes_after_the_deadline_is_not_used(engine: Engine) -> None:
    """However late a busy loop hands it over: who called has been told that nothing happened."""
    await create(engine)
    ref = session_ref("s1")
    assert engine.locks.try_acquire(ref)
    soon = dataclasses.replace(AGENT, deadline=time.monotonic() + 0.01)
    waiting = asyncio.create_task(engine.execute(turn(), soon))
    await asyncio.sleep(0)
    # The loop is held up past the deadline; the timer of the lock had no chance.
    while soon.deadline is not None and time.monotonic() <= soon.deadline:
        pass
    engine.locks.release(ref)
    with pytest.raises(DeadlineExceeded):
        await waiting

    assert (await engine.session("s1")).version == 1
    assert not engine.locks.held(ref)


async def test_every_event_makes_the_next_version(engine: Engine) -> None:
    """Versions are consecutive from 1 and the answer shows the state after the event."""
    await create(engine)
    versions = [(await engine.execute(turn(), AGENT)).version for _ in range(3)]

    assert versions == [2, 3, 4]
    assert (await engine.session("s1")).state.conversation.turn_count == 3


async def test_same_request_is_answered_with_its_event_and_the_state_as_it_is_now(
    engine: Engine,
) -> None:
    """A replay has the first event, the present state and no second effect."""
    await create(engine)
    first = await engine.execute(turn(request_id="r1"), AGENT)
    await engine.execute(turn(), AGENT)
    again = await engine.execute(turn(request_id="r1"), AGENT)

    assert again.replayed
    assert again.event == first.event
    assert again.version == 3


async def test_same_request_id_with_another_request_is_refused(engine: Engine) -> None:
    """A request id names one request."""
    await create(engine)
    await engine.execute(turn(request_id="r1", text="a"), AGENT)

    with pytest.raises(RequestIdReused):
        await engine.execute(turn(request_id="r1", text="b"), AGENT)


async def test_replay_comes_before_the_version_check(engine: Engine) -> None:
    """A retry whose expected version has passed by its own first effect is a replay."""
    await create(engine)
    first = await engine.execute(turn(request_id="r1", expected_version=1), AGENT)
    again = await engine.execute(turn(request_id="r1", expected_version=1), AGENT)

    assert again.replayed
    assert again.event == first.event


async def test_replay_comes_before_lifecycle(engine: Engine) -> None:
    """A retry of the command that closed the session is answered as the first time."""
    await create(engine)
    await engine.execute(closing(request_id="c1"), AGENT)
    again = await engine.execute(closing(request_id="c1"), AGENT)

    assert again.replayed
    assert Session.FromString(again.body).status == SESSION_STATUS_CLOSED


async def test_wrong_version_is_refused_and_named(engine: Engine) -> None:
    """The refusal tells the version that was found."""
    await create(engine)

    with pytest.raises(ConcurrentModification) as refused:
        await engine.execute(turn(expected_version=7), AGENT)
    assert refused.value.metadata["current_version"] == "1"
    assert (await engine.session("s1")).version == 1


async def test_unknown_session_is_refused(engine: Engine) -> None:
    """Nothing is created by a command that needs a session."""
    with pytest.raises(InvalidSession):
        await engine.execute(turn("nobody"), AGENT)


async def test_concurrent_same_request_has_one_effect(engine: Engine) -> None:
    """Of many concurrent deliveries of one request one takes effect."""
    await create(engine)
    results = await asyncio.gather(
        *(engine.execute(turn(request_id="r1"), AGENT) for _ in range(20))
    )

    assert sum(not result.replayed for result in results) == 1
    assert {result.event for result in results} == {results[0].event}
    assert (await engine.session("s1")).version == 2


async def test_one_of_many_at_one_expected_version_wins(engine: Engine) -> None:
    """A version can be used up once."""
    await create(engine)
    results = await asyncio.gather(
        *(engine.execute(turn(expected_version=1), AGENT) for _ in range(20)),
        return_exceptions=True,
    )

    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert sum(isinstance(result, ConcurrentModification) for result in results) == 19


async def test_overdue_session_expires_before_it_refuses(
    engine: Engine, clock: ManualClock
) -> None:
    """A command on an overdue session commits the expiry, then is refused."""
    await create(engine)
    clock.advance(3601)

    with pytest.raises(SessionExpired):
        await engine.execute(turn(), AGENT)
    snapshot = await engine.session("s1")
    assert snapshot.state.status == SESSION_STATUS_EXPIRED
    assert snapshot.version == 2


async def test_overdue_session_refuses_as_expired_also_at_the_right_version(
    engine: Engine, clock: ManualClock
) -> None:
    """The version that the expiry itself makes is not held against the caller."""
    await create(engine)
    clock.advance(3601)

    with pytest.raises(SessionExpired):
        await engine.execute(turn(expected_version=1), AGENT)


async def test_replay_comes_before_expiry(engine: Engine, clock: ManualClock) -> None:
    """A retry that arrives after the session is overdue is answered as the first time."""
    await create(engine)
    await engine.execute(turn(request_id="r1"), AGENT)
    clock.advance(3601)
    again = await engine.execute(turn(request_id="r1"), AGENT)

    assert again.replayed
    assert again.parsed_event().version == 2  # type: ignore[union-attr]
    # The state beside it is what a read shows now.
    assert Session.FromString(again.body).status == SESSION_STATUS_EXPIRED


async def test_time_never_goes_back_within_an_aggregate(engine: Engine, clock: ManualClock) -> None:
    """An event is not stamped before the one that it follows, whatever the clock does."""
    await create(engine)
    clock.advance(-60)
    await engine.execute(turn(), AGENT)
    first, second = await engine.events(session_ref("s1"), 0, 10)

    assert second.time.ToNanoseconds() >= first.time.ToNanoseconds()


async def test_cancelled_commands_leave_nothing_half_done(engine: Engine) -> None:
    """Clients that cancel at random lose no write, wedge no lock and hide no event."""
    await create(engine)
    seed = random.Random(7)
    published: list[int] = []
    engine.committer.listeners.append(
        lambda _ref, _change, event, _state: published.append(event.version)
    )

    async def storm(at: int) -> None:
        task = asyncio.create_task(engine.execute(turn(request_id=f"r{at}"), AGENT))
        for _ in range(seed.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _round in range(10):
        await asyncio.gather(*(storm(at) for at in range(_round * 20, _round * 20 + 20)))
    await engine.committer.drain()
    settled = await engine.execute(turn(request_id="last"), AGENT)

    log = await engine.events(session_ref("s1"), 0, 1000)
    assert [event.version for event in log] == list(range(1, settled.version + 1))
    assert published == list(range(2, settled.version + 1))
    assert len(engine.locks) == 0
    assert (await engine.verify(session_ref("s1"))).valid


async def test_waiting_for_the_lock_is_bounded(
    build: Callable[[Store], Engine], store: FaultyStore
) -> None:
    """Who cannot get the lock in time is told so, and leaves no trace."""
    engine = build(store)
    await engine.start()
    await create(engine)
    await engine.locks.acquire(session_ref("s1"))
    waiting = asyncio.create_task(engine.locks.acquire(session_ref("s1"), timeout_s=0.01))

    with pytest.raises(LockTimeout):
        await waiting
    engine.locks.release(session_ref("s1"))
    assert len(engine.locks) == 0


async def test_lock_handed_to_a_cancelled_waiter_goes_on(engine: Engine) -> None:
    """A waiter that is cancelled in the moment it gets the lock passes it on."""
    ref = session_ref("s1")
    await engine.locks.acquire(ref)
    first = asyncio.create_task(engine.locks.acquire(ref))
    second = asyncio.create_task(engine.locks.acquire(ref))
    await asyncio.sleep(0)
    engine.locks.release(ref)
    first.cancel()
    await second
    await asyncio.gather(first, return_exceptions=True)
    engine.locks.release(ref)

    assert len(engine.locks) == 0


async def test_erased_session_answers_its_deletion_again_and_nothing_else(engine: Engine) -> None:
    """A tombstone replays the deletion, refuses the rest and keeps the id taken."""
    await create(engine)
    request = DeleteSessionRequest(session_id="s1", request_id="d1", reason="asked for")
    command = Command(
        session_ref("s1"),
        lambda state, _now: sessions.delete(state, "asked for"),
        request,
        ended=True,
    )
    first = await engine.forget(command, AGENT)
    again = await engine.forget(command, AGENT)

    assert not first.replayed
    assert again.replayed
    with pytest.raises(SessionDeleted):
        await engine.session("s1")
    with pytest.raises(SessionDeleted):
        await create(engine)


async def test_sweep_expires_and_at_last_erases(engine: Engine, clock: ManualClock) -> None:
    """The sweeper expires idle sessions and erases them when their retention ends."""
    await create(engine)
    sweeper = Sweeper(engine)
    clock.advance(3601)
    expired = await sweeper.sweep(10)
    clock.advance(engine.settings.retention_seconds + 1)
    deleted = await sweeper.sweep(10)

    assert (expired.expired, expired.deleted) == (1, 0)
    assert (deleted.expired, deleted.deleted) == (0, 1)
    with pytest.raises(SessionDeleted):
        await engine.session("s1")


async def test_personal_text_is_kept_apart_from_the_facts(engine: Engine) -> None:
    """Message text stands in the erasable part of a row only; redaction leaves the log whole."""
    await create(engine)
    await engine.execute(turn(text="my secret wish"), AGENT)
    ref = session_ref("s1")
    row = (await engine.store.events(ref, 1, 1))[0]
    shown = (await engine.events(ref, 1, 1))[0]
    await engine.store.redact(ref, [2])
    erased = (await engine.events(ref, 1, 1))[0]

    assert b"secret" not in row.facts
    assert shown.turn_recorded.messages[0].text == "my secret wish"
    assert erased.turn_recorded.messages[0].text == ""
    assert (await engine.verify(ref)).valid


async def test_past_states_are_folded_from_the_log(engine: Engine) -> None:
    """A session can be read as it was at any version."""
    await create(engine)
    seen = [await engine.session("s1")]
    for _ in range(5):
        await engine.execute(turn(), AGENT)
        seen.append(await engine.session("s1"))

    for snapshot in seen:
        past = await engine.session("s1", at_version=snapshot.version)
        assert past.state == snapshot.state


async def test_events_carry_who_and_when(engine: Engine, clock: ManualClock) -> None:
    """The actor comes from the call and the time from the clock."""
    await create(engine)
    event = (await engine.events(session_ref("s1"), 0, 1))[0]

    assert isinstance(event, Event)
    assert event.actor == "tester"
    assert event.time.ToNanoseconds() == clock.now_ns()


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.FULL, StoreFull), (Fault.UNAVAILABLE, StoreUnavailable)]
)
async def test_failed_commit_changes_nothing_and_the_next_one_works(
    engine: Engine, store: FaultyStore, fault: Fault, error: type[Exception]
) -> None:
    """After a certain failure the state is the old one and the lock is free."""
    await create(engine)
    store.fail_writes(fault)

    with pytest.raises(error):
        await engine.execute(turn(request_id="r1"), AGENT)
    assert (await engine.session("s1")).version == 1
    retried = await engine.execute(turn(request_id="r1"), AGENT)
    assert (retried.version, retried.replayed) == (2, False)


@pytest.mark.parametrize("fault", [Fault.CONFLICT, Fault.UNKNOWN_APPLIED, Fault.UNKNOWN_ABSENT])
async def test_conflicts_and_unknown_outcomes_are_resolved_by_the_engine(
    engine: Engine, store: FaultyStore, fault: Fault
) -> None:
    """The caller sees one result, applied once, as if nothing had happened."""
    await create(engine)
    store.fail_writes(fault)
    result = await engine.execute(turn(request_id="r1"), AGENT)

    assert (result.version, result.replayed) == (2, False)
    assert len(await engine.events(session_ref("s1"), 0, 10)) == 2
    assert (await engine.verify(session_ref("s1"))).valid


async def test_commit_applied_late_is_found_by_submitting_it_again(
    engine: Engine, store: FaultyStore
) -> None:
    """A commit that turns up late is recognised as our own, not as a conflict."""
    await create(engine)
    store.fail_writes(Fault.APPLIED_LATE)
    waiting = asyncio.create_task(engine.execute(turn(request_id="r1"), AGENT))
    while len(store.submitted) < 2:
        await asyncio.sleep(0)
    await store.release()
    result = await waiting

    assert (result.version, result.replayed) == (2, False)
    assert len(await engine.events(session_ref("s1"), 0, 10)) == 2


async def test_corrupt_bytes_are_never_read_as_absent(engine: Engine, store: FaultyStore) -> None:
    """Data that cannot be trusted is an error, not a missing session."""
    await create(engine)
    engine.cache.drop(session_ref("s1"))
    store.fail_reads(Fault.CORRUPT)

    with pytest.raises(CorruptData):
        await engine.session("s1")
