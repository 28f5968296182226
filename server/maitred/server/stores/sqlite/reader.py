"""Reads: single rows on the event loop itself, pages on a thread of their own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any

from maitred.server.stores.base import (
    Claim,
    CorruptData,
    Head,
    HeadFilter,
    Index,
    Kind,
    Loaded,
    Record,
    Ref,
    Row,
    RowFilter,
    StoredEvent,
    StoreUnavailable,
)
from maitred.server.stores.outcomes import decode_labels
from maitred.server.stores.sqlite.connection import translate
from maitred.server.stores.sqlite.listing import heads_query, rows_query
from maitred.server.stores.sqlite.sql import SQL
from maitred.server.stores.values import PAGE_BYTES, body_size, event_size, page_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CURSOR_BYTES = 8

RECORD_EVENTS = 500
"""Events in one record of a scan; what a copy holds in memory at once."""


class LocalReader:
    """Reads by primary key, synchronously on the loop: microseconds, where a thread costs fifty."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    def one(self, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Read one row or None. Raises: StoreError."""
        if self._connection is None:
            raise StoreUnavailable("the store is closed")
        try:
            cursor = self._connection.execute(statement, parameters)
            row = cursor.fetchone()
            # A statement left open would pin the write-ahead log.
            cursor.close()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise translate(error) from error
        return row

    def load(self, ref: Ref, request_id: bytes | None) -> Loaded | None:
        """Read a head and the event of a request."""
        if request_id is None:
            row = self.one(SQL["load"], ref)
            return None if row is None else loaded(ref, row, None)
        row = self.one(SQL["load_with_request"], (*ref, request_id))
        if row is None:
            return None
        found = None if row[12] is None else event(ref, row[0], row[1], row[12:])
        return loaded(ref, row[:12], found)

    def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""
        found: dict[Ref, int] = {}
        for ref in refs:
            row = self.one(SQL["read_version"], ref)
            if row is not None:
                found[ref] = row[0]
        return found

    def claim(self, space: str, key: str, now_ns: int) -> Claim | None:
        """Read who owns a key."""
        row = self.one(SQL["read_claim"], (space, key))
        if row is None or (row[1] is not None and row[1] <= now_ns):
            return None
        return Claim(space, key, row[0], row[1])

    def close(self) -> None:
        """Close the connection; later reads answer that the store is closed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def loaded(ref: Ref, row: tuple[Any, ...], request_event: StoredEvent | None) -> Loaded:
    """Return a head from a row of the statement `load`."""
    (version, commit_id, time_ns, chain, body, created, status, customer, attention) = row[:9]
    (labels, wake_at_ns, tombstone) = row[9:]
    index = Index(created, status, customer, attention, decode_labels(labels))
    return Loaded(
        ref,
        version,
        commit_id,
        time_ns,
        chain,
        body,
        index,
        wake_at_ns,
        bool(tombstone),
        request_event,
    )


def event(ref: Ref, head_version: int, head_commit: bytes, row: tuple[Any, ...]) -> StoredEvent:
    """Return an event; only the newest one's commit id is kept, on the head."""
    (version, request_id, fingerprint, time_ns, change, facts, personal, chain, position) = row
    return StoredEvent(
        ref,
        version,
        head_commit if version == head_version else b"",
        request_id,
        fingerprint,
        time_ns,
        change,
        facts,
        personal,
        chain,
        position.to_bytes(_CURSOR_BYTES, "big"),
    )


def position_of(cursor: bytes) -> int:
    """Return the position that a feed cursor names. Raises: ValueError."""
    if len(cursor) not in (0, _CURSOR_BYTES):
        raise ValueError("this is no cursor of this store")
    return min(int.from_bytes(cursor, "big"), 2**63 - 1)


def cursor_at(position: int) -> bytes:
    """Return the cursor that names a position."""
    return position.to_bytes(_CURSOR_BYTES, "big")


_ALL = 2**63 - 1
"""No version is as high."""


