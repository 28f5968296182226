"""What other servers commit reaches the watchers here: in order, once, and through outages."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from tests.engine.conftest import AGENT, create, turn
from tests.support.shared import Shared

from maitred.server.config import Settings
from maitred.server.domain import sessions
from maitred.server.engine import hub as hubs
from maitred.server.engine import watchdog
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.ring import RING, Topic
from maitred.server.errors import ConcurrentModification, StoreUnavailable
from maitred.server.kinds.session import session_ref
from maitred.server.stores import base
from maitred.server.stores.memory import MemoryStore
from maitred.v1.event_pb2 import Event
from maitred.v1.session_pb2 import DeleteSessionRequest

REF = session_ref("s1")
SOON_S = 10.0


class Pair(NamedTuple):
    """Two engines on one store, and the second one's way to it."""

    first: Engine
    second: Engine
    store: Shared


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Two engines whose watchdogs are impatient; heartbeats do not disturb."""
    monkeypatch.setattr(watchdog, "EVERY_S", 0.02)
    monkeypatch.setattr(watchdog, "AGAIN_S", 0.02)
    store = MemoryStore()
    info = await store.open()
    ways = Shared(store, info), Shared(store, info)
    first, second = (Engine(way, Settings(heartbeat_s=3600), clock=ManualClock()) for way in ways)
    await first.start()
    await second.start()
    await create(first)
    yield Pair(first, second, ways[1])
    await first.stop()
    await second.stop()
    await store.close()


async def begin(engine: Engine, topic: Topic) -> int:
    """Start a watch as the service does."""
    snapshot = await engine.session("s1")
    topic.begin(snapshot.version, snapshot.state)
    return snapshot.version


async def follow(engine: Engine, upto: int) -> list[int]:
    """Watch from what is until a version is seen; from the ring, else from the log."""
    with engine.hub.watch(REF) as topic:
        at = await begin(engine, topic)
        seen = [at]
        while at < upto:
            assert await engine.hub.news(topic, at)
            entry = topic.after(at)
            if entry is not None:
                at = entry.version
                seen.append(at)
                continue
            for row in await engine.store.events(REF, at, RING):
                at = row.version
                seen.append(at)
    return seen


async def write(engine: Engine, times: int) -> None:
    """Record turns, whatever the other server does meanwhile."""
    done = 0
    while done < times:
        try:
            await engine.execute(turn(), AGENT)
        except ConcurrentModification:
            continue
        done += 1
        await asyncio.sleep(0)


async def until(engine: Engine, topic: Topic, version: int) -> None:
    """Wait until the hub knows of a version."""
    async with asyncio.timeout(SOON_S):
        while topic.version < version:
            await engine.hub.news(topic, topic.version)


async def test_commit_of_another_server_wakes_a_watcher(pair: Pair) -> None:
    """What the first server commits is an entry of the second one's ring, state and all."""
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        done = await pair.first.execute(turn(text="two Negronis"), AGENT)
        await until(pair.second, topic, 2)
        entry, state = topic.after(1), topic.state

    assert entry is not None
    assert entry.event_bytes == done.event
    event = Event.FromString(entry.event_bytes)
    assert event.turn_recorded.messages[0].text == "two Negronis"
    assert state == (await pair.first.session("s1")).state


async def test_watchers_on_both_servers_see_every_version_once(pair: Pair) -> None:
    """Writers on both servers, watchers on both: no version is missed, doubled or out of order."""
    async with asyncio.timeout(60):
        watching = [
            asyncio.create_task(follow(engine, 121))
            for engine in (pair.first, pair.second)
            for _ in range(5)
        ]
        await asyncio.gather(write(pair.first, 60), write(pair.second, 60))
        seen = await asyncio.gather(*watching)

    assert all(one == list(range(one[0], 122)) for one in seen)


async def test_ring_never_has_a_gap(pair: Pair) -> None:
    """However commits of both servers interleave with hints, the ring's versions follow on."""
    chance = random.Random(5)
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        for _ in range(100):
            await chance.choice((pair.first, pair.second)).execute(turn(), AGENT)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            ring = [entry.version for entry in topic.ring]
            assert ring == list(range(ring[0], ring[0] + len(ring))) if ring else True
            assert not ring or ring[-1] <= topic.version
        await until(pair.second, topic, 101)

        assert [entry.version for entry in topic.ring] == list(range(2, 102))


async def test_one_read_serves_all_watchers(pair: Pair) -> None:
    """A thousand watchers of one session cost the store what one costs."""

    async def wait(topic: Topic, at: int) -> int:
        await pair.second.hub.news(topic, at)
        entry = topic.after(at)
        assert entry is not None
        return entry.version

    with pair.second.hub.watch(REF) as topic:
        at = await begin(pair.second, topic)
        waiting = [asyncio.create_task(wait(topic, at)) for _ in range(1000)]
        await asyncio.sleep(0)
        before = pair.store.calls["events"]
        await pair.first.execute(turn(), AGENT)
        seen = await asyncio.gather(*waiting)

    assert set(seen) == {2}
    assert pair.store.calls["events"] == before + 1


