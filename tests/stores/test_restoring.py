"""Restoring into engines that others write to: a long log appears whole, nothing is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import pytest
from tests.support.redis import RedisServer, opened_redis

from maitred.server.kinds.session import SESSION
from maitred.server.stores import create_store
from maitred.server.stores.base import (
    Claim,
    Commit,
    Committed,
    HeadFilter,
    Index,
    OutcomeUnknown,
    Record,
    Ref,
    Store,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.memory import MemoryStore
from maitred.server.stores.redis.restore import STAGED_S, restore
from maitred.server.testing.contract_copy import scanned
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.samples import new_append, new_claim, new_commit, new_ref, put, start

LONG = 2600
"""Events: several pieces of any engine's."""


class Place(NamedTuple):
    """An empty store to be, and how it is reached."""

    engine: str
    address: str
    url: Callable[[str], str]
    """Names it by an address, which may be a proxy's."""


@pytest.fixture(params=["postgres", "redis"])
def place(request: pytest.FixtureRequest) -> Place:
    """A place for one store in a server that the tests share."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        prefix = f"restore-{os.urandom(6).hex()}"
        return Place("redis", server.address, lambda at: f"redis://{at}/0?prefix={prefix}")
    server = request.getfixturevalue("postgres")
    database = server.create_database().partition("?")[0].rpartition("/")[2]
    plain = "sslmode=disable&gssencmode=disable"
    return Place(
        "postgres", server.address, lambda at: f"postgresql://maitred@{at}/{database}?{plain}"
    )


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """Yield the empty store."""
    opened = create_store(place.url(place.address))
    await opened.open()
    yield opened
    await opened.close()


async def records(*lengths: int) -> list[Record]:
    """Return aggregates with logs of these lengths, as another engine kept them."""
    other = MemoryStore(queue_commits=sum(lengths) + 1)
    await other.open()
    refs = [new_ref() for _ in lengths]
    for ref, length in zip(refs, lengths, strict=True):
        for base in range(length):
            await put(other, new_commit(ref, base))
    found = await scanned(other)
    await other.close()
    return [found[ref] for ref in refs]


async def whole_feed(store: Store) -> Counter[tuple[Ref, int]]:
    """Count every event that the feed has."""
    found: Counter[tuple[Ref, int]] = Counter()
    after = b""
    while page := await store.feed(after, 1000):
        found.update((event.ref, event.version) for event in page)
        after = page[-1].cursor
    return found


async def assert_same(store: Store, originals: list[Record]) -> None:
    """Everything is there as it was, in the order given, and nothing twice."""
    found = await scanned(store)
    heads = await store.list_heads(SESSION, HeadFilter(), None, 100)
    feed = await whole_feed(store)

    assert [head.ref for head in heads] == [record.loaded.ref for record in originals][::-1]
    assert feed == Counter((e.ref, e.version) for record in originals for e in record.events)
    for original in originals:
        copied = found[original.loaded.ref]
        assert copied.loaded == original.loaded
        for ours, theirs in zip(copied.events, original.events, strict=True):
            assert ours._replace(cursor=b"") == theirs._replace(cursor=b"")


async def test_a_long_log_appears_whole(store: Store) -> None:
    """Whoever reads meanwhile finds all of it or nothing, and it can be continued."""
    originals = await records(1, LONG, 2)
    total = originals[1].loaded.ref
    writing = asyncio.create_task(store.restore(originals))
    seen: set[int] = set()
    while not writing.done():
        newest = await store.versions([total])
        found = 0
        # A page is cut by bytes, too.
        while page := await store.events(total, found, LONG + 1):
            found += len(page)
        seen |= {found} | ({newest[total]} if newest else set())

    assert await writing == 3
    assert seen <= {0, LONG}
    await assert_same(store, originals)
    assert await put(store, new_commit(total, LONG)) == Committed()


async def test_after_a_lost_connection_restoring_goes_on(place: Place) -> None:
    """Wherever the connection was cut, the next attempts write what is missing, and only that."""
    originals = await records(2, 1, LONG // 2, 3)
    limits: list[int] = []

    def lives() -> Iterator[int]:
        while True:
            yield limits.pop() if limits else 2**60

    async with Proxy(place.address, lives()) as proxy:
        store = create_store(place.url(proxy.address))
        await store.open()
        failures = 0
        for limit in range(100, 13_000, 600):
            proxy.cut()
            limits[:] = [limit]
            try:
                await store.restore(originals)
            except (OutcomeUnknown, StoreUnavailable):
                failures += 1
        while True:
            with contextlib.suppress(OutcomeUnknown, StoreUnavailable):
                await store.restore(originals)
                break
            await asyncio.sleep(0.02)

        assert failures
        await assert_same(store, originals)
        await store.close()


async def test_a_lost_answer_is_an_error_and_what_it_wrote_stays(place: Place) -> None:
    """The server did it, nobody heard: the next attempt finds it there."""
    originals = await records(3)
    async with Proxy(place.address) as proxy:
        store = create_store(place.url(proxy.address))
        await store.open()
        # So that the connection is there, and nothing but the answer can be lost.
        await store.versions([new_ref()])
        proxy.drop_replies = True
        before = proxy.swallowed
        asked = asyncio.create_task(store.restore(originals))
        while proxy.swallowed == before:
            await asyncio.sleep(0)
        proxy.cut()
        proxy.drop_replies = False
        with pytest.raises(OutcomeUnknown):
            await asked
        while True:
            with contextlib.suppress(StoreUnavailable):
                await store.restore(originals)
                break
            await asyncio.sleep(0.02)

        await assert_same(store, originals)
        await store.close()


async def test_two_copies_at_once_write_each_aggregate_once(place: Place, store: Store) -> None:
    """Both succeed, and together they have written everything."""
    originals = await records(*[2] * 40)
    other = create_store(place.url(place.address))
    await other.open()
    written = await asyncio.gather(store.restore(originals), other.restore(originals))
    feed = await whole_feed(store)
    await other.close()

    assert sum(written) == len(originals)
    assert set(feed.values()) == {1}
    assert len(feed) == 80


async def test_what_cannot_be_kept_is_named(store: Store) -> None:
    """What comes before it is written, so that the copy shows how far it got."""
    first, second, third = await records(1, 1, 1)
    index = Index(created_ns=1, owner="\ud800")
    broken = second._replace(loaded=second.loaded._replace(index=index))
    with pytest.raises(StoreError, match=second.loaded.ref.id) as caught:
        await store.restore([first, broken, third])

    assert type(caught.value) is StoreError
    assert await store.versions([each.loaded.ref for each in (first, second, third)]) == {
        first.loaded.ref: 1
    }


async def test_the_same_aggregate_twice_is_written_once(store: Store) -> None:
    """As if it had been given in two calls."""
    originals = await records(1, 2)

    assert await store.restore([*originals, *originals]) == 2
    await assert_same(store, originals)


async def test_restoring_into_a_store_that_serves(store: Store) -> None:
    """Commits of others come between, and each finds its place after what is there."""
    originals = await records(*[2] * 30)
    refs = [new_ref() for _ in range(30)]
    writing = asyncio.create_task(store.restore(originals))
    outcomes = [await start(store, new_commit(ref, 0)) for ref in refs]
    await writing
    heads = await store.list_heads(SESSION, HeadFilter(), None, 100)
    listed = [head.ref for head in reversed(heads)]

    assert outcomes == [Committed()] * 30
    assert [ref for ref in listed if ref in refs] == refs
    assert [ref for ref in listed if ref not in refs] == [each.loaded.ref for each in originals]


async def test_a_restored_tombstone_never_falls_due(store: Store) -> None:
    """Neither listed nor counted nor woken, whatever its head says."""
    (original,) = await records(1)
    index = Index(1, 2, "customer", 3, (("a", "b"),))
    buried = original.loaded._replace(tombstone=True, wake_at_ns=5, index=index)
    await store.restore([original._replace(loaded=buried)])
    listed = [
        await store.list_heads(SESSION, where, None, 9)
        for where in (HeadFilter(), HeadFilter(statuses=(2,)), HeadFilter(labels=(("a", "b"),)))
    ]

    assert await store.load(buried.ref) == buried
    assert listed == [[], [], []]
    assert await store.count(SESSION) == 0
    assert await store.due(10, 9, "me", 1.0) == []
    assert await store.next_wake() is None


async def test_claims_are_listed_by_bytes(place: Place, store: Store) -> None:
    """Whatever characters space and key have, and however short a page is."""
    words = ["", "a", "a ", "aa", "A", "ä", "z", "a:", "\uffff", "\U0001f600", "1", "10", "2"]
    if place.engine == "redis":
        words += ["\x00", "a\x00", "a\x00b", "\x00\x00"]
    claims = [Claim(space, key, "me") for space in words if space for key in words]
    await put(store, Commit((new_append(new_ref(), 0),), claims=tuple(claims)))
    gone = new_claim("a")
    await put(store, Commit((), claims=(gone,)))
    await put(store, Commit((), releases=(gone,)))
    found: list[Claim] = []
    after: tuple[str, str] | None = None
    while page := await store.list_claims(after, 7):
        found += page
        after = page[-1][:2]

    assert found == sorted(claims, key=lambda claim: (claim.space.encode(), claim.key.encode()))
    assert await store.list_claims(None, 10_000) == found


async def test_pieces_that_are_gone_are_an_error_not_a_gap(redis_server: RedisServer) -> None:
    """They expire by themselves, and a log without them is not written."""
    (original,) = await records(LONG)
    prefix = f"restore-{os.urandom(6).hex()}"
    async with opened_redis(redis_server.url(prefix)) as store:
        lifetimes: list[int] = []

        async def write(name: str, *arguments: bytes) -> object:
            answer = await store._write(name, *arguments)
            if name == "stage":
                staged = f"{prefix}:staged:{arguments[0].decode()}"
                lifetimes.append(await redis_server.ask("TTL", staged))
                if len(lifetimes) == 2:
                    await redis_server.ask("DEL", staged)
            return answer

        with pytest.raises(StoreUnavailable, match="is gone"):
            await restore(write, original)
        missing = await store.load(original.loaded.ref)
        nothing = await store.feed(b"", 9)

        assert all(0 < lifetime <= STAGED_S for lifetime in lifetimes)
        assert (missing, nothing) == (None, [])
        assert await restore(write, original)
        await assert_same(store, [original])
