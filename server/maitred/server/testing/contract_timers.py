"""The contract of timers, leases, change hints, deletion and backup."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Commit,
    Committed,
    Conflict,
    Index,
    Keep,
    Ref,
    Replayed,
    RowFilter,
    Store,
    StoreError,
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

if TYPE_CHECKING:
    from pathlib import Path

_SECOND = 10**9
_NOW = 1_800_000_000 * _SECOND
_OTHER_TABLE = 7
"""A projection that no kind here writes; a store keeps it as any other."""

_PATIENCE_S = 10.0


class LifeContract(ContractBase):
    """What happens to aggregates in time."""

    async def test_due_gives_what_has_come_earliest_first(self, store: Store) -> None:
        """Never late: everything whose time has come; nothing that has no time."""
        refs = [new_ref() for _ in range(4)]
        for ref, wake in zip(refs, (_NOW - 1, _NOW - 5, _NOW + 1, None), strict=True):
            await put(store, new_commit(ref, 0, wake_at_ns=wake))

        assert await store.due(_NOW, 10, "a", 30) == [refs[1], refs[0]]

    async def test_due_is_bounded(self, store: Store) -> None:
        """At most as many as asked for; the rest comes next."""
        refs = [new_ref() for _ in range(5)]
        for number, ref in enumerate(refs):
            await put(store, new_commit(ref, 0, wake_at_ns=_NOW - 10 + number))

        assert await store.due(_NOW, 3, "a", 30) == refs[:3]
        assert await store.due(_NOW, 3, "a", 30) == refs[3:]

    async def test_what_is_taken_is_not_handed_to_another_until_the_lease_ends(
        self, store: Store
    ) -> None:
        """A lease hides it, its end shows it again."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))

        assert await store.due(_NOW, 10, "a", 30) == [ref]
        assert await store.due(_NOW + 29 * _SECOND, 10, "b", 30) == []
        assert await store.due(_NOW + 31 * _SECOND, 10, "b", 30) == [ref]

    async def test_a_commit_that_moves_the_wake_time_ends_the_lease(self, store: Store) -> None:
        """The new time counts at once, also within the lease."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        await store.due(_NOW, 10, "a", 3600)
        await put(store, new_commit(ref, 1, wake_at_ns=_NOW + _SECOND))

        assert await store.due(_NOW + _SECOND, 10, "b", 30) == [ref]

    async def test_a_commit_that_does_not_move_the_wake_time_keeps_the_lease(
        self, store: Store
    ) -> None:
        """Other work on an aggregate does not hand it out twice."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        await store.due(_NOW, 10, "a", 30)
        await put(store, new_commit(ref, 1, wake_at_ns=_NOW))

        assert await store.due(_NOW + _SECOND, 10, "b", 30) == []

    async def test_a_wake_time_that_slides_is_due_at_its_last_value(self, store: Store) -> None:
        """Moved later, it is not late; moved earlier, it is not late either; None ends it."""
        ref = new_ref()
        for base, wake in enumerate((_NOW, _NOW + 60 * _SECOND, _NOW + 90 * _SECOND)):
            await put(store, new_commit(ref, base, wake_at_ns=wake))
        await store.due(_NOW + 1, 10, "a", 1)
        loaded = await store.load(ref)
        assert loaded is not None
        assert loaded.wake_at_ns == _NOW + 90 * _SECOND
        assert await store.due(_NOW + 90 * _SECOND, 10, "a", 30) == [ref]
        await put(store, new_commit(ref, 3, wake_at_ns=_NOW + 95 * _SECOND))
        await put(store, new_commit(ref, 4, wake_at_ns=_NOW + 92 * _SECOND))
        assert await store.due(_NOW + 92 * _SECOND, 10, "a", 30) == [ref]
        await put(store, new_commit(ref, 5, wake_at_ns=None))

        assert await store.due(_NOW + 10**6 * _SECOND, 10, "a", 30) == []

    async def test_next_wake_is_never_late(self, store: Store) -> None:
        """A sweeper that sleeps until then misses nothing, and gets there after finite steps."""
        assert await store.next_wake() is None
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        assert await store.next_wake() == _NOW
        await put(store, new_commit(ref, 1, wake_at_ns=_NOW + 9 * _SECOND))
        found: list[Ref] = []
        steps, seen = 0, 0
        while not found:
            seen = await store.next_wake() or 0
            assert seen <= _NOW + 9 * _SECOND
            found = await store.due(seen, 10, "a", 30)
            steps += 1
            assert steps <= 3

        assert seen == _NOW + 9 * _SECOND
        assert found == [ref]

    async def test_forgotten_aggregates_are_never_due(self, store: Store) -> None:
        """A tombstone wants nothing."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        await store.forget(ref, 1, new_append(ref, 1, wake_at_ns=_NOW))

        assert await store.due(_NOW, 10, "a", 30) == []
        assert await store.next_wake() is None

    async def test_wake_times_survive_reopening(self, store: Store) -> None:
        """A timer is state, not memory."""
        self.needs(self.lacks_reopen)
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        again = await self.reopen(store)

        assert await again.due(_NOW, 10, "a", 30) == [ref]

    async def test_an_exclusive_store_opens_without_leases(self, store: Store) -> None:
        """Whoever held them is gone: what is due is handed out at once, and named leases too."""
        self.needs(self.lacks_exclusivity)
        self.needs(self.lacks_reopen)
        ref, later = new_ref(), new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=_NOW))
        await put(store, new_commit(later, 0, wake_at_ns=_NOW + _SECOND))
        assert await store.due(_NOW, 10, "gone", 3600) == [ref]
        held = await store.lease("sweeper", "gone", 3600)
        assert held is not None
        again = await self.reopen(store)

        assert await again.next_wake() == _NOW
        assert await again.due(_NOW, 10, "new", 30) == [ref]
        assert await again.due(_NOW + _SECOND, 10, "new", 30) == [later]
        taken = await again.lease("sweeper", "new", 60)
        assert taken is not None
        assert taken.token > held.token

    async def test_a_lease_has_one_owner(self, store: Store) -> None:
        """Held, it is refused to others and renewed for its owner with the same token."""
        first = await store.lease("sweeper", "a", 60)
        renewed = await store.lease("sweeper", "a", 60)

        assert first is not None
        assert renewed is not None
        assert renewed.token == first.token
        assert renewed.expires_ns >= first.expires_ns
        assert await store.lease("sweeper", "b", 60) is None
        assert await store.lease("another", "b", 60) is not None

    async def test_the_token_of_a_lease_only_grows(self, store: Store) -> None:
        """Whoever takes an ended lease gets a greater token, so that the old one is fenced off."""
        tokens = []
        for owner in "abab":
            taken = await store.lease("sweeper", owner, 0)
            assert taken is not None
            assert (taken.name, taken.owner) == ("sweeper", owner)
            tokens.append(taken.token)

        assert tokens == sorted(set(tokens))

    async def test_changed_tells_of_a_commit(self, store: Store) -> None:
        """A ref that moves past its version is told within a second."""
        ref, other = new_ref(), new_ref()
        await put(store, new_commit(ref, 0))
        changes = store.changed({ref: 1})
        hint = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await put(store, new_commit(other, 0))
        await put(store, new_commit(ref, 1))

        assert await asyncio.wait_for(hint, _PATIENCE_S) == {ref}
        await changes.aclose()  # type: ignore[attr-defined]  # an async generator in each engine

    async def test_changed_tells_of_what_moved_before_it_listened(self, store: Store) -> None:
        """A commit between the caller's read and its listening is not lost."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        await put(store, new_commit(ref, 1))
        changes = store.changed({ref: 1})

        assert await asyncio.wait_for(anext(changes), _PATIENCE_S) == {ref}
        await changes.aclose()  # type: ignore[attr-defined]  # an async generator in each engine

    async def test_changed_reads_the_mapping_anew(self, store: Store) -> None:
        """A ref that the caller adds later is told of, even if it moved before."""
        watched: dict[Ref, int] = {}
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        changes = store.changed(watched)
        hint = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        watched[ref] = 0

        assert await asyncio.wait_for(hint, _PATIENCE_S) == {ref}
        await changes.aclose()  # type: ignore[attr-defined]  # an async generator in each engine

    async def test_forget_is_a_compare_and_set(self, store: Store) -> None:
        """On another version nothing is forgotten; an unknown ref conflicts too."""
        ref = new_ref()
        first = new_append(ref, 0)
        await put(store, Commit((first,)))

        stale = await store.forget(ref, 4, new_append(ref, 4))
        assert stale == Conflict(ref, 1, first.commit_id)
        assert len(await store.events(ref, 0, 10)) == 1
        unknown = new_ref()
        for base in (0, 1):
            answer = await store.forget(unknown, base, new_append(unknown, base))
            assert answer == Conflict(unknown, 0, b"")
        replayed = await store.forget(ref, 1, new_append(ref, 1, request_id=first.request_id))
        assert replayed == Replayed(ref, 1, first.fingerprint)

    async def test_forget_leaves_the_tombstone_and_its_event(self, store: Store) -> None:
        """The tombstone has `last` as its only event, and forgetting again is Committed."""
        ref = new_ref()
        index = Index(5, 1, "cus-1", 1, (("table", "4"),))
        appends = [new_append(ref, base, index=index) for base in range(5)]
        for append in appends:
            await put(store, Commit((append,)))
        last = new_append(ref, 5, personal=None, facts=b"forgotten")
        assert await store.forget(ref, 5, last) == Committed()
        assert await store.forget(ref, 5, last) == Committed()
        loaded = await store.load(ref, last.request_id)
        events = await store.events(ref, 0, 10)
        feed = [event for event in await store.feed(b"", 99) if event.ref == ref]

        assert loaded is not None
        assert loaded.tombstone
        assert loaded.version == 6
        assert loaded.body == last.body
        assert loaded.index == Index(created_ns=5)
        assert loaded.request_event is not None
        assert [event.facts for event in events] == [b"forgotten"]
        assert [event.version for event in feed] == [6]
        assert await store.event_by_request(ref, appends[2].request_id or b"") is None
        assert await store.versions([ref]) == {ref: 6}
        another = await store.forget(ref, 6, new_append(ref, 6))
        assert another == Conflict(ref, 6, last.commit_id)

    async def test_forget_keeps_what_it_is_told_to(self, store: Store) -> None:
        """Rows of the tables and claims of the spaces that are named stay; all others go."""
        ref, other = new_ref(), new_ref()
        tables = (*Table, _OTHER_TABLE)
        rows = tuple(new_row(table, ref) for table in tables)
        bystander = new_row(Table.ORDERS, other)
        channel = new_claim("channel", ref.id)
        provider = new_claim("provider", ref.id)
        foreign = new_claim("channel", other.id)
        detailed = new_claim("channel", f"{ref.id} 1")
        alike = new_claim("channel", f"{ref.id}!")
        await put(store, Commit((new_append(other, 0),), (foreign, alike), (), (bystander,)))
        await put(store, Commit((new_append(ref, 0),), (channel, provider, detailed), (), rows))
        keep = Keep((Table.PAYMENTS, _OTHER_TABLE), ("provider", "provider%"))
        await store.forget(ref, 1, new_append(ref, 1), keep)

        kept = {
            table: [row.key for row in await store.list_rows(table, RowFilter(), None, 9)]
            for table in tables
        }
        assert kept == {
            Table.PAYMENTS: [rows[0].key],
            Table.ORDERS: [bystander.key],
            Table.INBOX: [],
            Table.UNMATCHED: [],
            _OTHER_TABLE: [rows[-1].key],
        }
        assert await store.claim(channel.space, channel.key) is None
        assert await store.claim(provider.space, provider.key) == provider
        assert await store.claim(foreign.space, foreign.key) == foreign
        assert await store.claim(detailed.space, detailed.key) is None
        assert await store.claim(alike.space, alike.key) == alike

    async def test_forget_keeps_nothing_unasked(self, store: Store) -> None:
        """Without a word of what to keep, all rows and claims go; others' stay."""
        ref, other = new_ref(), new_ref()
        rows = tuple(new_row(table, ref) for table in (*Table, _OTHER_TABLE))
        claims = tuple(new_claim(space, ref.id) for space in ("provider", "channel"))
        bystander = new_row(_OTHER_TABLE, other)
        await put(store, Commit((new_append(other, 0),), rows=(bystander,)))
        await put(store, Commit((new_append(ref, 0),), claims, (), rows))
        await store.forget(ref, 1, new_append(ref, 1))

        for table in Table:
            assert await store.list_rows(table, RowFilter(), None, 9) == []
        left = await store.list_rows(_OTHER_TABLE, RowFilter(), None, 9)
        assert [row.key for row in left] == [bystander.key]
        for claim in claims:
            assert await store.claim(claim.space, claim.key) is None

    async def test_forget_deletes_a_long_log_while_others_commit(self, store: Store) -> None:
        """Whatever its length, everything goes, and commits of others go through meanwhile."""
        ref, other = new_ref(), new_ref()
        for base in range(1700):
            answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
            if base % 100 == 0:
                await answer
        await answer
        forgetting = asyncio.ensure_future(store.forget(ref, 1700, new_append(ref, 1700)))
        base = 0
        while not forgetting.done():
            assert await put(store, new_commit(other, base)) == Committed()
            base += 1

        assert await forgetting == Committed()
        assert [event.version for event in await store.events(ref, 0, 9999)] == [1701]
        assert {event.version for event in await store.feed(b"", 9999) if event.ref == ref} == {
            1701
        }

    async def test_a_cancelled_forget_is_finished(self, store: Store) -> None:
        """Deletion goes on without whoever asked for it."""
        ref = new_ref()
        for base in range(600):
            answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
        await answer
        task = asyncio.ensure_future(store.forget(ref, 600, new_append(ref, 600)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while [  # noqa: ASYNC110  # nobody is told when it is done; the feed is what shows it
            event.version for event in await store.feed(b"", 9999) if event.ref == ref
        ] != [601]:
            await asyncio.sleep(0)

        assert [event.version for event in await store.events(ref, 0, 9)] == [601]

    async def test_a_backup_is_complete_and_another_history(
        self, store: Store, tmp_path: Path
    ) -> None:
        """The copy holds every commit that was answered, and opens with a new epoch."""
        self.needs(self.lacks_backup)
        refs = [new_ref() for _ in range(20)]
        for ref in refs:
            await put(store, new_commit(ref, 0))
        steps: list[tuple[int, int]] = []
        target = tmp_path / "copy.db"
        info = await store.backup(target, lambda done, total: steps.append((done, total)))
        copy = await self.open_copy(target)
        found = [record.loaded.ref async for record in copy.scan()]
        await copy.close()

        assert info.path == target
        assert info.events == 20
        assert info.size_bytes > 0
        assert steps[-1][0] == steps[-1][1]
        assert found == sorted(refs)

    async def test_a_backup_never_overwrites(self, store: Store, tmp_path: Path) -> None:
        """The target must not exist."""
        self.needs(self.lacks_backup)
        target = tmp_path / "precious"
        target.write_bytes(b"precious")
        with pytest.raises(StoreError):
            await store.backup(target, lambda done, total: None)

        assert target.read_bytes() == b"precious"

    async def test_times_are_stored_to_the_nanosecond(self, store: Store) -> None:
        """No time is rounded."""
        ref = new_ref(2)
        now = time.time_ns() | 1
        await put(store, new_commit(ref, 0, time_ns=now, wake_at_ns=now + 2))
        loaded = await store.load(ref)

        assert loaded is not None
        assert (loaded.time_ns, loaded.wake_at_ns) == (now, now + 2)