async def test_own_commits_are_not_read_back(pair: Pair) -> None:
    """The store hints at this server's commits, too; they are in the ring already."""
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        for _ in range(20):
            await pair.second.execute(turn(), AGENT)
        await until(pair.second, topic, 21)

    assert pair.store.calls["events"] == 0


async def test_nobody_is_asked_while_nobody_watches(pair: Pair) -> None:
    """The store is listened to from the first watcher until the last one has gone."""
    listening = [pair.store.listening]
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        await pair.first.execute(turn(), AGENT)
        await until(pair.second, topic, 2)
        listening.append(pair.store.listening)
    while pair.store.listening:
        await asyncio.sleep(0)
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        await pair.first.execute(turn(), AGENT)
        await until(pair.second, topic, 3)
        listening.append(pair.store.listening)

    assert listening == [0, 1, 1]


async def test_deletion_elsewhere_ends_a_watch_that_was_behind(pair: Pair) -> None:
    """What was erased before it was delivered is no part of the ring; the deletion is."""
    request = DeleteSessionRequest(session_id="s1", reason="asked for")
    command = Command(REF, lambda state, _now: sessions.delete(state, "asked for"), request)
    with pair.second.hub.watch(REF) as topic:
        await begin(pair.second, topic)
        pair.store.lose()
        await write(pair.first, 5)
        await pair.first.forget(command, AGENT)
        pair.store.regain()
        await until(pair.second, topic, 7)
        missed, entry = topic.after(1), topic.after(6)

    assert missed is None
    assert entry is not None
    assert (entry.version, entry.change) == (7, "session_deleted")


async def test_watch_goes_on_when_the_store_is_back(pair: Pair) -> None:
    """A watch outlives a short outage: it is silent meanwhile, and then misses nothing."""
    watching = asyncio.create_task(follow(pair.second, 31))
    while pair.second.hub.topic(REF) is None:
        await asyncio.sleep(0)
    await write(pair.first, 10)
    pair.store.lose()
    while pair.second.watchdog.failure is None:
        await asyncio.sleep(0.001)
    await write(pair.first, 10)
    pair.store.regain()
    await write(pair.first, 10)
    async with asyncio.timeout(SOON_S):
        seen = await watching

    assert seen == list(range(1, 32))


async def test_watch_ends_when_the_store_stays_away(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while a watcher is sent to another server, which its token is good for as well."""
    monkeypatch.setattr(hubs, "PATIENCE_S", 0.05)
    with pair.second.hub.watch(REF) as topic:
        at = await begin(pair.second, topic)
        pair.store.lose()
        async with asyncio.timeout(SOON_S):
            with pytest.raises(StoreUnavailable):
                await pair.second.hub.news(topic, at)
        pair.store.regain()
        while pair.second.watchdog.failure is not None:
            await asyncio.sleep(0.001)
        await pair.first.execute(turn(), AGENT)
        async with asyncio.timeout(SOON_S):
            told = await pair.second.hub.news(topic, at)

    assert told


async def test_outage_is_no_heartbeat(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat says that nothing was missed, so there is none while nobody knows."""
    monkeypatch.setattr(hubs, "PATIENCE_S", 0.2)
    hub = pair.second.hub
    hub._heartbeat_s = 0.001
    with hub.watch(REF) as topic:
        at = await begin(pair.second, topic)
        hub._tick()
        assert await hub.news(topic, at) is False
        pair.store.lose()
        while pair.second.watchdog.failure is None:
            await asyncio.sleep(0.001)
        with pytest.raises(StoreUnavailable):
            await hub.news(topic, at)


async def test_calls_fail_at_once_while_the_store_is_away(pair: Pair) -> None:
    """Nobody waits for what is known: the second call of an outage costs no question."""
    pair.store.lose()
    while pair.second.watchdog.failure is None:
        await asyncio.sleep(0.001)
    submitted = len(pair.store.submitted)
    for call in (pair.second.session("s1"), pair.second.execute(turn(), AGENT)):
        with pytest.raises(base.StoreUnavailable):
            await call

    assert len(pair.store.submitted) == submitted


async def test_watchers_of_everything_are_woken(pair: Pair) -> None:
    """Who watches all sessions learns of another server's commits, and nobody looks for nobody."""
    hub = pair.second.hub
    with hub.watch_everything() as everything:
        async with asyncio.timeout(SOON_S):
            await hub.news(everything, everything.version)
            cursor = await pair.store.feed_end()
            seen = everything.version
            await pair.first.execute(turn(), AGENT)
            assert await hub.news(everything, seen)
        rows = await pair.store.feed(cursor, 10)
    async with asyncio.timeout(SOON_S):
        while pair.second._follower._tasks:
            await asyncio.sleep(0)

    assert [(row.ref, row.version) for row in rows] == [(REF, 2)]


async def test_wake_up_takes_no_longer_than_the_hint(pair: Pair) -> None:
    """From a commit on one server to the watcher on the other: half of all below 100 ms."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    with pair.second.hub.watch(REF) as topic:
        at = await begin(pair.second, topic)
        for _ in range(50):
            await pair.first.execute(turn(), AGENT)
            committed = loop.time()
            await until(pair.second, topic, at + 1)
            took.append(loop.time() - committed)
            at += 1

    assert statistics.median(took) < 0.1
