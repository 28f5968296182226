"""Aggregates as another store kept them: each with its whole log, in the order given.

One transaction writes several, and each is in one transaction whole, so that what a reader finds
has its log. All positions are taken at once, as a commit takes them: the place in listings is that
of an aggregate's first event, and the feed has the events in the order given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from maitred.server.stores.outcomes import encode_labels
from maitred.server.stores.postgres.columns import Bigints, Blobs, Texts
from maitred.server.stores.postgres.jobs import patiently
from maitred.server.stores.postgres.reader import read_versions
from maitred.server.stores.postgres.writes import Statement, counted, label_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from maitred.server.stores.base import Record, Ref, StoredEvent
    from maitred.server.stores.postgres.connection import Connection

RESTORE_S: Final = 120.0
"""The longest that a transaction of these may take: a single log may be long."""

TRANSACTION_EVENTS: Final = 2000
"""Events in one transaction, unless one aggregate has more."""

_STATEMENT_EVENTS = 500


def transactions(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Part records, in their order, into what is written at once."""
    some: list[Record] = []
    events = 0
    for record in records:
        if some and events + len(record.events) > TRANSACTION_EVENTS:
            yield some
            some, events = [], 0
        some.append(record)
        events += len(record.events)
    if some:
        yield some


async def restore(connection: Connection, lane: int, records: Sequence[Record]) -> int:
    """Write in one transaction what is not there yet; returns how many aggregates that were."""
    first: dict[Ref, Record] = {}
    for record in records:
        first.setdefault(record.loaded.ref, record)

    async def attempt() -> int:
        there = await read_versions(connection, list(first))
        new = [record for ref, record in first.items() if ref not in there]
        if not new:
            return 0
        statements = _statements(lane, new)
        async with connection.pipeline():
            await connection.execute(b"BEGIN")
            for statement, parameters in statements:
                await connection.execute(statement, parameters)
            await connection.execute(b"COMMIT")
        return len(new)

    # A ref that somebody else makes in between fails the transaction, and is found the next time.
    return await patiently(connection, attempt)


def _statements(lane: int, records: Sequence[Record]) -> list[Statement]:
    """Return the statements, in the order of locks. Raises: MISFITS for what no column holds."""
    events = [event for record in records for event in record.events]
    shared = {"lane": lane, "total": len(events)}
    made = [
        counted("move_lane", 1, {**shared, "floor": 0}),
        counted("restore_heads", len(records), _heads(records) | shared),
    ]
    for start in range(0, len(events), _STATEMENT_EVENTS):
        some = events[start : start + _STATEMENT_EVENTS]
        made.append(counted("add_events", len(some), _events(some, start + 1) | shared))
    labels = [
        (record.loaded.ref, label)
        for record in records
        if not record.loaded.tombstone
        for label in dict.fromkeys(record.loaded.index.labels)
    ]
    if labels:
        made.append(counted("add_labels", len(labels), label_columns(labels)))
    return made


def _heads(records: Sequence[Record]) -> dict[str, Any]:
    heads = [record.loaded for record in records]
    indexes = [head.index for head in heads]
    firsts: list[int] = []
    lasts: list[int] = []
    total = 0
    for record in records:
        firsts.append(total + 1)
        total += len(record.events)
        lasts.append(total)
    return {
        "firsts": Bigints(firsts),
        "lasts": Bigints(lasts),
        "kinds": Bigints([head.ref.kind for head in heads]),
        "ids": Texts([head.ref.id for head in heads]),
        "versions": Bigints([head.version for head in heads]),
        "commits": Blobs([head.commit_id for head in heads]),
        "times": Bigints([head.time_ns for head in heads]),
        "wakes": Bigints([head.wake_at_ns for head in heads]),
        "tombstones": Bigints([head.tombstone for head in heads]),
        "createds": Bigints([index.created_ns for index in indexes]),
        "statuses": Bigints([index.status for index in indexes]),
        "customers": Texts([index.owner for index in indexes]),
        "attentions": Bigints([index.flag for index in indexes]),
        "labels": Texts([encode_labels(index.labels) for index in indexes]),
        "chains": Blobs([head.chain for head in heads]),
        "bodies": Blobs([head.body for head in heads]),
    }


def _events(events: Sequence[StoredEvent], ordinal: int) -> dict[str, Any]:
    """Return events as the columns of `add_events`; `ordinal` is that of the first."""
    return {
        "ordinals": Bigints(range(ordinal, ordinal + len(events))),
        "kinds": Bigints([event.ref.kind for event in events]),
        "ids": Texts([event.ref.id for event in events]),
        "bases": Bigints([event.version - 1 for event in events]),
        "times": Bigints([event.time_ns for event in events]),
        "changes": Bigints([event.change for event in events]),
        "commits": Blobs([event.commit_id for event in events]),
        "requests": Blobs([event.request_id for event in events]),
        "fingerprints": Blobs([event.fingerprint for event in events]),
        "facts": Blobs([event.facts for event in events]),
        "personals": Blobs([event.personal for event in events]),
        "chains": Blobs([event.chain for event in events]),
    }
