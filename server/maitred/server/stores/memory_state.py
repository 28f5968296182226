"""What a memory store holds, and how commits change it; knows nothing of loops and queues."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from maitred.server.stores.base import (
    Append,
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    Conflict,
    HeadFilter,
    Index,
    Keep,
    Lease,
    Loaded,
    Outcome,
    Record,
    Ref,
    Replayed,
    Row,
    RowFilter,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CURSOR_BYTES: Final = 8
_EXPIRED: Final = 16
"""Expired claims that one commit clears away."""


class Aggregate:
    """A head, its log, and what finds it."""

    __slots__ = ("events", "head", "leased_until_ns", "position", "requests")

    def __init__(self, position: int, head: Loaded) -> None:
        self.position = position
        self.head = head
        self.events: dict[int, StoredEvent] = {}
        self.requests: dict[bytes, int] = {}
        self.leased_until_ns = 0


class MemoryState:
    """All aggregates, claims, rows and leases of one store."""

    def __init__(self) -> None:
        self.aggregates: dict[Ref, Aggregate] = {}
        self.log: dict[int, StoredEvent] = {}
        self.claims: dict[tuple[str, str], Claim] = {}
        self._expiries: list[tuple[int, tuple[str, str]]] = []
        self.rows: dict[tuple[int, str], Row] = {}
        self.leases: dict[str, Lease] = {}
        self.next_event = 1
        self.next_row = 1

    def apply(self, commit: Commit, now_ns: int) -> Outcome:
        """Decide one commit and write it if nothing stands against it."""
        if any(self._is_applied(append) for append in commit.appends):
            return Committed()
        for decide in (self._replay, self._conflict):
            for append in commit.appends:
                if outcome := decide(append):
                    return outcome
        given_up = {claim[:3] for claim in commit.releases}
        for claim in commit.claims:
            held = self.claim_now(claim.space, claim.key, now_ns)
            if held and held.owner != claim.owner and held[:3] not in given_up:
                return ClaimTaken(*held[:3])
        for append in commit.appends:
            self._append(append)
        for claim in commit.releases:
            held = self.claims.get(claim[:2])
            if held and held.owner == claim.owner:
                del self.claims[claim[:2]]
        for claim in commit.claims:
            self.claims[claim[:2]] = claim
            if claim.expires_ns is not None:
                heapq.heappush(self._expiries, (claim.expires_ns, claim[:2]))
        self._expire_claims(now_ns)
        for row in commit.rows:
            self._write_row(row)
        for place in commit.drops:
            self.rows.pop(place, None)
        return Committed()

    def _is_applied(self, append: Append) -> bool:
        aggregate = self.aggregates.get(append.ref)
        event = aggregate.events.get(append.base + 1) if aggregate else None
        return event is not None and event.commit_id == append.commit_id

    def _replay(self, append: Append) -> Replayed | None:
        aggregate = self.aggregates.get(append.ref)
        if aggregate is None or append.request_id is None:
            return None
        version = aggregate.requests.get(append.request_id)
        if version is None:
            return None
        return Replayed(append.ref, version, aggregate.events[version].fingerprint)

    def _conflict(self, append: Append) -> Conflict | None:
        aggregate = self.aggregates.get(append.ref)
        if aggregate is None:
            return None if append.base == 0 else Conflict(append.ref, 0, b"")
        head = aggregate.head
        if head.version == append.base and not head.tombstone:
            return None
        return Conflict(append.ref, head.version, head.commit_id)

    def _append(self, append: Append, *, tombstone: bool = False) -> Aggregate:
        aggregate = self.aggregates.get(append.ref)
        index = append.index
        if index is None:
            index = aggregate.head.index if aggregate else Index(created_ns=append.time_ns)
        head = Loaded(
            ref=append.ref,
            version=append.base + 1,
            commit_id=append.commit_id,
            time_ns=append.time_ns,
            chain=append.chain,
            body=append.body,
            index=index,
            wake_at_ns=append.wake_at_ns,
            tombstone=tombstone,
        )
        if aggregate is None:
            aggregate = Aggregate(len(self.aggregates) + 1, head)
            self.aggregates[append.ref] = aggregate
        elif aggregate.head.wake_at_ns != append.wake_at_ns:
            aggregate.leased_until_ns = 0
        aggregate.head = head
        event = StoredEvent(
            ref=append.ref,
            version=head.version,
            commit_id=append.commit_id,
            request_id=append.request_id,
            fingerprint=append.fingerprint,
            time_ns=append.time_ns,
            change=append.change,
            facts=append.facts,
            personal=append.personal,
            chain=append.chain,
            cursor=self.next_event.to_bytes(CURSOR_BYTES, "big"),
        )
        aggregate.events[head.version] = event
        if append.request_id is not None:
            aggregate.requests[append.request_id] = head.version
        self.log[self.next_event] = event
        self.next_event += 1
        return aggregate

    def _write_row(self, row: Row) -> None:
        place = (row.table, row.key)
        before = self.rows.get(place)
        if before is None:
            position = self.next_row
            self.next_row += 1
        else:
            position = before.position
        self.rows[place] = row._replace(position=position)

    def forget(self, ref: Ref, base: int, last: Append, keep: Keep) -> Outcome:
        """Append `last`, leave a tombstone, delete the rest."""
        last = last._replace(ref=ref, base=base, wake_at_ns=None)
        before = self.aggregates.get(ref)
        if before is None:
            return Conflict(ref, 0, b"")
        if self._is_applied(last):
            return Committed()
        if other := self._replay(last) or self._conflict(last):
            return other
        if last.index is None:
            last = last._replace(index=Index(created_ns=before.head.index.created_ns))
        aggregate = self._append(last, tombstone=True)
        kept = aggregate.events[base + 1]
        for event in list(aggregate.events.values()):
            if event is not kept:
                del self.log[int.from_bytes(event.cursor, "big")]
                del aggregate.events[event.version]
        aggregate.requests = {} if last.request_id is None else {last.request_id: base + 1}
        self.rows = {
            place: row
            for place, row in self.rows.items()
            if row.ref != ref or row.table in keep.tables
        }
        self.claims = {
            place: claim
            for place, claim in self.claims.items()
            if claim.owner.partition(" ")[0] != ref.id or claim.space in keep.spaces
        }
        return Committed()

    def drop_leases(self) -> None:
        """End every lease; the tokens stay, so that the next ones are greater."""
        for aggregate in self.aggregates.values():
            aggregate.leased_until_ns = 0
        self.leases = {name: lease._replace(expires_ns=0) for name, lease in self.leases.items()}

    def restore(self, record: Record) -> bool:
        """Write an aggregate as another store kept it."""
        head = record.loaded._replace(request_event=None)
        if head.ref in self.aggregates:
            return False
        aggregate = Aggregate(len(self.aggregates) + 1, head)
        self.aggregates[head.ref] = aggregate
        for event in record.events:
            kept = event._replace(cursor=self.next_event.to_bytes(CURSOR_BYTES, "big"))
            aggregate.events[kept.version] = kept
            if kept.request_id is not None:
                aggregate.requests[kept.request_id] = kept.version
            self.log[self.next_event] = kept
            self.next_event += 1
        return True

    def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Erase the personal parts of those events."""
        aggregate = self.aggregates.get(ref)
        erased = 0
        for version in versions:
            event = aggregate and aggregate.events.get(version)
            if aggregate and event and event.personal is not None:
                event = event._replace(personal=None)
                aggregate.events[version] = event
                self.log[int.from_bytes(event.cursor, "big")] = event
                erased += 1
        return erased

    def _expire_claims(self, now_ns: int) -> None:
        """Delete a few claims that have expired: more than one commit adds, on the whole."""
        for _ in range(_EXPIRED):
            if not self._expiries or self._expiries[0][0] > now_ns:
                return
            expires_ns, place = heapq.heappop(self._expiries)
            held = self.claims.get(place)
            if held is not None and held.expires_ns == expires_ns:
                del self.claims[place]

    def claim_now(self, space: str, key: str, now_ns: int) -> Claim | None:
        """Return who owns a key; an expired claim counts as free."""
        held = self.claims.get((space, key))
        if held and held.expires_ns is not None and held.expires_ns <= now_ns:
            return None
        return held


def selects(where: HeadFilter, index: Index) -> bool:
    """Tell whether a filter selects an aggregate that has this index."""
    return (
        (not where.statuses or index.status in where.statuses)
        and (where.owner is None or index.owner == where.owner)
        and (where.flag is None or index.flag == where.flag)
        and set(where.labels) <= set(index.labels)
        and (where.created_from_ns is None or index.created_ns >= where.created_from_ns)
        and (where.created_before_ns is None or index.created_ns < where.created_before_ns)
    )


def selects_row(where: RowFilter, row: Row) -> bool:
    """Tell whether a filter selects a row."""
    return (
        (where.ref is None or row.ref == where.ref)
        and (not where.keys or row.key in where.keys)
        and (not where.statuses or row.status in where.statuses)
        and (where.flag is None or row.flag == where.flag)
        and (where.created_from_ns is None or row.created_ns >= where.created_from_ns)
        and (where.created_before_ns is None or row.created_ns < where.created_before_ns)
    )
