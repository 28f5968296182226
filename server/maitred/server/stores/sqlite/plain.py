"""Plain appends, many in one statement: the hot path of a batch.

Every step of a statement gives the interpreter's lock away and has to get it back from a busy event
loop, which costs more than the step. So the usual case, in which nothing stands against any append,
takes three statements for all of them and reads nothing first: the update finds its rows only at
their base versions, and the log's unique indexes refuse what it holds already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from maitred.server.stores.base import Append, Commit

_CHUNKS = (64, 32, 16, 8, 4, 2, 1)
"""Sizes of the statements: few enough to stay prepared, and no padding is needed."""


def is_plain(commit: Commit) -> bool:
    """Tell whether a commit is one update and nothing else."""
    appends = commit.appends
    if len(appends) != 1 or commit.claims or commit.releases or commit.rows:
        return False
    append = appends[0]
    return append.base > 0 and append.index is None


def append_all(cursor: sqlite3.Cursor, appends: Sequence[Append]) -> bool:
    """Append to different aggregates; False where one was not at its base: then roll back.

    Raises: sqlite3.IntegrityError where the log holds a request already: then roll back, too.
    """
    start, total = 0, len(appends)
    for size in _CHUNKS:
        while total - start >= size:
            if not _append(cursor, appends[start : start + size]):
                return False
            start += size
    return True


def _append(cursor: sqlite3.Cursor, appends: Sequence[Append]) -> bool:
    heads: list[Any] = []
    events: list[Any] = []
    alarms: list[Any] = []
    for (
        (kind, name),
        base,
        commit_id,
        request_id,
        fingerprint,
        time_ns,
        change,
        facts,
        personal,
        chain,
        body,
        _,
        wake_at_ns,
    ) in appends:
        heads += (kind, name, base, commit_id, time_ns, wake_at_ns, chain, body)
        events += (kind, name, base + 1, time_ns, change, request_id, fingerprint)
        events += (facts, personal, chain)
        if wake_at_ns is not None:
            alarms += (kind, name, wake_at_ns)
    size = len(appends)
    cursor.execute(_HEADS[size], heads)
    if cursor.rowcount != size:
        return False
    cursor.execute(_EVENTS[size], events)
    if cursor.rowcount != size:
        return False
    if alarms:
        cursor.execute(_alarms(len(alarms) // 3), alarms)
    return True


def _statement(name: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return SQL[name].format(values=", ".join([row] * rows))


def _alarms(rows: int) -> str:
    statement = _ALARMS.get(rows)
    if statement is None:
        statement = _ALARMS[rows] = _statement("arm_earlier", 3, rows)
    return statement


_HEADS = {size: _statement("append_heads", 8, size) for size in _CHUNKS}
_EVENTS = {size: _statement("append_events", 10, size) for size in _CHUNKS}
_ALARMS: dict[int, str] = {}