def read_events(
    connection: sqlite3.Connection,
    ref: Ref,
    after: int,
    limit: int,
    changes: Sequence[int] | None,
    before: int | None = None,
    *,
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Read a page of one log. Raises: CorruptData where an event is missing in it."""
    chosen = ""
    parameters: list[Any] = [*ref, after, limit, _ALL if before is None else before]
    if changes is not None:
        # Written out, because an unnumbered ? would take its number from the place in the text.
        chosen = f"AND e.change IN ({', '.join(f'?{n + 6}' for n in range(len(changes)))})"
        parameters += changes
    order = "DESC" if newest_first else "ASC"
    statement = SQL["events_of"].format(changes=chosen, order=order)
    with closing(connection.execute(statement, parameters)) as rows:
        first_row = rows.fetchone()
        if first_row is None:
            return []
        found = page_of(
            (
                event(ref, row[0], row[1], row[3:])
                for row in chain((first_row,), rows)
                if row[3] is not None
            ),
            event_size,
        )
    if changes is None and limit > 0:
        version, _, tombstone = first_row[:3]
        # The only event of a tombstone is its newest.
        first = version if tombstone else 1
        last = version if before is None else min(version, before - 1)
        expected = range(max(after + 1, first), last + 1)
        expected = expected[::-1][:limit] if newest_first else expected[:limit]
        if sum(map(event_size, found)) >= PAGE_BYTES:
            expected = expected[: len(found)]
        if [entry.version for entry in found] != list(expected):
            raise CorruptData(f"events of {ref.id!r} of kind {ref.kind} are missing in the log")
    return found


def read_feed(connection: sqlite3.Connection, after: bytes, limit: int) -> list[StoredEvent]:
    """Read a page of the log of all aggregates."""
    with closing(connection.execute(SQL["feed"], (position_of(after), limit))) as rows:
        return page_of(
            (event(Ref(row[0], row[1]), row[2], row[3], row[4:]) for row in rows), event_size
        )


def read_heads(
    connection: sqlite3.Connection, kind: Kind, where: HeadFilter, after: int | None, limit: int
) -> list[Head]:
    """Read a page of a listing of aggregates."""
    statement, parameters = heads_query(connection, kind, where, after, limit)
    with closing(connection.execute(statement, parameters)) as rows:
        return page_of(
            (
                Head(Ref(kind, name), version, body, position)
                for position, name, version, body in rows
            ),
            body_size,
        )


def read_rows(
    connection: sqlite3.Connection,
    table: int | None,
    where: RowFilter,
    after: int | None,
    limit: int,
    *,
    newest_first: bool,
) -> list[Row]:
    """Read a page of a projection; of all of them where `table` is None."""
    statement, parameters = rows_query(table, where, after, limit, newest_first=newest_first)
    with closing(connection.execute(statement, parameters)) as found:
        rows = (
            Row(tab, key, Ref(kind, name), created, body, status, flag, position)
            for position, tab, key, kind, name, created, status, flag, body in found
        )
        # All of an aggregate's go into its record.
        return list(rows) if table is None else page_of(rows, body_size)


def read_record(connection: sqlite3.Connection, ref: Ref, after: int) -> Record | None:
    """Read an aggregate and a page of its events from one snapshot; rows come with the first."""
    connection.execute("BEGIN")
    try:
        row = connection.execute(SQL["load"], ref).fetchone()
        if row is None:
            return None
        events = read_events(connection, ref, after, RECORD_EVENTS, None)
        rows: list[Row] = []
        if after == 0:
            rows = read_rows(connection, None, RowFilter(ref=ref), None, -1, newest_first=False)
        head = loaded(ref, row, None)
        last = events[-1].version if events else head.version
        return Record(head, tuple(events), tuple(rows), more=last < head.version)
    finally:
        connection.execute("COMMIT")


def read_refs(connection: sqlite3.Connection, after: Ref | None, limit: int) -> list[Ref]:
    """Read the next refs in order."""
    start = (0, "") if after is None else after
    rows = connection.execute(SQL["scan_next"], (*start, limit)).fetchall()
    return [Ref(kind, name) for kind, name in rows]
