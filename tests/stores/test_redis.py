"""The contract, kept by Redis; and what Redis alone could get wrong."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
from tests.support.redis import opened_redis

from maitred.server.kinds.session import SESSION
from maitred.server.kinds.tables import Table
from maitred.server.stores import create_store, keeping, without_password
from maitred.server.stores.base import (
    ClaimTaken,
    Commit,
    Committed,
    HeadFilter,
    Index,
    Keep,
    Ref,
    RowFilter,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.redis import RedisStore
from maitred.server.stores.redis.codec import append_arguments
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.redis import RedisServer

    from maitred.server.stores.base import Store

_PAST_DOUBLES = 2**60
"""Here a double tells only every 256th whole number apart."""


class TestRedis(StoreContract):
    """Redis keeps the contract but for backups."""

    lacks_exclusivity = "several servers share one Redis"
    lacks_backup = "Redis copies itself"

    @pytest.fixture
    async def store(self, redis_server: RedisServer) -> AsyncIterator[Store]:
        """Yield an empty store under a prefix of its own."""
        self.url = redis_server.url(f"test-{os.urandom(6).hex()}")
        self.opened = [RedisStore(self.url)]
        await self.opened[0].open()
        yield self.opened[0]
        for store in self.opened:
            await store.close()

    async def reopen(self, store: Store) -> Store:
        """Open the same data again."""
        await store.close()
        self.opened.append(RedisStore(self.url))
        await self.opened[-1].open()
        return self.opened[-1]


@pytest.fixture
async def store(redis_pair: tuple[RedisStore, RedisStore]) -> RedisStore:
    """One store with an empty prefix."""
    return redis_pair[0]


# ---------------------------------------------------------------- numbers and bytes


async def test_times_a_nanosecond_apart_are_told_apart(store: RedisStore) -> None:
    """Beyond what a double holds, alarms keep their order and ranges their ends."""
    refs = [new_ref() for _ in range(4)]
    times = [_PAST_DOUBLES + 1, _PAST_DOUBLES, -5, _PAST_DOUBLES - 1]
    for ref, at in zip(refs, times, strict=True):
        append = new_append(ref, 0, time_ns=at, wake_at_ns=at, index=Index(at))
        await put(store, Commit((append,), rows=(new_row(Table.ORDERS, ref, created_ns=at),)))
    where = {"created_from_ns": _PAST_DOUBLES - 1, "created_before_ns": _PAST_DOUBLES + 1}
    heads = await store.list_heads(SESSION, HeadFilter(**where), None, 9)  # type: ignore[arg-type]  # both have them
    rows = await store.list_rows(Table.ORDERS, RowFilter(**where), None, 9)  # type: ignore[arg-type]  # both have them

    assert [head.ref for head in heads] == [refs[3], refs[1]]
    assert [row.ref for row in rows] == [refs[3], refs[1]]
    assert await store.next_wake() == -5
    assert await store.due(_PAST_DOUBLES - 1, 9, "a", 1) == [refs[2], refs[3]]
    assert await store.due(_PAST_DOUBLES, 9, "a", 1) == [refs[1]]
    later = new_ref()
    await put(store, new_commit(later, 0, wake_at_ns=_PAST_DOUBLES + 9))
    await put(store, new_commit(later, 1, wake_at_ns=_PAST_DOUBLES + 8))
    assert await store.due(_PAST_DOUBLES + 8, 9, "a", 1) == [refs[0], later]
    loaded = [await store.load(ref) for ref in refs]
    assert [head and head.time_ns for head in loaded] == times
    assert [head and head.wake_at_ns for head in loaded] == times
    assert [head and head.index.created_ns for head in loaded] == times


async def test_any_text_and_any_bytes_come_back(store: RedisStore) -> None:
    """No character of a name and no byte of a value means anything to the keys."""
    every = bytes(range(256))
    names = ["a:b", "a:b:c", "ü\x00\r\n$3", "{tag}", "*?[x]", "", "\x7f日本"]
    for number, name in enumerate(names):
        ref = Ref(2, name)
        append = new_append(
            ref,
            0,
            **dict.fromkeys(("facts", "personal", "chain", "body", "fingerprint"), every),
            request_id=every[number : number + 16],
            index=Index(1, 2, name, 3, ((name, name), ('"', "\\"))),
        )
        claim = new_claim()._replace(space=name, key=name, owner=name)
        row = new_row(Table.INBOX, ref, key=name, body=every)
        assert await put(store, Commit((append,), (claim,), (), (row,))) == Committed()
        loaded = await store.load(ref, append.request_id)
        assert loaded is not None
        assert loaded.request_event is not None
        assert (loaded.body, loaded.chain, loaded.index) == (every, every, append.index)
        assert loaded.request_event.request_id == append.request_id
        assert loaded.request_event.personal == loaded.request_event.facts == every
        assert await store.claim(name, name) == claim
        (kept,) = await store.list_rows(Table.INBOX, RowFilter(keys=(name,)), None, 9)
        assert kept._replace(position=0) == row
        where = HeadFilter(labels=((name, name), ('"', "\\")), owner=name)
        (head,) = await store.list_heads(2, where, None, 9)
        assert head.ref == ref


async def test_labels_and_claims_do_not_run_into_one_another(store: RedisStore) -> None:
    """Where a name ends is part of the key."""
    ref = new_ref()
    index = Index(1, labels=(("a", "bc"),))
    await put(store, Commit((new_append(ref, 0, index=index),), (new_claim()._replace(key="x"),)))
    await put(store, Commit((), (new_claim("a", "one")._replace(key="bc"),)))

    assert await store.list_heads(SESSION, HeadFilter(labels=(("ab", "c"),)), None, 9) == []
    assert await put(store, Commit((), (new_claim("ab", "two")._replace(key="c"),))) == Committed()


async def test_what_cannot_be_kept_is_refused_alone(store: RedisStore) -> None:
    """A time beyond 64 bits and text that is none are errors of their own commit."""
    bad = [
        new_commit(new_ref(), 0, wake_at_ns=2**63),
        new_commit(Ref(SESSION, "\ud800"), 0),
        new_commit(new_ref(), 0, index=Index(1, labels=(("\udfff", ""),))),
    ]
    answers = [start(store, commit) for commit in (*bad, new_commit(new_ref(), 0))]
    *refused, kept = [await answer for answer in answers]

    assert [type(each) for each in refused] == [StoreError] * 3
    assert kept == Committed()
    assert await store.count(SESSION) == 1


async def test_a_long_listing_is_walked_in_pieces(store: RedisStore) -> None:
    """Filters that agree on few of many find them all, whichever index is walked."""
    refs = [new_ref() for _ in range(2600)]
    answers = []
    for number, ref in enumerate(refs):
        index = Index(
            created_ns=number,
            status=number % 2,
            owner="" if number % 1300 == 7 else "cus",
            labels=(("half", str(number // 1300)),),
        )
        append = new_append(ref, 0, index=index, facts=b"", personal=None, body=b"")
        row = new_row(Table.ORDERS, ref, flag=int(number % 1300 != 7), status=number % 2)
        answers.append(start(store, Commit((append,), rows=(row,))))
    await asyncio.gather(*answers)
    nobody = HeadFilter(owner="", created_from_ns=3)
    both = HeadFilter(statuses=(1,), labels=(("half", "0"),), owner="")
    heads = await store.list_heads(SESSION, nobody, None, 9)
    rows = await store.list_rows(Table.ORDERS, RowFilter(flag=0), None, 9, newest_first=False)

    assert [head.ref for head in heads] == [refs[1307], refs[7]]
    found = await store.list_heads(SESSION, both, None, 9)
    assert [head.ref for head in found] == [refs[7]]
    assert [row.ref for row in rows] == [refs[7], refs[1307]]
    everything = await store.list_heads(SESSION, HeadFilter(), None, 9999)
    assert [head.ref for head in everything] == refs[::-1]


# ---------------------------------------------------------------- scripts, queue, deletion


async def test_commits_that_queue_share_a_round_trip(store: RedisStore) -> None:
    """A sync of the log is paid for by all commits that wait for it."""
    before = store.batches
    await asyncio.gather(*(start(store, new_commit(new_ref(), 0)) for _ in range(64)))

    assert store.batches - before <= 2


async def test_a_full_queue_answers_store_full(redis_server: RedisServer) -> None:
    """Beyond the bound a commit is refused, those before it are kept."""
    store = RedisStore(redis_server.url(f"test-{os.urandom(6).hex()}"), queue_commits=3)
    await store.open()
    outcomes = [await each for each in [start(store, new_commit(new_ref(), 0)) for _ in range(5)]]

    assert outcomes[:3] == [Committed()] * 3
    assert all(isinstance(outcome, StoreFull) for outcome in outcomes[3:])
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


async def test_emptied_scripts_are_loaded_again(
    redis_pair: tuple[RedisStore, RedisStore], redis_server: RedisServer
) -> None:
    """A server that has forgotten the scripts is no reason for an error."""
    ref = new_ref()
    for base in range(3):
        await redis_server.ask("SCRIPT", "FLUSH")
        answers = [start(redis_pair[0], new_commit(ref, base))]
        answers += [start(redis_pair[0], new_commit(new_ref(), 0)) for _ in range(5)]
        assert [await answer for answer in answers] == [Committed()] * 6
        await redis_server.ask("SCRIPT", "FLUSH")
        assert await redis_pair[1].versions([ref]) == {ref: base + 1}


@pytest.mark.parametrize("older", [False, True])
async def test_an_interrupted_forget_is_finished_by_open(
    redis_server: RedisServer, older: bool
) -> None:
    """A tombstone whose deletion was cut short loses the rest at the next start, as it was told.

    An older version noted nothing, and kept payments and ids of providers.
    """
    prefix = f"test-{os.urandom(6).hex()}"
    url = redis_server.url(prefix)
    store = RedisStore(url)
    await store.open()
    ref = new_ref()
    for base in range(3):
        await put(store, new_commit(ref, base))
    claims = tuple(new_claim(space, ref.id) for space in ("kept", "provider"))
    await put(store, Commit((), claims))
    noted = keeping.note(Keep(spaces=("kept",))).encode()
    await store._gateway.write("bury", *append_arguments(new_append(ref, 3)), noted)
    if older:
        await redis_server.ask("DEL", f"{prefix}:keeping")
    assert len(await store.feed(b"", 9)) == 4
    await store.close()
    again = RedisStore(url)
    await again.open()

    assert [event.version for event in await again.feed(b"", 9)] == [4]
    assert await again.list_claims(None, 9) == [claims[1 if older else 0]]
    await again.close()


async def test_a_forgotten_aggregate_leaves_no_other_key(redis_server: RedisServer) -> None:
    """Nothing of it stays but the tombstone, its event and the request of that."""
    prefix = f"test-{os.urandom(6).hex()}"
    ref = new_ref()
    async with opened_redis(redis_server.url(prefix)) as store:
        for base in range(3):
            commit = new_commit(ref, base, wake_at_ns=base, index=Index(1, 1, ref.id, 1))
            row = new_row(Table.ORDERS, ref, flag=1)
            await put(store, commit._replace(rows=(row,), claims=(new_claim(owner=ref.id),)))
        await store.forget(ref, 3, last := new_append(ref, 3, personal=None))
    keys = await redis_server.ask("KEYS", f"{prefix}:*")

    assert sorted(key.decode().removeprefix(f"{prefix}:") for key in keys) == sorted(
        [f"{name}:01:{ref.id}" for name in ("head", "log", "requests")]
        + ["feed", "meta", "refs", "tables"]
    )
    requests = await redis_server.ask("HKEYS", f"{prefix}:requests:01:{ref.id}")
    assert requests == [last.request_id]


async def test_a_row_is_found_by_what_it_is_now(store: RedisStore) -> None:
    """Written again with other columns, it leaves the listings of the old ones."""
    one, two = new_ref(), new_ref()
    row = new_row(Table.ORDERS, one, status=1, flag=2)
    await put(store, Commit((), rows=(row,)))
    await put(store, Commit((), rows=(row._replace(ref=two, status=3, flag=4),)))

    for before in (RowFilter(ref=one), RowFilter(statuses=(1,)), RowFilter(flag=2)):
        assert await store.list_rows(Table.ORDERS, before, None, 9) == []
    for after in (RowFilter(ref=two), RowFilter(statuses=(3,)), RowFilter(flag=4)):
        assert len(await store.list_rows(Table.ORDERS, after, None, 9)) == 1


async def test_a_claim_is_free_from_its_end_on(store: RedisStore) -> None:
    """Nothing needs to have cleared it away."""
    claim = new_claim(owner="first", expires_ns=time.time_ns() + 50_000_000)
    await put(store, Commit((), claims=(claim,)))
    mine = claim._replace(owner="second", expires_ns=None)
    assert await put(store, Commit((), claims=(mine,))) == ClaimTaken(*claim[:3])
    while await store.claim(claim.space, claim.key) is not None:
        await asyncio.sleep(0.005)

    assert await put(store, Commit((), claims=(mine,))) == Committed()
    assert await store.claim(claim.space, claim.key) == mine


async def test_expired_claims_are_cleared_away(
    redis_server: RedisServer, store: RedisStore
) -> None:
    """They do not stay for ever because nobody asks for them; the others do not go with them."""
    before = int(await redis_server.ask("DBSIZE"))
    for _ in range(20):
        await put(store, Commit((), claims=(new_claim(expires_ns=1, owner=new_ref().id),)))
    kept = new_claim()
    await put(store, Commit((), claims=(kept,)))
    after = int(await redis_server.ask("DBSIZE"))

    # The claim, its owner's claims, and all claims.
    assert await store.claim(kept.space, kept.key) == kept
    assert after - before <= 3


async def test_a_backup_is_refused_with_a_way_out(store: RedisStore, tmp_path: object) -> None:
    """Redis copies itself."""
    with pytest.raises(StoreUnavailable, match=r"docs/redis\.md"):
        await store.backup(tmp_path, lambda done, total: None)  # type: ignore[arg-type]  # never used


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize("url", ["redis://h:1/0", "REDISS://u:secret@h", "redis://h?prefix=bar"])
def test_redis_urls(url: str) -> None:
    """Plain and encrypted, with a prefix."""
    assert isinstance(create_store(url), RedisStore)


@pytest.mark.parametrize(
    "url", ["redis:h", "redis://h/0?wait_replicas=x", "redis://h?prefix=", "redis://h?colour=1"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    """The error is one line, before anything is connected."""
    with pytest.raises(ValueError, match=r"unknown store|wait_replicas|prefix|colour"):
        create_store(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p@ss:word@host:1/0?prefix=a", "redis://user:…@host:1/0?prefix=a"),
        ("rediss://:secret@host", "rediss://:…@host"),
        ("redis://host/0?prefix=a@b", "redis://host/0?prefix=a@b"),
        ("sqlite:data@home.db", "sqlite:data@home.db"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    """What goes to the log names the place only."""
    assert without_password(url) == shown
