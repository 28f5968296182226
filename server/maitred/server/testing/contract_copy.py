"""The contract of copying: what was scanned can be written elsewhere, byte for byte."""

from __future__ import annotations

import time

from maitred.server.kinds.menu import MENU
from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import (
    Claim,
    Commit,
    Committed,
    Conflict,
    HeadFilter,
    Index,
    Loaded,
    Record,
    Ref,
    Replayed,
    Store,
    StoredEvent,
)
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.contract_base import ContractBase
from maitred.server.testing.samples import new_append, new_claim, new_commit, new_ref, put


async def scanned(store: Store) -> dict[Ref, Record]:
    """Everything in a store, each log in one record."""
    found: dict[Ref, Record] = {}
    async for record in store.scan():
        before = found.get(record.loaded.ref)
        events = record.events if before is None else before.events + record.events
        found[record.loaded.ref] = record._replace(events=events, rows=(), more=False)
    return found


def _event(event: StoredEvent) -> StoredEvent:
    # Only the newest commit id is promised, and a cursor is the store's own.
    return event._replace(commit_id=b"", cursor=b"")


def _head(head: Loaded) -> Loaded:
    return head._replace(request_event=None)


class CopyContract(ContractBase):
    """What `restore` and `list_claims` promise."""

    async def _elsewhere(self) -> tuple[dict[Ref, Record], list[Ref]]:
        """Fill another store and scan it; also names the refs in the order they were made."""
        other = MemoryStore()
        await other.open()
        refs = [new_ref(kind) for kind in (SESSION, MENU, SESSION, SESSION)]
        for number, ref in enumerate(refs):
            index = Index(
                created_ns=time.time_ns(),
                status=number,
                owner=f"c{number}",
                labels=(("n", str(number)),),
            )
            await put(other, new_commit(ref, 0, index=index, wake_at_ns=2**62 + number))
            for base in range(1, 4):
                await put(other, new_commit(ref, base, wake_at_ns=2**62 + number))
        await other.forget(refs[3], 4, new_append(refs[3], 4))
        records = await scanned(other)
        await other.close()
        return records, refs

    async def test_restored_is_what_was_scanned(self, store: Store) -> None:
        """Heads, tombstones and logs come back byte for byte, with their requests and timers."""
        records, refs = await self._elsewhere()
        written = await store.restore([records[ref] for ref in refs])
        found = await scanned(store)

        assert written == len(refs)
        assert found.keys() == records.keys()
        for ref, record in records.items():
            assert _head(found[ref].loaded) == _head(record.loaded)
            assert [_event(each) for each in found[ref].events] == [
                _event(each) for each in record.events
            ]

    async def test_restored_aggregates_go_on(self, store: Store) -> None:
        """The next commit fits, an old request is a replay, and a tombstone stays one."""
        records, refs = await self._elsewhere()
        await store.restore([records[ref] for ref in refs])
        old = records[refs[0]].events[1]
        replay = new_append(refs[0], 4, request_id=old.request_id)

        assert await put(store, new_commit(refs[0], 4)) == Committed()
        assert await put(store, Commit((replay,))) == Replayed(refs[0], 2, old.fingerprint)
        tombstone = records[refs[3]].loaded
        assert await put(store, new_commit(refs[3], 0)) == Conflict(
            refs[3], tombstone.version, tombstone.commit_id
        )

    async def test_restored_is_listed_and_fed_in_the_order_given(self, store: Store) -> None:
        """Newest first in lists, oldest first in the feed; labels and timers find it."""
        records, refs = await self._elsewhere()
        await store.restore([records[ref] for ref in refs])
        sessions = [refs[2], refs[0]]
        heads = await store.list_heads(SESSION, HeadFilter(), None, 10)
        by_label = await store.list_heads(SESSION, HeadFilter(labels=(("n", "2"),)), None, 10)
        feed = [event.ref for event in await store.feed(b"", 100)]
        due = await store.due(2**62 + 1, 10, "me", 1.0)

        assert [head.ref for head in heads] == sessions
        assert [head.ref for head in by_label] == [refs[2]]
        assert list(dict.fromkeys(feed)) == refs
        assert sorted(due) == sorted(refs[:2])

    async def test_what_exists_is_left_as_it_is(self, store: Store) -> None:
        """Restoring again writes nothing: an interrupted copy can be repeated."""
        records, refs = await self._elsewhere()
        first = await store.restore([records[ref] for ref in refs[:2]])
        await put(store, new_commit(refs[0], 4))
        again = await store.restore([records[ref] for ref in refs])

        assert (first, again) == (2, 2)
        assert (await store.versions(refs[:1])) == {refs[0]: 5}

    async def test_claims_are_listed_in_order(self, store: Store) -> None:
        """By space and key, page by page, with owner and expiry."""
        claims = [new_claim(space, expires_ns=when) for space in "ab" for when in (None, 2**62)]
        await put(store, Commit((new_append(new_ref(), 0),), claims=tuple(claims)))
        found: list[Claim] = []
        after: tuple[str, str] | None = None
        while page := await store.list_claims(after, 3):
            found += page
            after = page[-1][:2]

        assert found == sorted(claims, key=lambda claim: claim[:2])
