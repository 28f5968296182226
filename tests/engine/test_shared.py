"""Two engines on one store: no memory is ever the reason for a refusal or a wrong read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import pytest
from tests.engine.conftest import AGENT, DEFAULTS, create, turn
from tests.support.shared import Shared

from maitred.server.config import Settings
from maitred.server.domain import sessions
from maitred.server.engine import committer
from maitred.server.engine.cache import Latest
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.errors import ConcurrentModification
from maitred.server.kinds.session import SESSION, session_ref
from maitred.server.stores.base import HeadFilter, OutcomeUnknown, Ref
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.faulty import Fault
from maitred.v1.session_pb2 import (
    CloseSessionRequest,
    CreateSessionRequest,
    DeleteSessionRequest,
    ExtendSessionRequest,
)
from maitred.v1.state_pb2 import SESSION_STATUS_EXPIRED


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Engine, Engine]]:
    """Two engines that share one store."""
    store = MemoryStore()
    info = await store.open()
    first, second = (Engine(Shared(store, info), Settings(), clock=ManualClock()) for _ in range(2))
    await first.start()
    await second.start()
    yield first, second
    await first.stop()
    await second.stop()
    await store.close()


def reopening(expected_version: int | None = None) -> Command:
    """A command that an empty tab allows and a stale memory may refuse."""
    request = CloseSessionRequest(session_id="s1", request_id="close")
    if expected_version is not None:
        request.expected_version = expected_version
    return Command(
        session_ref("s1"), lambda state, _now: sessions.close(state, "", staff=False), request
    )


def extending() -> Command:
    """A sign of life."""
    request = ExtendSessionRequest(session_id="s1")
    return Command(session_ref("s1"), lambda state, _now: sessions.extend(state, request), request)


async def begin_visit(engine: Engine) -> None:
    """Open a session whose id had one that ended."""
    request = CreateSessionRequest(session_id="s1")
    command = Command(
        session_ref("s1"),
        lambda state, _now: sessions.create(state, request, "s1", DEFAULTS),
        request,
        ended=True,
        create=True,
    )
    await engine.execute(command, AGENT)


def _clock(engine: Engine) -> ManualClock:
    assert isinstance(engine.clock, ManualClock)
    return engine.clock


async def test_read_sees_what_the_other_server_wrote(pair: tuple[Engine, Engine]) -> None:
    """A read is never answered from a memory that another server made stale."""
    first, second = pair
    await create(first)
    await second.session("s1")
    await first.execute(turn(), AGENT)

    assert (await second.session("s1")).version == 2


async def test_refusal_rests_on_the_newest_version(pair: tuple[Engine, Engine]) -> None:
    """A precondition that holds in the store is not refused because of an older memory."""
    first, second = pair
    await create(first)
    await second.execute(turn(), AGENT)
    await first.execute(turn(), AGENT)
    result = await second.execute(turn(expected_version=3), AGENT)

    assert result.version == 4


async def test_replay_is_found_across_servers(pair: tuple[Engine, Engine]) -> None:
    """A retry at another server gives the one result."""
    first, second = pair
    await create(first)
    done = await first.execute(turn(request_id="r1"), AGENT)
    again = await second.execute(turn(request_id="r1"), AGENT)

    assert again.replayed
    assert again.event == done.event


async def test_mixed_writes_on_both_servers_lose_nothing(pair: tuple[Engine, Engine]) -> None:
    """Concurrent writers on two servers make consecutive versions and keep every write."""
    first, second = pair
    await create(first)
    await asyncio.gather(
        *(
            engine.execute(turn(request_id=f"{at}"), AGENT)
            for at, engine in enumerate((first, second) * 4)
        )
    )
    log = await first.events(session_ref("s1"), 0, 100)

    assert [event.version for event in log] == list(range(1, 10))
    assert (await second.session("s1")).state.conversation.turn_count == 8
    assert (await first.verify(session_ref("s1"))).valid


async def test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay(
    pair: tuple[Engine, Engine],
) -> None:
    """Replay comes before lifecycle also where another server did the work."""
    first, second = pair
    await create(first)
    await second.session("s1")
    await first.execute(reopening(), AGENT)
    again = await second.execute(reopening(expected_version=1), AGENT)

    assert again.replayed


async def test_an_expiry_is_built_on_the_state_that_was_judged(
    pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extended elsewhere while it was found overdue, a session does not expire."""
    first, second = pair
    await create(first)
    await second.session("s1")
    _clock(first).advance(3599)
    _clock(second).advance(3601)
    judged = second.store.versions

    async def extended_meanwhile(refs: Iterable[Ref]) -> dict[Ref, int]:
        versions = await judged(refs)
        monkeypatch.setattr(second.store, "versions", judged)
        await first.execute(extending(), AGENT)
        # A read of the same server remembers the newer state before the expiry is built.
        assert (await second.reader.head(session_ref("s1"))) is not None
        return versions

    monkeypatch.setattr(second.store, "versions", extended_meanwhile)
    result = await second.execute(turn(), AGENT)
    log = await first.events(session_ref("s1"), 0, 10)

    assert [event.WhichOneof("change") for event in log] == [
        "session_created",
        "session_extended",
        "turn_recorded",
    ]
    assert result.version == 3


