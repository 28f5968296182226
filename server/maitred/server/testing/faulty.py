"""`FaultyStore`: a real store whose next answers follow a script."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import TYPE_CHECKING

from maitred.server.stores.base import (
    KEEP_NOTHING,
    Append,
    BackupInfo,
    Claim,
    Commit,
    Conflict,
    CorruptData,
    Done,
    Head,
    HeadFilter,
    Keep,
    Kind,
    Lease,
    Loaded,
    Outcome,
    OutcomeUnknown,
    Progress,
    Record,
    Ref,
    Row,
    RowFilter,
    Store,
    StoredEvent,
    StoreError,
    StoreFull,
    StoreInfo,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Fault", "FaultyStore"]


class Fault(enum.Enum):
    """What happens to one call."""

    NONE = "the call goes through"
    CONFLICT = "not applied; answered as if somebody else had moved the aggregate"
    FULL = "not applied; StoreFull"
    UNAVAILABLE = "not applied; StoreUnavailable"
    UNKNOWN_APPLIED = "applied; OutcomeUnknown"
    UNKNOWN_ABSENT = "not applied; OutcomeUnknown"
    APPLIED_LATE = "OutcomeUnknown now; applied when `release` is called"
    CORRUPT = "CorruptData; for reads only"


_READ_FAULTS = frozenset({Fault.NONE, Fault.UNAVAILABLE, Fault.CORRUPT})


class FaultyStore:
    """Delegates to a store, except where the script says otherwise.

    `fail_writes` scripts the next `submit` and `forget` calls, `fail_reads` the next `load`,
    `versions` and `event_by_request` calls, one fault for each call, in order.
    """

    def __init__(self, inner: Store) -> None:
        """Wrap a store; whoever made it may go on using it beside the wrapper."""
        self.inner = inner
        self.submitted: list[Commit] = []
        self._writes: deque[Fault] = deque()
        self._reads: deque[Fault] = deque()
        self._late: list[Commit] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- the script

    def fail_writes(self, *faults: Fault) -> None:
        """Script the next writes. Raises: ValueError for a fault that only reads have."""
        if Fault.CORRUPT in faults:
            raise ValueError("a write cannot be CORRUPT")
        self._writes.extend(faults)

    def fail_reads(self, *faults: Fault) -> None:
        """Script the next reads. Raises: ValueError for a fault that only writes have."""
        if not _READ_FAULTS.issuperset(faults):
            raise ValueError(
                f"a read can only be {', '.join(sorted(f.name for f in _READ_FAULTS))}"
            )
        self._reads.extend(faults)

    @property
    def pending(self) -> int:
        """How many scripted faults have not happened yet."""
        return len(self._writes) + len(self._reads)

    async def release(self) -> list[Outcome | StoreError]:
        """Submit the commits that were to be applied late; answers what became of them."""
        late, self._late = self._late, []
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Outcome | StoreError]] = []
        for commit in late:
            answer: asyncio.Future[Outcome | StoreError] = loop.create_future()
            self.inner.submit(commit, answer.set_result)
            answers.append(answer)
        return [await answer for answer in answers]

    # ---------------------------------------------------------------- writing

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit, or do what the script says."""
        self.submitted.append(commit)
        fault = self._writes.popleft() if self._writes else Fault.NONE
        later = asyncio.get_running_loop().call_soon
        match fault:
            case Fault.NONE:
                self.inner.submit(commit, done)
            case Fault.CONFLICT:
                self._spawn(commit.appends[0].ref, done)
            case Fault.UNKNOWN_APPLIED:
                unknown = OutcomeUnknown("scripted: applied")
                self.inner.submit(commit, lambda outcome: done(unknown))
            case Fault.APPLIED_LATE:
                self._late.append(commit)
                later(done, OutcomeUnknown("scripted: applied late"))
            case _:
                later(done, _error(fault))

    def _spawn(self, ref: Ref, done: Done) -> None:
        async def answer() -> None:
            done(await self._conflict(ref))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _conflict(self, ref: Ref) -> Conflict:
        head = await self.inner.load(ref)
        return (
            Conflict(ref, 0, b"") if head is None else Conflict(ref, head.version, head.commit_id)
        )

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Forget an aggregate, or do what the script says; one that is late never happens."""
        fault = self._writes.popleft() if self._writes else Fault.NONE
        match fault:
            case Fault.NONE:
                return await self.inner.forget(ref, base, last, keep)
            case Fault.CONFLICT:
                return await self._conflict(ref)
            case Fault.UNKNOWN_APPLIED:
                await self.inner.forget(ref, base, last, keep)
                raise OutcomeUnknown("scripted: applied")
            case _:
                raise _error(fault)

    # ---------------------------------------------------------------- reading

    def _read(self) -> None:
        fault = self._reads.popleft() if self._reads else Fault.NONE
        if fault is not Fault.NONE:
            raise _error(fault)

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read a head, or do what the script says."""
        self._read()
        return await self.inner.load(ref, request_id)

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read versions, or do what the script says."""
        self._read()
        return await self.inner.versions(refs)

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read an event, or do what the script says."""
        self._read()
        return await self.inner.event_by_request(ref, request_id)

    # ---------------------------------------------------------------- delegated

    async def open(self) -> StoreInfo:
        """Open the inner store."""
        return await self.inner.open()

    async def check(self) -> None:
        """Delegate."""
        await self.inner.check()

    async def close(self) -> None:
        """Close the inner store, after the answers that are still on their way."""
        if self._tasks:
            await asyncio.gather(*self._tasks)
        await self.inner.close()

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
        """Delegate."""
        return await self.inner.events(
            ref, after, limit, changes, before=before, newest_first=newest_first
        )

    async def claim(self, space: str, key: str) -> Claim | None:
        """Delegate."""
        return await self.inner.claim(space, key)

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """Delegate."""
        return await self.inner.list_heads(kind, where, after, limit)

    async def list_rows(
        self,
        table: int,
        where: RowFilter,
        after: int | None,
        limit: int,
        *,
        newest_first: bool = True,
    ) -> list[Row]:
        """Delegate."""
        return await self.inner.list_rows(table, where, after, limit, newest_first=newest_first)

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Delegate."""
        return await self.inner.feed(after, limit)

    async def feed_end(self) -> bytes:
        """Delegate."""
        return await self.inner.feed_end()

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Delegate."""
        return await self.inner.due(now_ns, limit, owner, lease_s)

    async def next_wake(self) -> int | None:
        """Delegate."""
        return await self.inner.next_wake()

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Delegate."""
        return await self.inner.lease(name, owner, ttl_s)

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Delegate."""
        return self.inner.changed(refs)

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Delegate."""
        return await self.inner.redact(ref, versions)

    def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Delegate."""
        return self.inner.scan(after)

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """Delegate."""
        return await self.inner.list_claims(after, limit)

    async def restore(self, records: Sequence[Record]) -> int:
        """Delegate."""
        return await self.inner.restore(records)

    async def adopt(self, secret: bytes) -> None:
        """Delegate."""
        await self.inner.adopt(secret)

    async def count(self, kind: Kind) -> int:
        """Delegate."""
        return await self.inner.count(kind)

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Delegate."""
        return await self.inner.backup(target, progress)


def _error(fault: Fault) -> StoreError:
    match fault:
        case Fault.FULL:
            return StoreFull("scripted: full")
        case Fault.UNAVAILABLE:
            return StoreUnavailable("scripted: unavailable")
        case Fault.CORRUPT:
            return CorruptData("scripted: corrupt")
        case _:
            return OutcomeUnknown(f"scripted: {fault.value}")
