"""When Redis, its settings or the network fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.redis import RedisServer, opened_redis

from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Claim,
    Commit,
    Committed,
    Conflict,
    Outcome,
    OutcomeUnknown,
    Ref,
    RowFilter,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.redis import RedisStore, gateway
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.samples import new_append, new_commit, new_ref, new_row, put, start


@asynccontextmanager
async def behind_proxy(own_redis: RedisServer) -> AsyncIterator[tuple[RedisStore, Proxy]]:
    """Open a store behind a proxy."""
    async with (
        Proxy(own_redis.address) as proxy,
        opened_redis(f"redis://{proxy.address}/0") as store,
    ):
        yield store, proxy


async def settle(store: Store, commit: Commit) -> Outcome | StoreError:
    """Submit a commit, as the engine does, again and again until its outcome is known."""
    while isinstance(answer := await put(store, commit), OutcomeUnknown):
        await asyncio.sleep(0.01)
    return answer


async def lose_reply(proxy: Proxy, asked: asyncio.Future[Any]) -> Any:
    """Let the server do what it is asked, and lose its reply."""
    before = proxy.swallowed
    proxy.drop_replies = True
    while proxy.swallowed == before:
        await asyncio.sleep(0)
    proxy.cut()
    proxy.drop_replies = False
    return await asked


# ---------------------------------------------------------------- lost replies


async def test_a_lost_reply_is_unknown_until_it_is_known(own_redis: RedisServer) -> None:
    """The commit is applied once; while Redis cannot be reached its outcome stays unknown."""
    ref = new_ref()
    commit = new_commit(ref, 0)
    async with behind_proxy(own_redis) as (store, proxy):
        assert isinstance(await lose_reply(proxy, start(store, commit)), OutcomeUnknown)
        proxy.refuse = True
        assert isinstance(await put(store, commit), OutcomeUnknown)
        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        proxy.refuse = False

        assert await put(store, commit) == Committed()
        assert await put(store, new_commit(ref, 1)) == Committed()
        assert await put(store, commit) == Committed()
        assert [event.version for event in await store.events(ref, 0, 9)] == [1, 2]


async def test_a_rival_may_win_while_the_outcome_is_unknown(own_redis: RedisServer) -> None:
    """Then the commit turns out as a conflict, or as applied below the rival's."""
    ref = new_ref()
    mine, rival = new_commit(ref, 0), new_commit(ref, 1)
    async with behind_proxy(own_redis) as (store, proxy), opened_redis(own_redis.url()) as other:
        assert isinstance(await lose_reply(proxy, start(store, mine)), OutcomeUnknown)
        assert await put(other, rival) == Committed()
        assert await put(store, mine) == Committed()
        proxy.refuse = True
        late = new_commit(ref, 1)
        proxy.cut()
        assert isinstance(await put(store, late), OutcomeUnknown | StoreUnavailable)
        proxy.refuse = False

        assert await put(store, late) == Conflict(ref, 2, rival.appends[0].commit_id)


async def test_a_lost_reply_is_not_asked_for_twice_by_the_driver(own_redis: RedisServer) -> None:
    """What writes is sent once, and its author is told that nothing is known."""
    ref = new_ref()
    async with behind_proxy(own_redis) as (store, proxy):
        await put(store, new_commit(ref, 0, wake_at_ns=5))
        lease = asyncio.ensure_future(store.lease("sweeper", "a", 0))
        with pytest.raises(OutcomeUnknown):
            await lose_reply(proxy, lease)
        again = await store.lease("sweeper", "b", 60)
        assert again is not None
        assert again.token == 2
        forgetting = asyncio.ensure_future(store.forget(ref, 1, last := new_append(ref, 1)))
        with pytest.raises(OutcomeUnknown):
            await lose_reply(proxy, forgetting)

        assert await store.forget(ref, 1, last) == Committed()
        assert [event.version for event in await store.feed(b"", 9)] == [2]