async def test_a_sweep_erases_nothing_that_came_back(
    pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun anew between the look and the lock, a session is not erased for its old end."""
    first, second = pair
    await create(first)
    await first.execute(reopening(), AGENT)
    for engine in pair:
        _clock(engine).advance(Settings().retention_seconds + 1)
    looked = second.reader.head

    async def begun_anew(ref: Ref) -> Latest | None:
        head = await looked(ref)
        monkeypatch.setattr(second.reader, "head", looked)
        await begin_visit(first)
        # Overdue by now: there is something to do, but not what was seen to be done.
        _clock(second).advance(3601)
        return head

    monkeypatch.setattr(second.reader, "head", begun_anew)
    swept = await Sweeper(second).sweep(10)

    assert (swept.deleted, swept.expired) == (0, 1)
    assert (await first.session("s1")).state.status == SESSION_STATUS_EXPIRED


async def test_reads_of_a_server_never_go_back(pair: tuple[Engine, Engine]) -> None:
    """Whoever was shown version v + 1 by a server, in whatever way, is not shown v afterwards."""
    first, second = pair
    await create(first)
    writing = True
    shown = 1

    async def write(engine: Engine) -> None:
        for _ in range(40):
            with contextlib.suppress(ConcurrentModification):
                await engine.execute(turn(), AGENT)

    async def look(at: int) -> None:
        nonlocal shown
        while writing:
            before = shown
            if at % 3 == 0:
                seen = (await second.events(session_ref("s1"), 0, 200))[-1].version
            elif at % 3 == 1:
                heads = await second.store.list_heads(SESSION, HeadFilter(), None, 1)
                seen = heads[0].version
            else:
                seen = (await second.session("s1")).version
            assert seen >= before
            shown = max(shown, seen)
            await asyncio.sleep(0)

    looking = [asyncio.create_task(look(at)) for at in range(9)]
    await asyncio.gather(write(first), write(second), write(second))
    writing = False
    await asyncio.gather(*looking)

    assert shown > 40


async def test_unknown_outcome_stays_unknown_while_the_store_is_away(
    pair: tuple[Engine, Engine],
) -> None:
    """A commit that was applied is not called undone because it could not be submitted again."""
    first, second = pair
    await create(first)
    store = first.store
    assert isinstance(store, Shared)
    store.fail_writes(Fault.UNKNOWN_APPLIED, Fault.UNAVAILABLE, Fault.FULL)
    result = await first.execute(turn(), AGENT)

    assert (result.version, result.replayed) == (2, False)
    assert (await second.session("s1")).state.conversation.turn_count == 1


async def test_unknown_outcome_is_told_in_time(
    pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller is told that it is unknown; the same request, sent again, gives the one result."""
    monkeypatch.setattr(committer, "ANSWER_S", 0.01)
    first, _ = pair
    await create(first)
    store = first.store
    assert isinstance(store, Shared)
    store.fail_writes(Fault.UNKNOWN_APPLIED, *[Fault.UNAVAILABLE] * 2)
    with pytest.raises(OutcomeUnknown):
        await first.execute(turn(request_id="r1"), AGENT)
    again = await first.execute(turn(request_id="r1"), AGENT)

    assert (again.version, again.replayed) == (2, True)


async def test_deletion_of_unknown_outcome_is_finished(pair: tuple[Engine, Engine]) -> None:
    """A deletion that happened is not called refused because it could not be repeated at once."""
    first, _ = pair
    await create(first)
    store = first.store
    assert isinstance(store, Shared)
    store.fail_writes(Fault.UNKNOWN_APPLIED, Fault.UNAVAILABLE)
    request = DeleteSessionRequest(session_id="s1", request_id="away", reason="asked for")
    command = Command(
        session_ref("s1"), lambda state, _now: sessions.delete(state, request.reason), request
    )
    result = await first.forget(command, AGENT)

    assert result.version == 2


async def test_engine_stops_while_an_outcome_is_unknown(
    pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that never comes back does not keep a server from stopping; the call is told."""
    monkeypatch.setattr(committer, "DRAIN_S", 0.05)
    first, second = pair
    await create(first)
    store = first.store
    assert isinstance(store, Shared)
    store.fail_writes(Fault.UNKNOWN_ABSENT, *[Fault.UNAVAILABLE] * 50)
    calling = asyncio.create_task(first.execute(turn(), AGENT))
    while first.committer.in_flight == 0:
        await asyncio.sleep(0)
    await first.stop()

    with pytest.raises(OutcomeUnknown):
        await calling
    assert (await second.session("s1")).version == 1
