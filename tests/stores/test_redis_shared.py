"""Several stores on one Redis, as several servers have them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from tests.support.redis import opened_redis

from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import ClaimTaken, Commit, Committed, Conflict, Ref
from maitred.server.stores.redis import RedisStore
from maitred.server.testing.samples import new_claim, new_commit, new_ref, put, start

if TYPE_CHECKING:
    from tests.support.redis import RedisServer


async def test_two_stores_are_one_history(redis_server: RedisServer) -> None:
    """Whoever opens first begins it; what it is says that others may write, too."""
    url = redis_server.url(f"redis_pair-{os.urandom(6).hex()}")
    stores = [RedisStore(url) for _ in range(3)]
    infos = await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.close()

    assert len({info.epoch for info in infos}) == 1
    assert len(infos[0].epoch) == 16
    assert not infos[0].exclusive
    assert infos[0].cross_aggregate
    assert infos[0].linearizable
    assert not infos[0].backup


async def test_a_read_sees_what_another_server_was_answered(
    redis_pair: tuple[RedisStore, RedisStore],
) -> None:
    """There is one primary, so nothing acknowledged is read as absent anywhere."""
    ref = new_ref()
    for base in range(20):
        await put(redis_pair[base % 2], new_commit(ref, base))

        assert await redis_pair[1 - base % 2].versions([ref]) == {ref: base + 1}


async def test_a_storm_of_rivals_leaves_one_line_of_versions(
    redis_pair: tuple[RedisStore, RedisStore],
) -> None:
    """Many writers of the same aggregates on two servers: each win is one event, none is lost."""
    refs = [new_ref() for _ in range(3)]
    won: dict[Ref, list[bytes]] = {ref: [] for ref in refs}

    async def rival(store: RedisStore, ref: Ref) -> None:
        base = wins = 0
        while wins < 10:
            commit = new_commit(ref, base)
            outcome = await put(store, commit)
            if isinstance(outcome, Conflict):
                base = outcome.version
            else:
                assert outcome == Committed()
                won[ref].append(commit.appends[0].commit_id)
                base, wins = base + 1, wins + 1

    await asyncio.gather(
        *(rival(store, ref) for store in redis_pair for ref in refs for _ in range(5))
    )
    for ref in refs:
        events = await redis_pair[0].events(ref, 0, 1000)

        assert [event.version for event in events] == list(range(1, 101))
        assert sorted(event.commit_id for event in events) == sorted(won[ref])


async def test_of_rivals_for_a_claim_one_wins(redis_pair: tuple[RedisStore, RedisStore]) -> None:
    """A key has one owner, whichever server is asked for it."""
    claim = new_claim()
    answers = await asyncio.gather(
        *(
            start(store, Commit((), claims=(claim._replace(owner=f"{at}-{number}"),)))
            for number, store in enumerate(redis_pair)
            for at in range(10)
        )
    )
    owner = await redis_pair[0].claim(claim.space, claim.key)

    assert owner is not None
    assert sum(answer == Committed() for answer in answers) == 1
    assert answers.count(ClaimTaken(claim.space, claim.key, owner.owner)) == 19


@pytest.mark.parametrize("may_publish", [True, False])
async def test_a_commit_of_another_server_is_told_within_a_second(
    own_redis: RedisServer, may_publish: bool
) -> None:
    """Also while this server's own commits keep its listeners awake, and without pub/sub."""
    user = ["on", "nopass", "~*", "+@all", "allchannels" if may_publish else "resetchannels"]
    await own_redis.ask("ACL", "SETUSER", "maitred", *user)
    url = f"redis://maitred:any@{own_redis.address}/0"
    foreign, own = new_ref(), new_ref()
    done = False

    async def chatter(store: RedisStore) -> None:
        base = 0
        while not done:
            await put(store, new_commit(own, base))
            base += 1

    async with opened_redis(url) as here, opened_redis(url) as there:
        await put(there, new_commit(foreign, 0))
        changes = here.changed({foreign: 1, own: 10**6})
        noise = asyncio.create_task(chatter(here))
        await anext(changes)
        await put(there, new_commit(foreign, 1))
        async with asyncio.timeout(1.0):
            while foreign not in await anext(changes):
                pass
        done = True
        await noise
        await changes.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def test_one_lease_and_one_alarm_go_to_one_server(
    redis_pair: tuple[RedisStore, RedisStore],
) -> None:
    """What one server has taken the other does not get."""
    refs = [new_ref() for _ in range(40)]
    for ref in refs:
        await put(redis_pair[0], new_commit(ref, 0, wake_at_ns=1000))
    taken = await asyncio.gather(*(store.due(1000, 30, "a", 60) for store in redis_pair))
    leases = await asyncio.gather(*(store.lease("l", str(store), 60) for store in redis_pair))

    assert sorted(taken[0] + taken[1]) == sorted(refs)
    assert sum(lease is not None for lease in leases) == 1


async def test_prefixes_keep_stores_apart(
    redis_server: RedisServer, redis_pair: tuple[RedisStore, RedisStore]
) -> None:
    """Two stores in one database do not meet."""
    other = RedisStore(redis_server.url(f"other-{os.urandom(6).hex()}"))
    await other.open()
    ref = new_ref()
    await put(redis_pair[0], new_commit(ref, 0))

    assert await other.load(ref) is None
    assert await other.count(SESSION) == 0
    await other.close()
