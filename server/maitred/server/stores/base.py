"""The Store protocol: what an engine keeps, and what it promises about it.

A store knows nothing of gRPC, of protobuf or of the domain: bytes in, bytes out, plus the few typed
columns that lists and timers need. Every promise written here has a test in
`maitred.server.testing.stores.StoreContract`, which any engine, also one kept elsewhere, can run.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from maitred.server.stores.failures import *  # noqa: F403  # they are part of the protocol
from maitred.server.stores.failures import StoreError


class Kind(enum.IntEnum):
    """What an aggregate is. The numbers are stored: append, never renumber."""

    SESSION = 1
    CUSTOMER = 2
    MENU = 3
    FLOW_DEFINITION = 4


class Table(enum.IntEnum):
    """A projection that commits write beside the log. The numbers are stored."""

    PAYMENTS = 1
    ORDERS = 2
    INBOX = 3


class Ref(NamedTuple):
    """The name of one aggregate."""

    kind: Kind
    id: str


class Index(NamedTuple):
    """The typed columns of an aggregate that `list_heads` filters on."""

    created_ns: int
    status: int = 0
    customer_id: str = ""
    attention: int = 0
    labels: tuple[tuple[str, str], ...] = ()


class Append(NamedTuple):
    """One aggregate's share of a commit: one event and the state that it leads to.

    `base` is the version that the event was decided on, 0 for a new aggregate, which then must not
    exist, not even as a tombstone. `facts`, `personal`, `chain` and `body` are stored and returned
    verbatim. `request_id` is 16 bytes (the engine digests the caller's), unique in its aggregate.
    `index` is None where no indexed column differs from `base`.
    """

    ref: Ref
    base: int
    commit_id: bytes
    request_id: bytes | None
    fingerprint: bytes
    time_ns: int
    change: int
    facts: bytes
    personal: bytes | None
    chain: bytes
    body: bytes
    index: Index | None  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    wake_at_ns: int | None


class Claim(NamedTuple):
    """A unique key with an owner. An expired claim counts as free."""

    space: str
    key: str
    owner: str
    expires_ns: int | None = None


class Row(NamedTuple):
    """One row of a projection, written whole; the key is unique in its table."""

    table: Table
    key: str
    ref: Ref
    created_ns: int
    body: bytes
    status: int = 0
    flag: int = 0
    position: int = 0
    """Set by the store on reading: the place to continue a listing from."""


class Commit(NamedTuple):
    """Everything that one command changes: all of it is stored, or nothing is.

    Without an append it is claims and rows alone, such as a message that is taken in.
    """

    appends: tuple[Append, ...]
    claims: tuple[Claim, ...] = ()
    releases: tuple[Claim, ...] = ()
    rows: tuple[Row, ...] = ()
    drops: tuple[tuple[Table, str], ...] = ()
    """Rows to delete, by table and key; one that is not there is no error."""


class Committed(NamedTuple):
    """The commit is durable (or was already: submitting it again changes nothing)."""


class Conflict(NamedTuple):
    """The aggregate was not at the version that the commit was decided on."""

    ref: Ref
    version: int
    """The version found; 0 where the aggregate does not exist."""
    commit_id: bytes
    """The commit that produced that version; empty where there is none."""


class Replayed(NamedTuple):
    """The log already holds this request id; nothing was changed."""

    ref: Ref
    version: int
    """The version of the event that the request produced."""
    fingerprint: bytes


class ClaimTaken(NamedTuple):
    """Somebody else owns a key of the commit; nothing was changed."""

    space: str
    key: str
    owner: str


Outcome = Committed | Conflict | Replayed | ClaimTaken


class StoredEvent(NamedTuple):
    """One row of the log, byte for byte as it was appended.

    `commit_id` may be empty on all but the newest event of an aggregate: only that one's is needed.
    """

    ref: Ref
    version: int
    commit_id: bytes
    request_id: bytes | None
    fingerprint: bytes
    time_ns: int
    change: int
    facts: bytes
    personal: bytes | None
    chain: bytes
    cursor: bytes = b""
    """Where `feed` continues after this event; opaque, comparable only by the store."""


class Loaded(NamedTuple):
    """The head of an aggregate and, if asked for, the event of one request: one consistent read."""

    ref: Ref
    version: int
    commit_id: bytes
    time_ns: int
    chain: bytes
    body: bytes
    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    wake_at_ns: int | None
    tombstone: bool
    request_event: StoredEvent | None = None


class Head(NamedTuple):
    """One line of a listing."""

    ref: Ref
    version: int
    body: bytes
    position: int


class HeadFilter(NamedTuple):
    """What `list_heads` selects; None or empty selects all. Tombstones are never listed."""

    statuses: tuple[int, ...] = ()
    customer_id: str | None = None
    attention: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_from_ns: int | None = None
    created_before_ns: int | None = None


class RowFilter(NamedTuple):
    """What `list_rows` selects; None or empty selects all."""

    ref: Ref | None = None
    keys: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    flag: int | None = None
    created_from_ns: int | None = None
    created_before_ns: int | None = None


class Lease(NamedTuple):
    """A named right to work, for a while. The token only grows, so that it can fence."""

    name: str
    owner: str
    token: int
    expires_ns: int


class StoreInfo(NamedTuple):
    """What an opened store is and can do."""

    engine: str
    """Name and version of the engine, for people."""
    epoch: bytes
    """16 random bytes of this history; a restored backup mints new ones."""
    schema: int
    exclusive: bool
    """This process is the only writer, so its memory may answer reads and refusals."""
    cross_aggregate: bool
    """One commit may hold several appends, and claims of any space."""
    linearizable: bool
    backup: bool


class BackupInfo(NamedTuple):
    """A finished, integrity-checked copy."""

    path: Path
    size_bytes: int
    events: int


class Record(NamedTuple):
    """One aggregate with everything of it that a copy needs; the unit of `scan`."""

    loaded: Loaded
    events: tuple[StoredEvent, ...]
    rows: tuple[Row, ...]
    more: bool
    """More events of the same aggregate follow in the next record."""


Done = Callable[[Outcome | StoreError], None]
Progress = Callable[[int, int], None]
"""Called with (done, total), in any unit."""


class Store(Protocol):
    """A durable log of aggregates with compare-and-set appends.

    Reads return only durable data; where `StoreInfo.linearizable`, they see every commit that was
    acknowledged anywhere before the call. Drivers' exceptions never leave a store.
    """

    async def open(self) -> StoreInfo:
        """Open, migrate to the newest schema, finish interrupted deletions.

        Raises: StoreLocked, SchemaTooNew, StoreUnavailable, CorruptData.
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
        table: Table,
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

    async def forget(self, ref: Ref, base: int, last: Append) -> Outcome:
        """Append `last` on `base` as a tombstone, then delete everything else in bounded pieces.

        Keeps the tombstone with `last` as its only event, rows of PAYMENTS, and claims of the
        space "provider"; claims are the aggregate's where their owner is `ref.id`. Its index is
        that of `last`, or nothing but `created_ns`. The id is never free again. Interrupted, it is
        finished by `open`.
        """

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Set `personal` of those events to None, in every copy; answers how many had any."""

    def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates, tombstones included, in the order of their refs."""

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind, tombstones excluded; may be an estimate above 10 000."""

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Write a consistent, checked copy to a path that must not exist; renamed into place."""
