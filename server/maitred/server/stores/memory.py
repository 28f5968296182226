"""The memory store: every guarantee of the protocol except durability."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

from maitred.server.stores.base import (
    KEEP_NOTHING,
    SECRET_BYTES,
    Append,
    BackupInfo,
    Claim,
    Commit,
    Committed,
    Done,
    Head,
    HeadFilter,
    Keep,
    Kind,
    Lease,
    Loaded,
    Outcome,
    Progress,
    Record,
    Ref,
    Row,
    RowFilter,
    StoredEvent,
    StoreError,
    StoreFull,
    StoreInfo,
    StoreUnavailable,
)
from maitred.server.stores.changes import Changes
from maitred.server.stores.memory_state import CURSOR_BYTES, MemoryState, selects, selects_row
from maitred.server.stores.values import body_size, event_size, page_of
from maitred.server.units import NS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_log = structlog.get_logger(__name__)

QUEUE_COMMITS: Final = 4096
RECORD_EVENTS: Final = 500
_EPOCH_BYTES: Final = 16


class MemoryStore:
    """A store for tests and for trying things out. Exclusive; what it holds ends with it."""

    def __init__(
        self,
        *,
        queue_commits: int = QUEUE_COMMITS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare an empty store."""
        self._queue_commits = queue_commits
        self._clock_ns = clock_ns
        self._queue: deque[tuple[Commit, Done]] = deque()
        self._scheduled = False
        self._open = False
        self._changes = Changes()
        self._state = MemoryState()
        self._epoch = os.urandom(_EPOCH_BYTES)
        self._secret = os.urandom(SECRET_BYTES)

    async def open(self) -> StoreInfo:
        """Open; there is nothing to migrate."""
        if self._open:
            raise StoreError("the store is open already")
        self._open = True
        self._changes = Changes()
        self._state.drop_leases()
        return StoreInfo(
            engine="memory",
            epoch=self._epoch,
            schema=1,
            secret=self._secret,
            exclusive=True,
            cross_aggregate=True,
            linearizable=True,
            backup=False,
        )

    async def check(self) -> None:
        """Answer that the store is open."""
        self._check_open()

    async def close(self) -> None:
        """Commit what is queued, then close."""
        if self._open:
            self._open = False
            self._flush()
            self._changes.close()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")

    # ---------------------------------------------------------------- writing

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit; it is applied by the loop, with all that are queued by then."""
        loop = asyncio.get_running_loop()
        if not self._open:
            loop.call_soon(done, StoreUnavailable("the store is closed"))
            return
        if len(self._queue) >= self._queue_commits:
            loop.call_soon(done, StoreFull("too many commits are queued"))
            return
        self._queue.append((commit, done))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = list(self._queue)
        self._queue.clear()
        now = self._clock_ns()
        answers = [self._state.apply(commit, now) for commit, _ in batch]
        for (commit, done), answer in zip(batch, answers, strict=True):
            try:
                done(answer)
            except Exception:  # noqa: BLE001  # logged below; whatever it is, it is the caller's
                # A caller's mistake must not keep the rest of the batch from its answers.
                _log.exception("a completion callback failed")
            if isinstance(answer, Committed) and self._changes:
                self._changes.publish(append.ref for append in commit.appends)

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Append `last`, leave a tombstone, delete the rest."""
        self._check_open()
        self._flush()
        outcome = self._state.forget(ref, base, last, keep)
        if isinstance(outcome, Committed):
            self._changes.publish([ref])
        return outcome

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Erase the personal parts of those events."""
        self._check_open()
        self._flush()
        return self._state.redact(ref, versions)

    # ---------------------------------------------------------------- reading

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read the head and the event of `request_id`."""
        self._check_open()
        aggregate = self._state.aggregates.get(ref)
        if aggregate is None or request_id is None:
            return aggregate.head if aggregate else None
        version = aggregate.requests.get(request_id)
        event = None if version is None else aggregate.events[version]
        return aggregate.head._replace(request_event=event)

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""
        self._check_open()
        found = ((ref, self._state.aggregates.get(ref)) for ref in refs)
        return {ref: aggregate.head.version for ref, aggregate in found if aggregate}

    async def events(
        self,
        ref: Ref,
        after: int,
        limit: int,
        changes: Sequence[int] | None = None,
        *,
        before: int | None = None,
        newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Read a page of an aggregate's log."""
        self._check_open()
        aggregate = self._state.aggregates.get(ref)
        if aggregate is None:
            return []
        start = aggregate.head.version if aggregate.head.tombstone else 1
        last = aggregate.head.version if before is None else min(before - 1, aggregate.head.version)
        versions = range(max(after + 1, start), last + 1)
        chosen = (
            aggregate.events[version]
            for version in (reversed(versions) if newest_first else versions)
            if changes is None or aggregate.events[version].change in changes
        )
        return page_of(islice(chosen, limit), event_size)

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read the event that a request produced."""
        found = await self.load(ref, request_id)
        return None if found is None else found.request_event

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key."""
        self._check_open()
        return self._state.claim_now(space, key, self._clock_ns())

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """List aggregates, newest first."""
        self._check_open()
        found = (
            Head(ref, aggregate.head.version, aggregate.head.body, aggregate.position)
            for ref, aggregate in reversed(self._state.aggregates.items())
            if ref.kind == kind
            and (after is None or aggregate.position < after)
            and not aggregate.head.tombstone
            and selects(where, aggregate.head.index)
        )
        return page_of(islice(found, limit), body_size)

    async def list_rows(
        self,
        table: int,
        where: RowFilter,
        after: int | None,
        limit: int,
        *,
        newest_first: bool = True,
    ) -> list[Row]:
        """List projection rows in order of their first writing."""
        self._check_open()
        found = sorted(
            (
                row
                for row in self._state.rows.values()
                if row.table == table and selects_row(where, row)
            ),
            key=lambda row: row.position,
            reverse=newest_first,
        )
        if after is not None:
            found = [
                row
                for row in found
                if (row.position < after if newest_first else row.position > after)
            ]
        return page_of(found[:limit], body_size)

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read events of all aggregates after a cursor."""
        self._check_open()
        if len(after) not in (0, CURSOR_BYTES):
            raise ValueError("this is no cursor of this store")
        log = self._state.log
        positions = range(int.from_bytes(after, "big") + 1, self._state.next_event)
        found = (log[position] for position in positions if position in log)
        return page_of(islice(found, limit), event_size)

    async def feed_end(self) -> bytes:
        """Read the cursor behind which only later events are found."""
        self._check_open()
        return (self._state.next_event - 1).to_bytes(CURSOR_BYTES, "big")

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Take aggregates whose time has come."""
        self._check_open()
        ripe = sorted(
            (aggregate.head.wake_at_ns, aggregate.position, aggregate)
            for aggregate in self._state.aggregates.values()
            if aggregate.head.wake_at_ns is not None
            and aggregate.head.wake_at_ns <= now_ns
            and aggregate.leased_until_ns <= now_ns
        )
        for _, _, aggregate in ripe[:limit]:
            aggregate.leased_until_ns = now_ns + max(1, int(lease_s * NS))
        return [aggregate.head.ref for _, _, aggregate in ripe[:limit]]

    async def next_wake(self) -> int | None:
        """Read the earliest time at which `due` may find something."""
        self._check_open()
        return min(
            (
                max(aggregate.head.wake_at_ns, aggregate.leased_until_ns)
                for aggregate in self._state.aggregates.values()
                if aggregate.head.wake_at_ns is not None
            ),
            default=None,
        )

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease."""
        self._check_open()
        now = self._clock_ns()
        before = self._state.leases.get(name)
        held = before is not None and before.expires_ns > now
        if before is not None and held and before.owner != owner:
            return None
        token = 1 if before is None else before.token + (0 if held else 1)
        self._state.leases[name] = Lease(name, owner, token, now + int(ttl_s * NS))
        return self._state.leases[name]

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield sets of refs that may have moved."""
        return self._changes.listen(refs, self.versions)

    async def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates in the order of their refs."""
        self._check_open()
        for ref in sorted(ref for ref in self._state.aggregates if after is None or ref > after):
            aggregate = self._state.aggregates[ref]
            rows = tuple(
                sorted(
                    (row for row in self._state.rows.values() if row.ref == ref),
                    key=lambda row: row.position,
                )
            )
            read, more = 0, True
            while more:
                events = tuple(await self.events(ref, read, RECORD_EVENTS))
                read = events[-1].version if events else aggregate.head.version
                more = read < aggregate.head.version
                yield Record(aggregate.head, events, rows, more)
                rows = ()

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """List claims in order."""
        self._check_open()
        places = sorted(place for place in self._state.claims if after is None or place > after)
        return [self._state.claims[place] for place in places[:limit]]

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as they were scanned."""
        self._check_open()
        return sum([self._state.restore(record) for record in records])

    async def adopt(self, secret: bytes) -> None:
        """Take over another store's secret."""
        self._check_open()
        self._secret = secret

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind."""
        self._check_open()
        return sum(
            ref.kind == kind and not aggregate.head.tombstone
            for ref, aggregate in self._state.aggregates.items()
        )

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Refuse: there is no file to copy."""
        raise StoreUnavailable("the memory store has no backup")
