"""Copies everything from one store to another, and verifies the copy.

Aggregates are written in the order in which they were made, whole and byte for byte; rows and
claims follow, each in its own order. A copy that was interrupted is run again: what is there is not
written twice. Nobody may write to either store meanwhile; if somebody did, the proof says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from maitred.server.engine import audit, claims
from maitred.server.errors import MaitredError
from maitred.server.kinds import Kinds
from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Claim,
    ClaimTaken,
    Commit,
    Kind,
    Loaded,
    Record,
    Ref,
    Row,
    RowFilter,
    Store,
    StoredEvent,
    StoreError,
)

PAGE = 500
BATCH_AGGREGATES = 200
BATCH_BYTES = 4 * 1024 * 1024
TOGETHER = 16
"""So many aggregates are read at a time: engines at a distance answer them together."""

MOST_PROBLEMS = 100

Tell = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, of how much)."""


class Copied(NamedTuple):
    """What a copy moved and found."""

    aggregates: int
    events: int
    rows: int
    claims: int
    problems: tuple[str, ...]


class Copy:
    """One copy from an open store into another."""

    def __init__(
        self,
        source: Store,
        target: Store,
        kinds: Kinds,
        tell: Tell,
        *,
        secrets: tuple[bytes, bytes],
        inbound_expires_ns: int,
    ) -> None:
        """Prepare a copy between open stores; `secrets` are the source's and the target's.

        Chat messages that the source keeps in an older form are known until `inbound_expires_ns`.
        """
        self._source = source
        self._target = target
        self._kinds = kinds
        tables = {table for kind in kinds.values() for table in kind.tables}
        self._tables = sorted(tables | set(Table))
        self._tell = tell
        self._secrets = secrets
        self._inbound_expires_ns = inbound_expires_ns
        self._events = 0
        self._problems: list[str] = []

    async def run(self) -> Copied:
        """Copy, then compare. Raises: StoreError; run again, it goes on where it was."""
        await self._adopt()
        refs = await self._refs_by_age()
        await self._copy_aggregates(refs)
        rows = sum([await self._copy_rows(table) for table in self._tables])
        claims = await self._copy_claims()
        await self._compare(refs)
        return Copied(len(refs), self._events, rows, claims, tuple(self._problems))

    async def _adopt(self) -> None:
        """Give the target the source's secret: the digests that are copied were made with it."""
        theirs, ours = self._secrets
        if not theirs or theirs == ours:
            return
        for space in claims.DIGESTED:
            found = await self._target.list_claims((space, ""), 1)
            if found and found[0].space == space:
                raise StoreError("the target holds data of its own: copy into an empty store")
        await self._target.adopt(theirs)

    def _today(self, claim: Claim) -> Claim:
        """Return a claim of the source as the target keeps it."""
        theirs, ours = self._secrets
        return claims.conceal(claim, theirs or ours, self._inbound_expires_ns)

    async def _refs_by_age(self) -> list[Ref]:
        """Name all aggregates in the order in which listings have them, oldest first."""
        ages: dict[Ref, int] = {}
        async for record in self._source.scan():
            ages[record.loaded.ref] = record.loaded.index.created_ns
            self._events += len(record.events)
            self._tell("reading", len(ages), 0)
        return sorted(ages, key=lambda ref: (ages[ref], ref))

    async def _copy_aggregates(self, refs: Sequence[Ref]) -> None:
        batch: list[Record] = []
        size = 0
        for done, start in enumerate(range(0, len(refs), PAGE)):
            page = refs[start : start + PAGE]
            there = await self._target.versions(page)
            missing = [ref for ref in page if ref not in there]
            for first in range(0, len(missing), TOGETHER):
                few = missing[first : first + TOGETHER]
                records = await asyncio.gather(*map(self._whole, few))
                batch += records
                size += sum(map(_size, records))
                if len(batch) >= BATCH_AGGREGATES or size >= BATCH_BYTES:
                    await self._target.restore(batch)
                    batch, size = [], 0
            self._tell("copying", done * PAGE + len(page), len(refs))
        if batch:
            await self._target.restore(batch)

    async def _whole(self, ref: Ref) -> Record:
        """Read an aggregate with its whole log."""
        loaded = await self._source.load(ref)
        if loaded is None:
            raise StoreError(f"{ref.id!r} is gone: somebody writes to the source")
        events = [event async for event in _log(self._source, loaded)]
        return Record(loaded, tuple(events), (), more=False)

    async def _copy_rows(self, table: int) -> int:
        count = 0
        async for page in _row_pages(self._source, table):
            await self._write(Commit((), rows=tuple(page)))
            count += len(page)
            self._tell(f"copying rows of table {table}", count, 0)
        return count

    async def _copy_claims(self) -> int:
        count = 0
        async for page in _claim_pages(self._source):
            await self._write(Commit((), claims=tuple(map(self._today, page))))
            count += len(page)
            self._tell("copying claims", count, 0)
        return count

    async def _write(self, commit: Commit) -> None:
        """Submit until it is known what became of it."""
        outcome = await claims.submit(self._target, commit)
        if isinstance(outcome, ClaimTaken):
            self._found(f"claim {outcome.space}/{outcome.key} is owned by {outcome.owner}")

    # --- the proof -----------------------------------------------------------------------------

    async def _compare(self, refs: Sequence[Ref]) -> None:
        for start in range(0, len(refs), TOGETHER):
            page = refs[start : start + TOGETHER]
            await asyncio.gather(*map(self._compare_one, page))
            self._tell("comparing", start + len(page), len(refs))
        for number in {ref.kind for ref in refs} | set(self._kinds):
            ours, theirs = await self._target.count(number), await self._source.count(number)
            if ours != theirs:
                self._found(f"the target has {ours} of kind {self._name(number)}, not {theirs}")
        for table in self._tables:
            await self._same(
                f"rows of table {table}",
                _rows(self._source, table),
                _rows(self._target, table),
            )
        await self._same_claims()

    async def _compare_one(self, ref: Ref) -> None:
        """Hold an aggregate against its original: the head, each event, the chain and the fold."""
        name = f"{self._name(ref.kind)} {ref.id!r}"
        try:
            ours, theirs = await self._target.load(ref), await self._source.load(ref)
            if ours is None or theirs is None or _head(ours) != _head(theirs):
                self._found(f"{name}: the head differs; was anybody writing?")
                return
            originals = _log(self._source, theirs)
            async for event in _log(self._target, ours):
                if _event(event) != _event(await anext(originals)):
                    self._found(f"{name}: version {event.version} differs")
                    return
            kind = self._kinds.get(ref.kind)
            if kind is None:
                return
            report = await audit.verify(self._target, kind, ref)
        except (MaitredError, StoreError, ValueError) as error:
            self._found(f"{name}: {error}")
            return
        for violation in report.violations if report is not None else ():
            self._found(f"{name}, version {violation.version}: {violation.detail}")

    async def _same_claims(self) -> None:
        """Compare the claims that do not expire: of the others some may be gone already."""
        expected = 0
        async for page in _claim_pages(self._source):
            lasting = [each for each in map(self._today, page) if each.expires_ns is None]
            expected += len(lasting)
            for start in range(0, len(lasting), TOGETHER):
                few = lasting[start : start + TOGETHER]
                found = await asyncio.gather(*(self._target.claim(*each[:2]) for each in few))
                if found != few:
                    self._found("claims differ; was the target empty, and nobody writing?")
                    return
        count = 0
        async for page in _claim_pages(self._target):
            count += sum(each.expires_ns is None for each in page)
        if count > expected:
            self._found("the target has more claims than the source")

    async def _same(
        self, what: str, source: AsyncIterator[object], target: AsyncIterator[object]
    ) -> None:
        async for original in source:
            if await anext(target, None) != original:
                self._found(f"{what} differ; was the target empty, and nobody writing?")
                return
        if await anext(target, None) is not None:
            self._found(f"the target has more {what} than the source")

    def _name(self, number: Kind) -> str:
        kind = self._kinds.get(number)
        return f"kind {number}" if kind is None else kind.name

    def _found(self, problem: str) -> None:
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(problem)


