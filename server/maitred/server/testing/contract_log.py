"""The contract of the log: `events`, `feed`, `event_by_request`, `redact`, `scan`."""

from __future__ import annotations

import asyncio

from maitred.server.kinds.menu import MENU
from maitred.server.kinds.session import SESSION
from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Commit,
    Committed,
    Index,
    Record,
    RowFilter,
    Store,
    StoredEvent,
)
from maitred.server.testing.contract_base import ContractBase
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)


async def _records(store: Store) -> list[Record]:
    return [record async for record in store.scan()]


async def _whole_feed(store: Store, after: bytes, limit: int) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while page := await store.feed(after, limit):
        found += page
        after = page[-1].cursor
    return found


class LogContract(ContractBase):
    """What the log gives back."""

    async def test_load_of_an_unknown_ref_is_none(self, store: Store) -> None:
        """What was never created is absent, not an error."""
        ref = new_ref()

        assert await store.load(ref) is None
        assert await store.load(ref, bytes(16)) is None
        assert await store.events(ref, 0, 10) == []
        assert await store.event_by_request(ref, bytes(16)) is None
        assert await store.versions([ref]) == {}

    async def test_everything_of_a_commit_is_stored(self, store: Store) -> None:
        """Head, event, claim and row are there together."""
        ref, claim = new_ref(), new_claim()
        row = new_row(Table.PAYMENTS, ref, status=3, flag=1)
        index = Index(7, 2, "cus-1", 1, (("table", "4"), ("Überraschung", "ja")))
        append = new_append(ref, 0, index=index, wake_at_ns=10**18)
        await put(store, Commit((append,), claims=(claim,), rows=(row,)))
        loaded = await store.load(ref)
        (event,) = await store.events(ref, 0, 10)

        assert loaded is not None
        assert loaded[:10] == (
            ref,
            1,
            append.commit_id,
            append.time_ns,
            append.chain,
            append.body,
            index,
            10**18,
            False,
            None,
        )
        assert event._replace(cursor=b"") == (
            ref,
            1,
            append.commit_id,
            append.request_id,
            append.fingerprint,
            append.time_ns,
            append.change,
            append.facts,
            append.personal,
            append.chain,
            b"",
        )
        (kept,) = await store.list_rows(Table.PAYMENTS, RowFilter(), None, 10)
        assert kept._replace(position=0) == row
        assert await store.claim(claim.space, claim.key) == claim

    async def test_an_append_without_index_keeps_the_index(self, store: Store) -> None:
        """None means: no indexed column differs."""
        ref = new_ref()
        index = Index(7, 2, "cus-1", 1, (("table", "4"),))
        await put(store, new_commit(ref, 0, index=index))
        await put(store, new_commit(ref, 1))
        loaded = await store.load(ref)

        assert loaded is not None
        assert loaded.index == index

    async def test_empty_bytes_and_absent_ones_stay_different(self, store: Store) -> None:
        """`personal` may be absent or empty; both come back as they were."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, personal=None, facts=b"", body=b""))
        await put(store, new_commit(ref, 1, personal=b""))
        events = await store.events(ref, 0, 10)

        assert [(event.facts == b"", event.personal) for event in events] == [
            (True, None),
            (False, b""),
        ]

    async def test_the_kind_is_part_of_the_name(self, store: Store) -> None:
        """Two kinds may use the same id."""
        one = new_ref(SESSION)
        two = one._replace(kind=2)
        await put(store, new_commit(one, 0))

        assert await store.load(two) is None
        assert await put(store, new_commit(two, 0)) == Committed()

    async def test_load_gives_the_event_of_a_request_with_the_head(self, store: Store) -> None:
        """Head and event are of one read; an unknown request leaves the head alone."""
        ref = new_ref()
        appends = [new_append(ref, base) for base in range(3)]
        for append in appends:
            await put(store, Commit((append,)))
        known = await store.load(ref, appends[1].request_id)
        unknown = await store.load(ref, bytes(16))

        assert known is not None
        assert known.version == 3
        assert known.request_event is not None
        assert known.request_event.version == 2
        assert known.request_event.fingerprint == appends[1].fingerprint
        assert unknown is not None
        assert unknown.request_event is None

    async def test_load_is_one_snapshot_while_commits_go_on(self, store: Store) -> None:
        """The event of a request is never newer than the head that comes with it."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        for base in range(1, 30):
            append = new_append(ref, base)
            answer = start(store, Commit((append,)))
            while not answer.done():
                loaded = await store.load(ref, append.request_id)
                assert loaded is not None
                event = loaded.request_event
                assert loaded.version == (base if event is None else event.version)
                await asyncio.sleep(0)

    async def test_event_by_request_is_byte_for_byte(self, store: Store) -> None:
        """The event of a request comes back as it was appended."""
        ref = new_ref()
        append = new_append(ref, 0)
        await put(store, Commit((append,)))
        event = await store.event_by_request(ref, append.request_id or b"")

        assert event is not None
        assert (event.facts, event.personal, event.chain) == (
            append.facts,
            append.personal,
            append.chain,
        )

    async def test_events_are_ascending_without_gaps(self, store: Store) -> None:
        """Pages continue after the last version, and every version is in exactly one."""
        ref = new_ref()
        for base in range(25):
            await put(store, new_commit(ref, base, change=base % 3))
        versions: list[int] = []
        while page := await store.events(ref, len(versions), 7):
            versions += [event.version for event in page]

        assert versions == list(range(1, 26))
        assert await store.events(ref, 25, 7) == []
        assert await store.events(ref, 99, 7) == []

    async def test_events_below_a_version_and_newest_first(self, store: Store) -> None:
        """A history can be read from its end, page by page, also that of a tombstone."""
        ref = new_ref()
        for base in range(10):
            await put(store, new_commit(ref, base, change=base % 2))

        async def found(after: int, limit: int, **options: object) -> list[int]:
            page = await store.events(ref, after, limit, **options)  # type: ignore[arg-type]  # the test names them
            return [event.version for event in page]

        assert await found(0, 3, newest_first=True) == [10, 9, 8]
        assert await found(0, 3, newest_first=True, before=8) == [7, 6, 5]
        assert await found(5, 9, newest_first=True, before=8) == [7, 6]
        assert await found(5, 9, before=8) == [6, 7]
        assert await found(0, 3, before=99) == [1, 2, 3]
        assert await found(0, 9, before=1) == []
        assert await found(0, 2, newest_first=True, before=8, changes=(1,)) == [6, 4]
        await store.forget(ref, 10, new_append(ref, 10))
        assert await found(0, 9, newest_first=True) == [11]
        assert await found(0, 9, before=11) == []
        assert await found(0, 9, before=5) == []

    async def test_events_of_chosen_changes(self, store: Store) -> None:
        """Only the kinds of change that were asked for, still ascending."""
        ref = new_ref()
        for base in range(12):
            await put(store, new_commit(ref, base, change=base % 3))
        found = await store.events(ref, 2, 3, changes=(0, 2))

        assert [event.version for event in found] == [3, 4, 6]
        assert await store.events(ref, 0, 10, changes=()) == []

    async def test_concurrent_commits_leave_one_line_of_versions(self, store: Store) -> None:
        """Of rivals on one base exactly one wins, round after round."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        for base in range(1, 6):
            answers = await asyncio.gather(*(start(store, new_commit(ref, base)) for _ in range(8)))
            assert sum(answer == Committed() for answer in answers) == 1

        assert [event.version for event in await store.events(ref, 0, 99)] == [1, 2, 3, 4, 5, 6]

    async def test_the_feed_misses_nothing_and_keeps_the_order(self, store: Store) -> None:
        """All events of all aggregates, in version order within each."""
        refs = [new_ref() for _ in range(5)]
        for base in range(6):
            await asyncio.gather(*(start(store, new_commit(ref, base)) for ref in refs))
        found = await _whole_feed(store, b"", 7)

        for ref in refs:
            versions = [event.version for event in found if event.ref == ref]
            assert versions == [1, 2, 3, 4, 5, 6]

    async def test_the_feed_continues_after_its_cursor(self, store: Store) -> None:
        """What is committed behind `feed_end` is all that is found from there."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        end = await store.feed_end()
        nothing = await store.feed(end, 10)
        await put(store, new_commit(ref, 1))
        found = await store.feed(end, 10)

        assert nothing == []
        assert [(event.ref, event.version) for event in found] == [(ref, 2)]

    async def test_a_cursor_stays_good_after_a_forgetting(self, store: Store) -> None:
        """Deletion neither moves nor reuses a place in the feed."""
        gone, other = new_ref(), new_ref()
        await put(store, new_commit(other, 0))
        await put(store, new_commit(gone, 0))
        end = await store.feed_end()
        await store.forget(gone, 1, new_append(gone, 1))
        await put(store, new_commit(other, 1))
        found = await _whole_feed(store, end, 10)

        assert [(event.ref, event.version) for event in found] == [(gone, 2), (other, 2)]

    async def test_redact_erases_the_personal_part_and_nothing_else(self, store: Store) -> None:
        """Facts and chain stay, `personal` is gone from every way to read it."""
        ref = new_ref()
        appends = [new_append(ref, base) for base in range(3)]
        for append in appends:
            await put(store, Commit((append,)))
        count = await store.redact(ref, [1, 3, 9])
        events = await store.events(ref, 0, 10)
        by_request = await store.event_by_request(ref, appends[0].request_id or b"")
        loaded = await store.load(ref, appends[2].request_id)

        assert count == 2
        assert [event.personal for event in events] == [None, appends[1].personal, None]
        assert [event.facts for event in events] == [append.facts for append in appends]
        assert [event.chain for event in events] == [append.chain for append in appends]
        assert by_request is not None
        assert by_request.personal is None
        assert loaded is not None
        assert loaded.request_event is not None
        assert loaded.request_event.personal is None
        assert [e.personal for e in await _whole_feed(store, b"", 10) if e.ref == ref] == [
            None,
            appends[1].personal,
            None,
        ]
        assert [
            [event.personal for event in record.events]
            for record in await _records(store)
            if record.loaded.ref == ref
        ] == [[None, appends[1].personal, None]]

    async def test_redact_counts_only_what_it_erased(self, store: Store) -> None:
        """Erasing again erases nothing."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))

        assert await store.redact(ref, [1]) == 1
        assert await store.redact(ref, [1]) == 0
        assert await store.redact(new_ref(), [1]) == 0

    async def test_scan_gives_everything_in_the_order_of_refs(self, store: Store) -> None:
        """All aggregates, tombstones included, with their events and rows."""
        refs = [new_ref(kind) for kind in (MENU, SESSION, 2) for _ in "abc"]
        rows = {ref: new_row(Table.ORDERS, ref) for ref in refs}
        for ref in refs:
            await put(store, new_commit(ref, 0)._replace(rows=(rows[ref],)))
            await put(store, new_commit(ref, 1))
        await store.forget(refs[0], 2, new_append(refs[0], 2))
        records = await _records(store)

        assert [record.loaded.ref for record in records] == sorted(refs)
        for record in records:
            if record.loaded.ref == refs[0]:
                assert record.loaded.tombstone
                assert [event.version for event in record.events] == [3]
                assert record.rows == ()
            else:
                assert [event.version for event in record.events] == [1, 2]
                assert [row.key for row in record.rows] == [rows[record.loaded.ref].key]
            assert not record.more

    async def test_scan_continues_after_a_ref(self, store: Store) -> None:
        """A copy that was interrupted goes on behind the last ref."""
        refs = sorted(new_ref() for _ in range(5))
        for ref in refs:
            await put(store, new_commit(ref, 0))
        found = [record.loaded.ref async for record in store.scan(refs[1])]

        assert found == refs[2:]

    async def test_scan_splits_a_long_log(self, store: Store) -> None:
        """Events of one aggregate are spread over records that say that more follow."""
        ref = new_ref()
        row = new_row(Table.ORDERS, ref)
        await put(store, new_commit(ref, 0)._replace(rows=(row,)))
        for base in range(1, 1200):
            answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
            if base % 50 == 0:
                await answer
        await answer
        records = await _records(store)

        versions = [event.version for record in records for event in record.events]
        assert versions == list(range(1, 1201))
        assert len(records) > 1
        assert [record.more for record in records] == [True] * (len(records) - 1) + [False]
        assert sum(len(record.rows) for record in records) == 1
