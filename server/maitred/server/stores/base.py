"""The Store protocol: what a storage engine stores, and what it guarantees.

A store knows nothing of gRPC, of protobuf or of the domain: bytes in, bytes out, plus the few typed
columns that lists and timers need. Every promise written here has a test in
`maitred.server.testing.stores.StoreContract`, which any engine, also one kept elsewhere, can run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from maitred.server.stores.failures import *  # noqa: F403  # they are part of the protocol
from maitred.server.stores.values import *  # noqa: F403  # so are these
from maitred.server.stores.values import (
    KEEP_NOTHING,
    Append,
    BackupInfo,
    Claim,
    Commit,
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
    StoreInfo,
)


class Store(Protocol):
    """A durable log of aggregates with compare-and-set appends.

    Reads return only durable data; where `StoreInfo.linearizable`, they see every commit that was
    acknowledged anywhere before the call. Drivers' exceptions never leave a store.

    Pages of `events`, `feed`, `list_heads` and `list_rows` end early once their facts and personal
    parts, or their bodies, hold PAGE_BYTES: one that is shorter than asked for is the last one only
    where it holds less.
    """

    async def open(self) -> StoreInfo:
        """Open, migrate to the newest schema, see to it that interrupted deletions are finished.

        Where the store is exclusive, every lease ends: whoever held one is gone.

        Raises: StoreLocked, SchemaTooNew, StoreUnavailable, CorruptData.
        """

    async def check(self) -> None:
        """Ask whether the store answers and is still for this version of maitred.

        Raises: SchemaTooNew, where a newer server has meanwhile taken away what this one needs;
        StoreUnavailable.
        """

    async def close(self) -> None:
        """Commit what is queued, then close. Later calls answer StoreUnavailable."""

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit. Never blocks, never raises for reasons of the data, cannot be cancelled.

        `done` is called exactly once, on the event loop, after durability; all of one batch in one
        synchronous pass; in version order within an aggregate. Outcomes are decided in the order
        replay, version, claims. A commit that is already applied, by `commit_id`, is Committed.
        Releases count before claims, so that a key can change hands in one commit; a claim that its
        owner holds already is renewed. Data that the engine cannot hold is a plain StoreError, and
        certainly not applied.
        The caller keeps at most one submission in flight for each ref.
        """

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read the head, tombstone included, and the event of `request_id`, from one snapshot."""

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""

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
        """Read events with `after` < version < `before`, ascending unless `newest_first`.

        Without gaps: a missing one raises CorruptData. With `changes` only those are read, and
        whatever is missing is not noticed.
        """

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read the event that a request produced."""

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key."""

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """List aggregates, newest first. `after` is the position of the last one before the page.

        Stable under writes: one that exists throughout is listed exactly once.
        """

    async def list_rows(
        self,
        table: int,
        where: RowFilter,
        after: int | None,
        limit: int,
        *,
        newest_first: bool = True,
    ) -> list[Row]:
        """List projection rows in order of their first writing; stable as `list_heads` is."""

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read events of all aggregates after a cursor; `b""` is the beginning.

        At least once, in version order within an aggregate; misses nothing.
        """

    async def feed_end(self) -> bytes:
        """Read the cursor behind which only events committed from now on are found."""

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Take aggregates whose `wake_at_ns` has come, earliest first.

        One taken is handed to nobody for `lease_s` from `now_ns`, to its owner neither. A commit
        that moves `wake_at_ns` ends the lease. May hand one out early, never late, and the order is
        about right where times were moved later. Only saves work; safety is the compare-and-set.
        """

    async def next_wake(self) -> int | None:
        """Read when `due` may next find something, so that a sweeper can sleep until then.

        May be early, never late; calling `due` at that time always moves it forward.
        """

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease by the store's own clock; None while another owner holds it."""

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield sets of refs that may have moved past the version given.

        A hint: it may repeat or merge, and never withholds a ref for more than a second. `refs` is
        read anew each time, so that the caller may change it.
        """

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Append `last` on `base` as a tombstone, then delete everything else in bounded pieces.

        Keeps the tombstone with `last` as its only event, and of the rows and the claims those
        that `keep` names; claims are the aggregate's where their owner is `ref.id`, or begins with
        it and a space. Its index is that of `last`, or nothing but `created_ns`. The id is never
        free again. Interrupted, it is finished after `open`, by what `keep` said.
        """

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Set `personal` of those events to None, in every copy; returns how many had any."""

    def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates, tombstones included, in the order of their refs."""

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """List claims, expired ones included, in the order of (space, key), after one of these."""

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as they were scanned, byte for byte: heads, tombstones, whole logs.

        Each is written whole or not at all; one whose ref exists is left as it is. Answers how
        many were written. Listings and the feed have them in the order given, after what is there.
        Their rows are not written: these are put into commits, in an order of their own.
        """

    async def adopt(self, secret: bytes) -> None:
        """Take over the secret of the data that are being copied here, for good.

        What was stored under another one no longer counts: only for a store that holds nothing
        of its own. `StoreInfo` has it from the next `open` on.
        """

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind, tombstones excluded; may be an estimate above 10 000."""

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Write a consistent, checked copy to a path that must not exist; renamed into place."""