@pytest.mark.parametrize("seed", range(3))
async def test_connections_cut_under_load_double_nothing(own_redis: RedisServer, seed: int) -> None:
    """Requests and replies are lost at any point: every commit is there exactly once."""
    chance = random.Random(seed)
    refs = [new_ref() for _ in range(8)]
    written = 0
    async with opened_redis(own_redis.url()) as witness, behind_proxy(own_redis) as (store, proxy):

        async def write(ref: Ref) -> None:
            nonlocal written
            for base in range(60):
                commit = new_commit(ref, base)
                while (answer := await settle(store, commit)) != Committed():
                    assert isinstance(answer, StoreUnavailable)
                written += 1

        async def cut() -> None:
            while written < 400:
                goal = written + chance.randrange(1, 30)
                while written < min(goal, 400):
                    await asyncio.sleep(0)
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
                proxy.cut()

        await asyncio.gather(cut(), *map(write, refs))

        assert proxy.cuts >= 10
        for ref in refs:
            events = await witness.events(ref, 0, 999)
            assert [event.version for event in events] == list(range(1, 61))
        assert len(await witness.feed(b"", 9999)) == 8 * 60


def test_a_transport_that_uvloop_has_closed_is_a_lost_connection(own_redis: RedisServer) -> None:
    """uvloop, which servers run on, has an error of its own for it; the store works on."""
    uvloop = pytest.importorskip("uvloop", reason="not on Windows")
    ref = new_ref()

    async def close_and_go_on() -> None:
        async with opened_redis(own_redis.url()) as store:
            assert await put(store, new_commit(ref, 0)) == Committed()
            # The driver does not know of it yet, as where Redis ends in this very moment.
            assert store._writer is not None
            connections: list[Any] = [*store._gateway._pool._available_connections]
            connections.append(store._writer._connection)
            for connection in connections:
                connection._writer.transport.abort()
            await asyncio.sleep(0)
            assert await store.versions([ref]) == {ref: 1}
            assert await settle(store, new_commit(ref, 1)) == Committed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(close_and_go_on())


async def test_a_cancelled_read_leaves_no_answer_for_the_next(own_redis: RedisServer) -> None:
    """A connection that was left in the middle is not used again."""
    async with opened_redis(own_redis.url()) as store:
        refs = [new_ref() for _ in range(10)]
        for ref in refs:
            await put(store, new_commit(ref, 0))
        for number in range(100):
            reading = asyncio.ensure_future(store.load(refs[number % 10]))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            loaded = await store.load(refs[(number + 1) % 10])
            assert loaded is not None
            assert loaded.ref == refs[(number + 1) % 10]
            other = await store.events(refs[(number + 2) % 10], 0, 9)
            assert [event.ref for event in other] == [refs[(number + 2) % 10]]


# ---------------------------------------------------------------- Redis goes away


async def test_acknowledged_commits_survive_kill_9(own_redis: RedisServer) -> None:
    """Killed and started again under load: nothing acknowledged is lost, nothing is doubled."""
    acknowledged: dict[Ref, list[bytes]] = {new_ref(): [] for _ in range(8)}
    stop = False

    async def write(store: Store, ref: Ref) -> None:
        while not stop:
            commit = new_commit(ref, len(acknowledged[ref]))
            while not isinstance(answer := await settle(store, commit), Committed):
                # Certainly not applied, so the same base is right.
                assert isinstance(answer, StoreUnavailable), answer
                await asyncio.sleep(0.01)
            acknowledged[ref].append(commit.appends[0].commit_id)

    def count() -> int:
        return sum(map(len, acknowledged.values()))

    async with opened_redis(own_redis.url()) as store:
        writers = [asyncio.create_task(write(store, ref)) for ref in acknowledged]
        for _ in range(5):
            before = count()
            while count() < before + 200:
                await asyncio.sleep(0.001)
            own_redis.kill()
            await asyncio.to_thread(own_redis.start)
        stop = True
        await asyncio.gather(*writers)

        for ref, commits in acknowledged.items():
            events = await store.events(ref, 0, 99_999)
            assert [event.commit_id for event in events] == commits
            assert [event.version for event in events] == list(range(1, len(commits) + 1))
        assert len(await store.feed(b"", 99_999)) == count()


