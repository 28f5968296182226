"""When Redis, its settings or the network fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, find_executable

from maitred.server.stores.base import (
    Commit,
    Committed,
    Conflict,
    CorruptData,
    Outcome,
    OutcomeUnknown,
    Ref,
    SchemaTooNew,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.redis import RedisStore, gateway
from maitred.server.testing.samples import new_append, new_commit, new_ref, put, start

pytestmark = pytest.mark.skipif(find_executable() is None, reason="there is no Redis server here")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may break."""
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    """Open a store and close it."""
    store = RedisStore(url, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def behind_proxy(server: RedisServer) -> AsyncIterator[tuple[RedisStore, Proxy]]:
    """Open a store behind a proxy."""
    async with (
        Proxy(server.address) as proxy,
        opened(f"redis://{proxy.address}/0") as store,
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


async def refused(url: str, words: str, error: type[StoreError] = StoreError) -> None:
    """Expect that a store cannot be opened, and is told why in one line without a password."""
    store = RedisStore(url)
    with pytest.raises(error, match=words) as caught:
        await store.open()
    await store.close()

    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- what is refused at open


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("appendfsync", "no", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
async def test_unsafe_settings_are_refused_unless_accepted(
    server: RedisServer, name: str, value: str, wanted: str
) -> None:
    """The line says what to set; accepting loss opens it all the same."""
    await server.ask("CONFIG", "SET", name, value)
    await refused(server.url(), rf"set {name} {wanted} \(it is {value}\); .*--accept-data-loss")

    async with opened(server.url(), accept_data_loss=True) as store:
        assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_a_server_that_hides_its_settings_is_refused_unless_accepted() -> None:
    """Managed servers forbid CONFIG: what cannot be seen is not promised."""
    with RedisServer(rename_command="CONFIG HIDDEN") as server:
        await refused(server.url(), "does not show its settings")
        async with opened(server.url(), accept_data_loss=True) as store:
            assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_a_cluster_is_refused() -> None:
    """A commit spans keys of several slots."""
    with RedisServer(cluster_enabled="yes") as server:
        await refused(server.url(), "is a cluster")


async def test_a_replica_is_refused(server: RedisServer) -> None:
    """Whoever is not the primary cannot acknowledge."""
    with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica:
        await refused(replica.url(), "is a replica", StoreUnavailable)


async def test_a_user_who_may_not_do_everything_is_refused(server: RedisServer) -> None:
    """A forbidden command is found at open, not in the middle of a commit; hints may be missing."""
    everything = ("on", ">secret", "~*", "+@all")
    await server.ask("ACL", "SETUSER", "lame", *everything, "&*", "-xdel")
    await server.ask("ACL", "SETUSER", "mute", *everything, "resetchannels")
    await refused(f"redis://lame:secret@{server.address}", "refuses a command", StoreUnavailable)
    await refused(f"redis://lame:wrong@{server.address}", "cannot be reached", StoreUnavailable)

    async with opened(f"redis://mute:secret@{server.address}") as store:
        assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_nothing_there_is_one_clear_line(server: RedisServer) -> None:
    """The line names the address and not the password."""
    server.stop()

    await refused(f"redis://:secret@{server.address}/0", server.address, StoreUnavailable)


async def test_a_newer_schema_is_refused(server: RedisServer) -> None:
    """An older maitred does not touch what a newer one wrote."""
    await server.ask("HSET", "maitred:meta", "schema", "999")
    await refused(server.url(), "schema 999", SchemaTooNew)

    assert await server.ask("HKEYS", "maitred:meta") == [b"schema"]


async def test_damage_is_never_read_as_absence(server: RedisServer) -> None:
    """An event, a part of a head, or a key of another type raise."""
    async with opened(server.url()) as store:
        gap, torn, mixed = (new_ref() for _ in range(3))
        for ref in (gap, torn, mixed):
            for base in range(3):
                await put(store, new_commit(ref, base))
        await server.ask("HDEL", f"maitred:log:01:{gap.id}", "2")
        await server.ask("HDEL", f"maitred:head:01:{torn.id}", "k")
        await server.ask("SET", f"maitred:head:01:{mixed.id}", "text")

        for reading in (
            store.events(gap, 0, 9),
            store.feed(b"", 99),
            store.load(torn),
            store.load(mixed),
        ):
            with pytest.raises(CorruptData):
                await reading
        assert isinstance(await put(store, new_commit(mixed, 3)), CorruptData)


# ---------------------------------------------------------------- lost replies


async def test_a_lost_reply_is_unknown_until_it_is_known(server: RedisServer) -> None:
    """The commit is applied once; while Redis cannot be reached its outcome stays unknown."""
    ref = new_ref()
    commit = new_commit(ref, 0)
    async with behind_proxy(server) as (store, proxy):
        assert isinstance(await lose_reply(proxy, start(store, commit)), OutcomeUnknown)
        proxy.refuse = True
        assert isinstance(await put(store, commit), OutcomeUnknown)
        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        proxy.refuse = False

        assert await put(store, commit) == Committed()
        assert await put(store, new_commit(ref, 1)) == Committed()
        assert await put(store, commit) == Committed()
        assert [event.version for event in await store.events(ref, 0, 9)] == [1, 2]


async def test_a_rival_may_win_while_the_outcome_is_unknown(server: RedisServer) -> None:
    """Then the commit turns out as a conflict, or as applied below the rival's."""
    ref = new_ref()
    mine, rival = new_commit(ref, 0), new_commit(ref, 1)
    async with behind_proxy(server) as (store, proxy), opened(server.url()) as other:
        assert isinstance(await lose_reply(proxy, start(store, mine)), OutcomeUnknown)
        assert await put(other, rival) == Committed()
        assert await put(store, mine) == Committed()
        proxy.refuse = True
        late = new_commit(ref, 1)
        proxy.cut()
        assert isinstance(await put(store, late), OutcomeUnknown | StoreUnavailable)
        proxy.refuse = False

        assert await put(store, late) == Conflict(ref, 2, rival.appends[0].commit_id)


async def test_a_lost_reply_is_not_asked_for_twice_by_the_driver(server: RedisServer) -> None:
    """What writes is sent once, and its author is told that nothing is known."""
    ref = new_ref()
    async with behind_proxy(server) as (store, proxy):
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
async def test_connections_cut_under_load_double_nothing(server: RedisServer, seed: int) -> None:
    """Requests and replies are lost at any point: every commit is there exactly once."""
    chance = random.Random(seed)
    refs = [new_ref() for _ in range(8)]
    written = 0
    async with opened(server.url()) as witness, behind_proxy(server) as (store, proxy):

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


async def test_a_cancelled_read_leaves_no_answer_for_the_next(server: RedisServer) -> None:
    """A connection that was left in the middle is not used again."""
    async with opened(server.url()) as store:
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


async def test_acknowledged_commits_survive_kill_9(server: RedisServer) -> None:
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

    async with opened(server.url()) as store:
        writers = [asyncio.create_task(write(store, ref)) for ref in acknowledged]
        for _ in range(5):
            before = count()
            while count() < before + 200:
                await asyncio.sleep(0.001)
            server.kill()
            await asyncio.to_thread(server.start)
        stop = True
        await asyncio.gather(*writers)

        for ref, commits in acknowledged.items():
            events = await store.events(ref, 0, 99_999)
            assert [event.commit_id for event in events] == commits
            assert [event.version for event in events] == list(range(1, len(commits) + 1))
        assert len(await store.feed(b"", 99_999)) == count()


async def test_everything_works_again_when_redis_is_back(server: RedisServer) -> None:
    """Reads, commits, timers and change hints recover without a restart."""
    ref = new_ref()
    async with opened(server.url()) as store:
        await put(store, new_commit(ref, 0))
        changes = store.changed({ref: 1})
        hint = asyncio.ensure_future(anext(changes))
        server.stop()
        for reading in (store.load(ref), store.feed(b"", 1), store.due(1, 1, "a", 1)):
            with pytest.raises(StoreUnavailable):
                await reading
        assert isinstance(await put(store, new_commit(ref, 1)), OutcomeUnknown | StoreUnavailable)
        await asyncio.to_thread(server.start)

        loaded = await store.load(ref)
        assert loaded is not None
        assert await put(store, new_commit(ref, loaded.version)) == Committed()
        assert await asyncio.wait_for(hint, 10) == {ref}
        await changes.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_another_history_is_never_taken_for_the_old_one(server: RedisServer) -> None:
    """Emptied under a running store, Redis gives neither absence nor room for a commit."""
    ref = new_ref()
    async with opened(server.url()) as store:
        await put(store, new_commit(ref, 0))
        await server.ask("FLUSHALL")
        with pytest.raises(StoreUnavailable, match="history"):
            await store.load(ref)
        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        assert await server.ask("KEYS", "*") == []
        fresh = RedisStore(server.url())
        info = await fresh.open()
        await fresh.close()

        assert isinstance(await put(store, new_commit(new_ref(), 0)), StoreUnavailable)
        assert info.epoch


async def test_a_demoted_primary_refuses(server: RedisServer) -> None:
    """A commit on what has become a replica is certainly not applied."""
    ref = new_ref()
    async with opened(server.url()) as store:
        await put(store, new_commit(ref, 0))
        with RedisServer() as primary:
            await server.ask("REPLICAOF", "127.0.0.1", str(primary.port))
            answers = [await put(store, new_commit(ref, 1)) for _ in range(2)]
            await server.ask("REPLICAOF", "NO", "ONE")
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2


async def test_a_full_memory_refuses_keeps_reading_and_recovers(server: RedisServer) -> None:
    """StoreFull is certain: nothing is applied; an applied commit is still found applied."""
    ref = new_ref()
    first = new_commit(ref, 0)
    async with opened(server.url()) as store:
        await put(store, first)
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        later = new_commit(ref, 1)
        assert isinstance(await put(store, later), StoreFull)
        assert await put(store, first) == Committed()
        assert await store.versions([ref]) == {ref: 1}
        assert len(await store.events(ref, 0, 9)) == 1
        async with opened(server.url()) as other:
            assert isinstance(await put(other, later), StoreFull)
            assert await other.versions([ref]) == {ref: 1}
        await server.ask("CONFIG", "SET", "maxmemory", "0")

        assert await put(store, later) == Committed()


async def test_waiting_for_replicas(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without enough replicas the outcome is unknown, also when it is asked for again."""
    monkeypatch.setattr(gateway, "WAIT_S", 0.1)
    ref = new_ref()
    commit = new_commit(ref, 0)
    async with opened(server.url(wait_replicas=1)) as store:
        for _ in range(2):
            assert isinstance(await put(store, commit), OutcomeUnknown)
        with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica:
            assert await settle(store, commit) == Committed()
            # What was acknowledged is at the replica.
            assert await replica.ask("HGET", f"maitred:head:01:{ref.id}", "v") == b"1"
            again = new_commit(ref, 1)
            assert await settle(store, again) == Committed()
            assert await replica.ask("HGET", f"maitred:head:01:{ref.id}", "v") == b"2"
