"""A batch of commits as one transaction: decide every outcome, then write, then COMMIT once.

Plain appends (one update, nothing else) are decided with a few statements for all of them and
written with two; everything else is decided and written one after the other behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maitred.server.stores.base import Append, Commit, Index, Outcome, Ref, StoreError
from maitred.server.stores.outcomes import conflict, decode_labels, encode_labels, replay
from maitred.server.stores.sqlite.decide import (
    COMMITTED,
    REFUSALS,
    Found,
    RowsDisagree,
    claim_taken,
    find,
    is_applied,
    other_outcome,
    refusal,
)
from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

Answer = Outcome | StoreError

_CHUNKS = (64, 16, 4, 1)
"""Sizes of the lookup statement: few enough to stay prepared, and no padding is needed."""


def run_batch(
    connection: sqlite3.Connection, commits: Sequence[Commit], now_ns: int
) -> list[Answer]:
    """Apply commits in one transaction that the caller has begun and will end.

    Raises: whatever the driver raises that is no single commit's fault.
    """
    cursor = connection.cursor()
    answers: list[Answer] = [COMMITTED] * len(commits)
    try:
        rest = _apply_plain(cursor, commits, answers)
        for position in rest:
            answers[position] = apply_one(cursor, commits[position], now_ns)
    except (*REFUSALS, RowsDisagree):
        # Not a savepoint around the whole: SQLite would copy every page that the batch touches.
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        _apply_each(connection, commits, answers, now_ns)
    return answers


def _apply_each(
    connection: sqlite3.Connection, commits: Sequence[Commit], answers: list[Answer], now_ns: int
) -> None:
    """Apply each commit in its own savepoint, so that a refused one takes no other with it."""
    cursor = connection.cursor()
    for position, commit in enumerate(commits):
        connection.execute("SAVEPOINT one")
        try:
            answers[position] = apply_one(cursor, commit, now_ns)
        except (*REFUSALS, RowsDisagree) as error:
            connection.execute("ROLLBACK TO one")
            answers[position] = refusal(error)
        connection.execute("RELEASE one")


def _apply_plain(
    cursor: sqlite3.Cursor, commits: Sequence[Commit], answers: list[Answer]
) -> list[int]:
    """Apply the plain appends; answer the positions of all other commits, in order."""
    plain: list[tuple[int, Append]] = []
    rest: list[int] = []
    seen: set[Ref] = set()
    for position, (appends, claims, releases, rows, drops) in enumerate(commits):
        append = appends[0] if len(appends) == 1 else None
        if (
            append is None
            or append.base < 1
            or append.index is not None
            or claims
            or releases
            or rows
            or drops
            or append.ref in seen
        ):
            rest.append(position)
            seen.update(other.ref for other in appends)
        else:
            plain.append((position, append))
            seen.add(append.ref)
    if not plain:
        return rest

    heads: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    alarms: list[tuple[int, int]] = []
    found: set[int] = set()
    for place, aggregate, version, tombstone, wake, armed, request_version in _find_many(
        cursor, plain
    ):
        position, append = plain[place]
        if version != append.base or tombstone or request_version is not None:
            continue
        found.add(place)
        (_, base, commit_id, request_id, fingerprint, time_ns, change) = append[:7]
        (facts, personal, chain, body, _, wake_at_ns) = append[7:]
        following = base + 1
        heads.append((following, commit_id, time_ns, wake_at_ns, chain, body, aggregate, base))
        events.append(
            (aggregate, following, time_ns, change, request_id, fingerprint, facts, personal, chain)
        )
        if wake_at_ns != wake and needs_alarm(wake_at_ns, armed):
            alarms.append((wake_at_ns, aggregate))
    if len(found) != len(plain):
        for place, (position, append) in enumerate(plain):
            if place not in found:
                head = find(cursor, append)
                answers[position] = other_outcome(cursor, append, head)
    if heads:
        _change_rows(cursor, "append_head", heads)
        _change_rows(cursor, "append_event", events)
    if alarms:
        _change_rows(cursor, "arm", alarms)
    return rest


def _find_many(cursor: sqlite3.Cursor, plain: list[tuple[int, Append]]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    start = 0
    total = len(plain)
    for size in _CHUNKS:
        while total - start >= size:
            parameters: list[Any] = []
            for place in range(start, start + size):
                append = plain[place][1]
                (kind, name) = append.ref
                parameters += (place, kind, name, append.request_id)
            found += cursor.execute(_FIND_MANY[size], parameters).fetchall()
            start += size
    return found


_FIND_MANY = {
    size: SQL["find_many"].format(values=", ".join(["(?, ?, ?, ?)"] * size)) for size in _CHUNKS
}


def _change_rows(cursor: sqlite3.Cursor, name: str, rows: list[tuple[Any, ...]]) -> None:
    if len(rows) == 1:
        cursor.execute(SQL[name], rows[0])
    else:
        cursor.executemany(SQL[name], rows)
    if cursor.rowcount != len(rows):
        raise RowsDisagree(f"{name} changed {cursor.rowcount} rows instead of {len(rows)}")


def needs_alarm(wake_at_ns: int | None, armed_ns: int | None) -> bool:
    """Tell whether a new wake time must be put in front of the sweeper now.

    A later one need not: the alarm that is set goes off first and is set anew by `due`. So an
    expiry that slides with every commit costs no index write.
    """
    return wake_at_ns is not None and (armed_ns is None or wake_at_ns < armed_ns)


def apply_one(cursor: sqlite3.Cursor, commit: Commit, now_ns: int) -> Outcome:
    """Decide one commit of any shape and write it if nothing stands against it."""
    heads = [find(cursor, append) for append in commit.appends]
    pairs = list(zip(commit.appends, heads, strict=True))
    if any(head is not None and is_applied(cursor, append, head) for append, head in pairs):
        return COMMITTED
    for append, head in pairs:
        if replayed := replay(append, head):
            return replayed
    for append, head in pairs:
        if conflicting := conflict(append, head):
            return conflicting
    if taken := claim_taken(cursor, commit, now_ns):
        return taken
    for append, head in pairs:
        if head is None:
            _create(cursor, append)
        else:
            _update(cursor, append, head)
    for claim in commit.releases:
        cursor.execute(SQL["release_claim"], claim[:3])
    for claim in commit.claims:
        cursor.execute(SQL["write_claim"], claim)
    for row in commit.rows:
        cursor.execute(
            SQL["write_row"],
            (row.table, row.key, *row.ref, row.created_ns, row.status, row.flag, row.body),
        )
    for drop in commit.drops:
        cursor.execute(SQL["drop_row"], drop)
    return COMMITTED


def _create(cursor: sqlite3.Cursor, append: Append) -> None:
    index = append.index or Index(created_ns=append.time_ns)
    labels = encode_labels(index.labels)
    cursor.execute(
        SQL["create_head"],
        (
            *append.ref,
            append.commit_id,
            append.time_ns,
            append.wake_at_ns,
            append.wake_at_ns,
            index.created_ns,
            index.status,
            index.owner,
            index.flag,
            labels,
            append.chain,
            append.body,
        ),
    )
    aggregate = cursor.lastrowid
    if aggregate is None:
        raise RowsDisagree("create_head made no row")
    write_labels(cursor, append.ref, aggregate, None, labels)
    append_event(cursor, aggregate, append)


def _update(cursor: sqlite3.Cursor, append: Append, head: Found) -> None:
    row = (
        append.base + 1,
        append.commit_id,
        append.time_ns,
        append.wake_at_ns,
        append.chain,
        append.body,
        head.aggregate,
        append.base,
    )
    _change_rows(cursor, "append_head", [row])
    if append.wake_at_ns != head.wake_at_ns and needs_alarm(append.wake_at_ns, head.armed_ns):
        cursor.execute(SQL["arm"], (append.wake_at_ns, head.aggregate))
    if append.index is not None:
        write_index(cursor, append.ref, head, append.index)
    append_event(cursor, head.aggregate, append)


def append_event(cursor: sqlite3.Cursor, aggregate: int, append: Append) -> None:
    """Add the event of an append to the log."""
    row = (
        aggregate,
        append.base + 1,
        append.time_ns,
        append.change,
        append.request_id,
        append.fingerprint,
        append.facts,
        append.personal,
        append.chain,
    )
    _change_rows(cursor, "append_event", [row])


def write_index(cursor: sqlite3.Cursor, ref: Ref, head: Found, index: Index) -> None:
    """Write the listing columns and labels of an aggregate."""
    labels = encode_labels(index.labels)
    row = (
        index.created_ns,
        index.status,
        index.owner,
        index.flag,
        labels,
        head.aggregate,
    )
    _change_rows(cursor, "index_head", [row])
    write_labels(cursor, ref, head.aggregate, head.labels, labels)


def write_labels(
    cursor: sqlite3.Cursor, ref: Ref, aggregate: int, old: str | None, new: str | None
) -> None:
    """Write which labels an aggregate is listed under."""
    if old == new:
        return
    before, after = set(decode_labels(old)), set(decode_labels(new))
    cursor.executemany(
        SQL["drop_label"], [(ref.kind, *label, aggregate) for label in before - after]
    )
    cursor.executemany(
        SQL["add_label"], [(ref.kind, *label, aggregate) for label in after - before]
    )
