"""A batch of commits as one transaction: decide every outcome, then write, then COMMIT once.

Plain appends (one update, nothing else) are written with a few statements for all of them, on the
assumption that nothing stands against any; everything else is decided and written one after the
other behind them. Where something does stand against one, the batch begins again, one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maitred.server.stores.base import Append, Commit, Index, Outcome, Ref, StoreError
from maitred.server.stores.sqlite.decide import (
    COMMITTED,
    REFUSALS,
    Found,
    RowsDisagree,
    claim_taken,
    conflict,
    decode_labels,
    encode_labels,
    find,
    is_applied,
    refusal,
    replay,
)
from maitred.server.stores.sqlite.plain import append_all, is_plain
from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

Answer = Outcome | StoreError


def run_batch(
    connection: sqlite3.Connection, commits: Sequence[Commit], now_ns: int
) -> list[Answer]:
    """Apply commits in one transaction that the caller has begun and will end.

    Raises: whatever the driver raises that is no single commit's fault.
    """
    cursor = connection.cursor()
    answers: list[Answer] = [COMMITTED] * len(commits)
    try:
        unopposed = _apply_together(cursor, commits, answers, now_ns)
    except (*REFUSALS, RowsDisagree):
        unopposed = False
    if not unopposed:
        # Not a savepoint around the whole: SQLite would copy every page that the batch touches.
        connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        _apply_each(connection, commits, answers, now_ns)
    return answers


def _apply_together(
    cursor: sqlite3.Cursor, commits: Sequence[Commit], answers: list[Answer], now_ns: int
) -> bool:
    """Apply the plain appends at once, then the others; False where a plain one is opposed."""
    plain: list[Append] = []
    others: list[int] = []
    for position, commit in enumerate(commits):
        if is_plain(commit):
            plain.append(commit.appends[0])
        else:
            others.append(position)
    if plain and not append_all(cursor, plain):
        return False
    for position in others:
        answers[position] = apply_one(cursor, commits[position], now_ns)
    return True


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
            index.customer_id,
            index.attention,
            labels,
            append.chain,
            append.body,
        ),
    )
    aggregate = cursor.lastrowid
    if aggregate is None:
        raise RowsDisagree("create_head made no row")
    _write_labels(cursor, append.ref, aggregate, None, labels)
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
        index.customer_id,
        index.attention,
        labels,
        head.aggregate,
    )
    _change_rows(cursor, "index_head", [row])
    _write_labels(cursor, ref, head.aggregate, head.labels, labels)


def _write_labels(
    cursor: sqlite3.Cursor, ref: Ref, aggregate: int, old: str | None, new: str | None
) -> None:
    if old == new:
        return
    before, after = set(decode_labels(old)), set(decode_labels(new))
    cursor.executemany(
        SQL["drop_label"], [(ref.kind, *label, aggregate) for label in before - after]
    )
    cursor.executemany(
        SQL["add_label"], [(ref.kind, *label, aggregate) for label in after - before]
    )
