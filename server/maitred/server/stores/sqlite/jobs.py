"""What the writer does besides commits: timers, leases, deletion, erasure, housekeeping.

Timers. `wake_at_ns` of a head is the truth, `armed_ns` an alarm clock with an index. A commit sets
the alarm only where it must ring earlier than it is set; otherwise the old alarm rings first, and
`due` then sets it to the truth without handing the aggregate out. The alarm is therefore never
later than the truth, with one exception: `due` sets the alarm of an aggregate that it hands out to
the end of the lease, and a commit that moves the wake time to before that sets it back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from maitred.server.stores import keeping
from maitred.server.stores.base import (
    Append,
    Conflict,
    Index,
    Keep,
    Lease,
    Outcome,
    Record,
    Ref,
)
from maitred.server.stores.outcomes import conflict, encode_labels, replay
from maitred.server.stores.sqlite.batch import append_event, write_index, write_labels
from maitred.server.stores.sqlite.decide import (
    COMMITTED,
    RowsDisagree,
    find,
    is_applied,
)
from maitred.server.stores.sqlite.schema import DIGEST_KEY
from maitred.server.stores.sqlite.sql import SQL
from maitred.server.units import NS

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], "T | Again[T]"]

PIECE_ROWS: Final = 500
"""Rows deleted in one transaction, so that a long log does not hold up the commits of others."""


class Again(NamedTuple, Generic[T]):
    """A job that is not finished: the writer runs `work` in a later transaction."""

    work: Callable[[sqlite3.Connection], T | Again[T]]


def forget(ref: Ref, base: int, last: Append, keep: Keep) -> Work[Outcome]:
    """Return the job that buries an aggregate and then deletes what it leaves behind."""
    last = last._replace(ref=ref, base=base)

    def bury(connection: sqlite3.Connection) -> Outcome | Again[Outcome]:
        cursor = connection.cursor()
        head = find(cursor, last)
        if head is not None and is_applied(cursor, last, head):
            return COMMITTED
        if head is None:
            return Conflict(ref, 0, b"")
        if other := replay(last, head) or conflict(last, head):
            return other
        cursor.execute(
            SQL["bury"],
            (
                base + 1,
                last.commit_id,
                last.time_ns,
                last.chain,
                last.body,
                head.aggregate,
                base,
            ),
        )
        if cursor.rowcount != 1:
            raise RowsDisagree(f"bury changed {cursor.rowcount} rows instead of 1")
        write_index(cursor, ref, head, last.index or Index(created_ns=_created(cursor, ref)))
        append_event(cursor, head.aggregate, last)
        cursor.execute(SQL["begin_forgetting"], (head.aggregate, keeping.note(keep)))
        return Again(lambda later: _forget_piece(later, ref, head.aggregate, base + 1, keep))

    return bury


def _created(cursor: sqlite3.Cursor, ref: Ref) -> int:
    return int(cursor.execute(SQL["load"], ref).fetchone()[5])


def _forget_piece(
    connection: sqlite3.Connection, ref: Ref, aggregate: int, version: int, keep: Keep
) -> Outcome | Again[Outcome]:
    left = PIECE_ROWS
    for name, parameters in (
        ("forget_events", (aggregate, version)),
        ("forget_rows", (*ref, json.dumps(keep.tables))),
        ("forget_claims", (ref.id, json.dumps(keep.spaces))),
    ):
        left -= connection.execute(SQL[name], (*parameters, left)).rowcount
        if left <= 0:
            return Again(lambda later: _forget_piece(later, ref, aggregate, version, keep))
    connection.execute(SQL["end_forgetting"], (aggregate,))
    return COMMITTED


def interrupted(connection: sqlite3.Connection) -> list[Work[Outcome]]:
    """Return the jobs that finish deletions which a crash cut short."""

    def resume(ref: Ref, aggregate: int, version: int, keep: Keep) -> Work[Outcome]:
        return lambda later: _forget_piece(later, ref, aggregate, version, keep)

    return [
        resume(Ref(kind, name), aggregate, version, keeping.read(kept))
        for aggregate, kind, name, version, kept in connection.execute(SQL["forgetting"])
    ]


def redact(ref: Ref, versions: Sequence[int]) -> Work[int]:
    """Return the job that erases the personal parts of events."""

    def erase(connection: sqlite3.Connection) -> int | Again[int]:
        erased = 0
        for version in versions:
            erased += connection.execute(SQL["redact_event"], (*ref, version)).rowcount
        return erased

    return erase


def due(now_ns: int, limit: int, lease_s: float) -> Work[list[Ref]]:
    """Return the job that takes aggregates whose time has come."""
    until = now_ns + max(1, int(lease_s * NS))

    def take(connection: sqlite3.Connection) -> list[Ref] | Again[list[Ref]]:
        taken: list[tuple[int, int, Ref]] = []
        while len(taken) < limit:
            rung = connection.execute(SQL["armed"], (now_ns, limit - len(taken))).fetchall()
            if not rung:
                break
            alarms = []
            for aggregate, kind, name, wake in rung:
                if wake is not None and wake <= now_ns:
                    taken.append((wake, aggregate, Ref(kind, name)))
                    alarms.append((until, aggregate))
                else:
                    alarms.append((wake, aggregate))
            connection.executemany(SQL["arm"], alarms)
        return [ref for _, _, ref in sorted(taken)]

    return take


def lease(name: str, owner: str, ttl_s: float, clock_ns: Callable[[], int]) -> Work[Lease | None]:
    """Return the job that takes or renews a lease."""

    def take(connection: sqlite3.Connection) -> Lease | Again[Lease | None] | None:
        now = clock_ns()
        row = connection.execute(SQL["read_lease"], (name,)).fetchone()
        token = 1
        if row is not None:
            held = row[2] > now
            if held and row[0] != owner:
                return None
            token = row[1] if held else row[1] + 1
        taken = Lease(name, owner, token, now + int(ttl_s * NS))
        connection.execute(SQL["write_lease"], taken)
        return taken

    return take


def restore(records: Sequence[Record]) -> Work[int]:
    """Return the job that writes aggregates as another store kept them."""

    def write(connection: sqlite3.Connection) -> int | Again[int]:
        cursor = connection.cursor()
        return sum([_restore(cursor, record) for record in records])

    return write


def _restore(cursor: sqlite3.Cursor, record: Record) -> bool:
    head = record.loaded
    if cursor.execute(SQL["read_version"], head.ref).fetchone() is not None:
        return False
    index, labels = head.index, encode_labels(head.index.labels)
    cursor.execute(
        SQL["restore_head"],
        (
            *head.ref,
            head.version,
            head.commit_id,
            head.time_ns,
            head.wake_at_ns,
            head.wake_at_ns,
            head.tombstone,
            index.created_ns,
            index.status,
            index.owner,
            index.flag,
            labels,
            head.chain,
            head.body,
        ),
    )
    aggregate = cursor.lastrowid
    if aggregate is None:
        raise RowsDisagree("restore_head made no row")
    write_labels(cursor, head.ref, aggregate, None, labels)
    cursor.executemany(
        SQL["append_event"],
        [
            (
                aggregate,
                event.version,
                event.time_ns,
                event.change,
                event.request_id,
                event.fingerprint,
                event.facts,
                event.personal,
                event.chain,
            )
            for event in record.events
        ],
    )
    return True


def adopt(secret: bytes) -> Work[None]:
    """Return the job that takes over another store's secret."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(SQL["write_meta"], (DIGEST_KEY, secret))

    return write


def expire_claims(now_ns: int) -> Work[int]:
    """Return the job that deletes a piece of the claims that have expired."""

    def expire(connection: sqlite3.Connection) -> int | Again[int]:
        gone = connection.execute(SQL["expire_claims"], (now_ns, PIECE_ROWS)).rowcount
        return gone if gone < PIECE_ROWS else Again(expire)

    return expire


def checkpoint(connection: sqlite3.Connection, *, truncate: bool) -> bool:
    """Move the write-ahead log into the database; `truncate` also empties its file.

    Answers False where a reader stood in the way. Runs outside a transaction, on the writing
    connection only: a second checkpointer is what triggers the WAL-reset bug of SQLite before
    3.51.3.
    """
    mode = "TRUNCATE" if truncate else "PASSIVE"
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    # Truncating waits for readers, and a scan or a backup may read for long; commits must not wait.
    connection.execute("PRAGMA busy_timeout = 0").fetchall()
    try:
        (busy, _, _) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(patience)}").fetchall()
    return not busy
