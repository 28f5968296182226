"""Reads: each one statement, hence one snapshot, but for the records of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

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
)
from maitred.server.stores.outcomes import decode_labels
from maitred.server.stores.postgres.columns import Bigints, Blobs, Texts
from maitred.server.stores.postgres.feed import LANES, Cursor, encode_cursor
from maitred.server.stores.postgres.listing import heads_query, rows_query
from maitred.server.stores.postgres.sql import SQL
from maitred.server.stores.values import PAGE_BYTES, event_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maitred.server.stores.postgres.connection import Connection

RECORD_EVENTS: Final = 500
"""Events in one record of a scan; what a copy holds in memory at once."""

_ALL: Final = 2**63 - 1
"""No version is as high."""

Parameters = dict[str, Any]
HeadKey = tuple[Ref, bytes | None]


async def fetch(
    connection: Connection, statement: bytes, parameters: Parameters | None = None
) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(statement, parameters)
    return await cursor.fetchall()


async def read_heads(connection: Connection, keys: Sequence[HeadKey]) -> dict[HeadKey, Loaded]:
    """Read heads, each with the event of a request where one is asked for."""
    parameters = {
        "numbers": Bigints(range(len(keys))),
        "kinds": Bigints([ref.kind for ref, _ in keys]),
        "ids": Texts([ref.id for ref, _ in keys]),
        "requests": Blobs([request_id for _, request_id in keys]),
    }
    found: dict[HeadKey, Loaded] = {}
    for row in await fetch(connection, SQL["load"], parameters):
        key = keys[row[0]]
        found[key] = _loaded(key[0], row[1:13], row[13:])
    return found


def _loaded(ref: Ref, head: tuple[Any, ...], event: tuple[Any, ...]) -> Loaded:
    (version, commit_id, time_ns, chain, body, created, status, customer, attention) = head[:9]
    (labels, wake_at_ns, tombstone) = head[9:]
    return Loaded(
        ref,
        version,
        commit_id,
        time_ns,
        chain,
        body,
        Index(created, status, customer, attention, decode_labels(labels)),
        wake_at_ns,
        tombstone,
        None if not event or event[0] is None else StoredEvent(ref, *event),
    )


async def read_versions(connection: Connection, refs: Sequence[Ref]) -> dict[Ref, int]:
    """Read the versions of those that exist."""
    parameters = {
        "numbers": Bigints(range(len(refs))),
        "kinds": Bigints([ref.kind for ref in refs]),
        "ids": Texts([ref.id for ref in refs]),
    }
    rows = await fetch(connection, SQL["versions"], parameters)
    return {refs[number]: version for number, version in rows}


async def read_events(
    connection: Connection,
    ref: Ref,
    after: int,
    limit: int,
    changes: Sequence[int] | None,
    before: int | None = None,
    *,
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Read a page of one log. Raises: CorruptData where an event is missing in it."""
    parameters: Parameters = {
        "kind": ref.kind,
        "id": ref.id,
        "after": after,
        "before": _ALL if before is None else before,
        "limit": limit,
        "page_bytes": PAGE_BYTES,
    }
    if changes is not None:
        parameters["changes"] = Bigints(changes)
    statement = _EVENTS[changes is not None, newest_first]
    rows = await fetch(connection, statement, parameters)
    found = [StoredEvent(ref, *row[2:]) for row in rows if row[2] is not None]
    if rows and changes is None and limit > 0:
        version, tombstone = rows[0][:2]
        # The only event of a tombstone is its newest.
        first = version if tombstone else 1
        last = version if before is None else min(version, before - 1)
        expected = range(max(after + 1, first), last + 1)
        expected = expected[::-1][:limit] if newest_first else expected[:limit]
        if sum(map(event_size, found)) >= PAGE_BYTES:
            expected = expected[: len(found)]
        if [event.version for event in found] != list(expected):
            raise CorruptData(f"events of {ref.id!r} of kind {ref.kind} are missing in the log")
    return found


_EVENTS = {
    (chosen, newest_first): SQL["events_of"]
    .replace(b"{changes}", b"AND e.change = ANY (%(changes)s::bigint[])" if chosen else b"")
    .replace(b"{order}", b"DESC" if newest_first else b"ASC")
    for chosen in (False, True)
    for newest_first in (False, True)
}