@pytest.mark.parametrize("seed", range(3))
async def test_a_torn_log_loses_whole_commits_only(own_redis: RedisServer, seed: int) -> None:
    """Wherever a power cut ends the log, each commit is in it with everything or with nothing."""
    chance = random.Random(seed)
    refs = [new_ref() for _ in range(3)]
    commits: list[Commit] = []
    async with opened_redis(own_redis.url()) as store:
        for base in range(12):
            appends = tuple(new_append(ref, base, wake_at_ns=base + 1) for ref in refs)
            row = new_row(Table.ORDERS, refs[0], key=str(base), status=base)
            claim = Claim("channel", str(base), refs[0].id)
            commits.append(Commit(appends, (claim,), (), (row,)))
            assert await put(store, commits[-1]) == Committed()
    for _ in range(8):
        own_redis.stop()
        log = own_redis.append_only_file()
        with log.open("r+b") as file:
            file.truncate(log.stat().st_size - chance.randrange(1, 1500))
        await asyncio.to_thread(own_redis.start)
        async with opened_redis(own_redis.url()) as store:
            (version,) = set((await store.versions(refs)).values())
            feed = await store.feed(b"", 999)
            assert [event.version for event in feed] == [n // 3 + 1 for n in range(3 * version)]
            for ref in refs:
                loaded = await store.load(ref, commits[version - 1].appends[0].request_id)
                assert loaded is not None
                assert loaded.wake_at_ns == version
                assert len(await store.events(ref, 0, 99)) == version
            rows = await store.list_rows(Table.ORDERS, RowFilter(), None, 99, newest_first=False)
            assert [row.key for row in rows] == [str(n) for n in range(version)]
            for number in range(12):
                owned = await store.claim("channel", str(number))
                assert (owned is not None) == (number < version)
            for commit in commits:
                assert await put(store, commit) == Committed()


async def test_everything_works_again_when_redis_is_back(own_redis: RedisServer) -> None:
    """Reads, commits, timers and change hints recover without a restart."""
    ref = new_ref()
    async with opened_redis(own_redis.url()) as store:
        await put(store, new_commit(ref, 0))
        changes = store.changed({ref: 1})
        hint = asyncio.ensure_future(anext(changes))
        own_redis.stop()
        for reading in (store.load(ref), store.feed(b"", 1), store.due(1, 1, "a", 1)):
            with pytest.raises(StoreUnavailable):
                await reading
        assert isinstance(await put(store, new_commit(ref, 1)), OutcomeUnknown | StoreUnavailable)
        await asyncio.to_thread(own_redis.start)

        loaded = await store.load(ref)
        assert loaded is not None
        assert await put(store, new_commit(ref, loaded.version)) == Committed()
        assert await asyncio.wait_for(hint, 10) == {ref}
        await changes.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_another_history_is_never_taken_for_the_old_one(own_redis: RedisServer) -> None:
    """Emptied under a running store, Redis gives neither absence nor room for a commit."""
    ref = new_ref()
    async with opened_redis(own_redis.url()) as store:
        await put(store, new_commit(ref, 0))
        await own_redis.ask("FLUSHALL")
        with pytest.raises(StoreUnavailable, match="history"):
            await store.load(ref)
        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        assert await own_redis.ask("KEYS", "*") == []
        fresh = RedisStore(own_redis.url())
        info = await fresh.open()
        await fresh.close()

        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        assert info.epoch


async def test_a_demoted_primary_refuses(own_redis: RedisServer) -> None:
    """A commit on what has become a replica is certainly not applied."""
    ref = new_ref()
    async with opened_redis(own_redis.url()) as store:
        await put(store, new_commit(ref, 0))
        with RedisServer() as primary:
            await own_redis.ask("REPLICAOF", "127.0.0.1", str(primary.port))
            answers = [await put(store, new_commit(ref, 1)) for _ in range(2)]
            await own_redis.ask("REPLICAOF", "NO", "ONE")
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2


async def test_too_few_replicas_are_a_refusal(own_redis: RedisServer) -> None:
    """Where Redis itself asks for replicas, a commit without them is certainly not applied."""
    ref = new_ref()
    async with opened_redis(own_redis.url()) as store:
        await own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        assert isinstance(await put(store, new_commit(ref, 0)), StoreUnavailable)
        assert await store.load(ref) is None
        await own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")

        assert await put(store, new_commit(ref, 0)) == Committed()


async def test_a_full_memory_refuses_keeps_reading_and_recovers(own_redis: RedisServer) -> None:
    """StoreFull is certain: nothing is applied; an applied commit is still found applied."""
    ref = new_ref()
    first = new_commit(ref, 0)
    async with opened_redis(own_redis.url()) as store:
        await put(store, first)
        await own_redis.ask("CONFIG", "SET", "maxmemory", "1")
        later = new_commit(ref, 1)
        assert isinstance(await put(store, later), StoreFull)
        assert await put(store, first) == Committed()
        assert await store.versions([ref]) == {ref: 1}
        assert len(await store.events(ref, 0, 9)) == 1
        async with opened_redis(own_redis.url()) as other:
            assert isinstance(await put(other, later), StoreFull)
            assert await other.versions([ref]) == {ref: 1}
        await own_redis.ask("CONFIG", "SET", "maxmemory", "0")

        assert await put(store, later) == Committed()


async def test_waiting_for_replicas(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a replica has not confirmed is unknown, whoever asks for it again and however often."""
    monkeypatch.setattr(gateway, "WAIT_S", 0.1)
    ref = new_ref()
    first, second = new_commit(ref, 0), new_commit(ref, 1)
    async with (
        Proxy(own_redis.address) as proxy,
        opened_redis(f"redis://{proxy.address}/0?wait_replicas=1") as store,
    ):
        for _ in range(2):
            assert isinstance(await put(store, first), OutcomeUnknown)
        with RedisServer(replicaof=f"127.0.0.1 {own_redis.port}") as replica:
            assert await settle(store, first) == Committed()
            assert await replica.ask("HGET", f"maitred:head:01:{ref.id}", "v") == b"1"
            replica.pause()
            assert isinstance(await put(store, second), OutcomeUnknown)
            proxy.cut()
            for _ in range(3):
                # The new connection has written nothing of this commit that Redis could wait for.
                assert isinstance(await put(store, second), OutcomeUnknown)
            replica.resume()
            assert await settle(store, second) == Committed()
            assert await replica.ask("HGET", f"maitred:head:01:{ref.id}", "v") == b"2"


async def test_a_replica_that_has_yet_to_load_its_copy_confirms_nothing(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first replica of a primary comes while a commit waits; that it is there is no proof."""
    monkeypatch.setattr(gateway, "WAIT_S", 1.0)
    async with opened_redis(own_redis.url(wait_replicas=1)) as store:
        answer = start(store, new_commit(new_ref(), 0))
        while (await own_redis.ask("INFO", "clients"))["blocked_clients"] == 0:
            await asyncio.sleep(0.01)
        # As much of a replica as it takes to be sent a copy; it loads none and confirms none.
        reader, writer = await asyncio.open_connection("127.0.0.1", own_redis.port)
        for command in (b"REPLCONF capa psync2", b"PSYNC ? -1"):
            writer.write(command + b"\r\n")
            await reader.readline()
        while not (length := (await reader.readline()).strip()):
            pass
        await reader.readexactly(int(length[1:]))

        assert isinstance(await answer, OutcomeUnknown)
        writer.close()
        await writer.wait_closed()