async def _log(store: Store, head: Loaded) -> AsyncIterator[StoredEvent]:
    """Iterate over the log up to a head; a tombstone's is its last event alone."""
    after = head.version - 1 if head.tombstone else 0
    while after < head.version:
        page = await store.events(head.ref, after, PAGE, before=head.version + 1)
        if not page:
            return
        for event in page:
            yield event
        after = page[-1].version


async def _row_pages(store: Store, table: int) -> AsyncIterator[Sequence[Row]]:
    after: int | None = None
    while page := await store.list_rows(table, RowFilter(), after, PAGE, newest_first=False):
        yield page
        after = page[-1].position


async def _claim_pages(store: Store) -> AsyncIterator[Sequence[Claim]]:
    after: tuple[str, str] | None = None
    while page := await store.list_claims(after, PAGE):
        yield page
        after = page[-1][:2]


async def _rows(store: Store, table: int) -> AsyncIterator[object]:
    """Iterate over rows; their places are a store's own, their order is not."""
    async for page in _row_pages(store, table):
        for row in page:
            yield row._replace(position=0)


def _size(record: Record) -> int:
    return len(record.loaded.body) + sum(
        len(event.facts) + len(event.personal or b"") for event in record.events
    )


def _head(head: Loaded) -> Loaded:
    return head._replace(request_event=None)


def _event(event: StoredEvent) -> StoredEvent:
    """Leave out what is a store's own."""
    return event._replace(commit_id=b"", cursor=b"")