async def read_feed(connection: Connection, cursor: Cursor, limit: int) -> list[StoredEvent]:
    """Read a page of the log of all aggregates."""
    parameters = _places(cursor) | {"limit": limit, "page_bytes": PAGE_BYTES}
    places = dict(cursor)
    found: list[StoredEvent] = []
    for row in await fetch(connection, SQL["feed"], parameters):
        position = row[2]
        places[position % LANES] = position
        event = StoredEvent(Ref(row[0], row[1]), *row[3:])
        found.append(event._replace(cursor=encode_cursor(places)))
    return found


async def read_moved(
    connection: Connection, cursor: Cursor, limit: int
) -> tuple[set[Ref], Cursor, bool]:
    """Read which aggregates moved behind a cursor, where that ends, and whether there are more.

    The cursor names a place in every lane.
    """
    parameters = _places(cursor) | {"limit": limit}
    places = dict(cursor)
    counts: dict[int, int] = {}
    refs: set[Ref] = set()
    for kind, name, position in await fetch(connection, SQL["moved_since"], parameters):
        lane = position % LANES
        places[lane] = max(places[lane], position)
        counts[lane] = counts.get(lane, 0) + 1
        refs.add(Ref(kind, name))
    return refs, places, any(count >= limit for count in counts.values())


async def read_lanes(connection: Connection) -> Cursor:
    """Read the newest position of each lane."""
    rows = await fetch(connection, SQL["lanes"])
    return dict(rows)


def _places(cursor: Cursor) -> Parameters:
    return {"lanes": Bigints(list(cursor)), "places": Bigints(list(cursor.values()))}


async def read_claim(connection: Connection, space: str, key: str) -> Claim | None:
    """Read who owns a key."""
    rows = await fetch(connection, SQL["read_claim"], {"space": space, "key": key})
    return Claim(space, key, *rows[0]) if rows else None


async def list_claims(
    connection: Connection, after: tuple[str, str] | None, limit: int
) -> list[Claim]:
    """Read a page of all claims."""
    space, key = after or ("", "")
    parameters = {"space": space, "key": key, "limit": limit}
    return [Claim(*row) for row in await fetch(connection, SQL["list_claims"], parameters)]


async def list_heads(
    connection: Connection, kind: Kind, where: HeadFilter, after: int | None, limit: int
) -> list[Head]:
    """Read a page of a listing of aggregates."""
    rows = await fetch(connection, *heads_query(kind, where, after, limit))
    return [Head(Ref(kind, name), version, body, place) for place, name, version, body in rows]


async def list_rows(
    connection: Connection,
    table: int | None,
    where: RowFilter,
    after: int | None,
    limit: int | None,
    *,
    newest_first: bool,
) -> list[Row]:
    """Read a page of a projection; of all of them where `table` is None."""
    query = rows_query(table, where, after, limit, newest_first=newest_first)
    return [
        Row(tab, key, Ref(kind, name), created, body, status, flag, position)
        for position, tab, key, kind, name, created, status, flag, body in await fetch(
            connection, *query
        )
    ]


async def read_record(connection: Connection, ref: Ref, after: int) -> Record | None:
    """Read an aggregate and a page of its events from one snapshot; rows come with the first."""
    await connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    heads = await read_heads(connection, [(ref, None)])
    head = heads.get((ref, None))
    record = None
    if head is not None:
        events = await read_events(connection, ref, after, RECORD_EVENTS, None)
        rows: list[Row] = []
        if after == 0:
            rows = await list_rows(
                connection, None, RowFilter(ref=ref), None, None, newest_first=False
            )
        last = events[-1].version if events else head.version
        record = Record(head, tuple(events), tuple(rows), more=last < head.version)
    await connection.execute(b"COMMIT")
    return record


async def read_refs(connection: Connection, after: Ref | None, limit: int) -> list[Ref]:
    """Read the next refs in order."""
    kind, name = (0, "") if after is None else after
    parameters = {"kind": kind, "id": name, "limit": limit}
    rows = await fetch(connection, SQL["scan_next"], parameters)
    return [Ref(kind, name) for kind, name in rows]


async def read_next_wake(connection: Connection) -> int | None:
    """Read the earliest alarm."""
    earliest: int | None = (await fetch(connection, SQL["next_wake"]))[0][0]
    return earliest


async def count_heads(connection: Connection, kind: Kind) -> int:
    """Count aggregates of a kind."""
    return int((await fetch(connection, SQL["count"], {"kind": kind}))[0][0])
