"""Values passed to and from a store: plain values, bytes, and typed columns for lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from maitred.server.stores.failures import StoreError

__all__ = [
    "KEEP_NOTHING",
    "PAGE_BYTES",
    "SECRET_BYTES",
    "Append",
    "BackupInfo",
    "Claim",
    "ClaimTaken",
    "Commit",
    "Committed",
    "Conflict",
    "Done",
    "Head",
    "HeadFilter",
    "Index",
    "Keep",
    "Kind",
    "Lease",
    "Loaded",
    "Outcome",
    "Progress",
    "Record",
    "Ref",
    "Replayed",
    "Row",
    "RowFilter",
    "StoreInfo",
    "StoredEvent",
]


Kind = int
"""What an aggregate is: a number that whoever uses the store gives out, and never changes."""


class Ref(NamedTuple):
    """The name of one aggregate."""

    kind: Kind
    id: str


class Index(NamedTuple):
    """The typed columns of an aggregate that `list_heads` filters on."""

    created_ns: int
    status: int = 0
    owner: str = ""
    flag: int = 0
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
    """A unique key with an owner. An expired claim counts as free, and is deleted in time."""

    space: str
    key: str
    owner: str
    expires_ns: int | None = None


class Row(NamedTuple):
    """One row of a projection, written whole; the key is unique in its table."""

    table: int
    """A projection that commits write beside the log: a number, as kinds are."""
    key: str
    ref: Ref
    created_ns: int
    body: bytes
    status: int = 0
    flag: int = 0
    position: int = 0
    """Set by the store on reading: the place to continue a listing from."""


class Keep(NamedTuple):
    """What a deletion leaves behind beside the tombstone: of the rows and of the claims."""

    tables: tuple[int, ...] = ()
    spaces: tuple[str, ...] = ()


KEEP_NOTHING = Keep()


class Commit(NamedTuple):
    """Everything that one command changes: all of it is stored, or nothing is.

    Without an append it is claims and rows alone, such as a message that is taken in.
    """

    appends: tuple[Append, ...]
    claims: tuple[Claim, ...] = ()
    releases: tuple[Claim, ...] = ()
    rows: tuple[Row, ...] = ()
    drops: tuple[tuple[int, str], ...] = ()
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
    owner: str | None = None
    flag: int | None = None
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
    secret: bytes
    """32 random bytes that all servers of these data share, for keyed digests of what must not be
    stored as it is; they go with the data into backups and copies. Empty only where data older
    than that is opened for reading."""
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


SECRET_BYTES = 32

PAGE_BYTES = 512 * 1024
"""No page that a store reads takes more than this before its last entry."""

T = TypeVar("T")


def page_of(entries: Iterable[T], size: Callable[[T], int]) -> list[T]:
    """Take entries until they hold the bytes of a page; what is not taken is not asked for."""
    page: list[T] = []
    held = 0
    for entry in entries:
        page.append(entry)
        held += size(entry)
        if held >= PAGE_BYTES:
            break
    return page


def event_size(event: StoredEvent) -> int:
    """Count the bytes of an event that a page is bounded in."""
    return len(event.facts) + len(event.personal or b"")


def body_size(entry: Head | Row) -> int:
    """Count the bytes of a line that a page is bounded in."""
    return len(entry.body)


Done = Callable[[Outcome | StoreError], None]
Progress = Callable[[int, int], None]
"""Called with (done, total), in any unit."""
