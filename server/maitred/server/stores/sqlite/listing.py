"""The statements of listings: each walks one index in the order of positions and stops early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3

    from maitred.server.stores.base import HeadFilter, Kind, RowFilter

_NARROW: Final = 5000
"""A range of creation times with at most so many aggregates is sorted; a wider one is walked."""


def heads_query(
    connection: sqlite3.Connection, kind: Kind, where: HeadFilter, after: int | None, limit: int
) -> tuple[str, list[Any]]:
    """Return the statement of one page of aggregates, newest first."""
    source, conditions, values = "", [], []
    if where.labels:
        (name, value) = where.labels[0]
        # CROSS JOIN keeps the order: from the few labels to their heads, not the other way.
        source = "labels l CROSS JOIN aggregates a ON a.aggregate = l.aggregate"
        conditions = ["l.kind = ?", "l.name = ?", "l.value = ?"]
        values = [kind, name, value]
        for name, value in where.labels[1:]:
            conditions.append(
                "EXISTS (SELECT 1 FROM labels o WHERE o.kind = ? AND o.name = ? AND o.value = ?"
                " AND o.aggregate = l.aggregate)"
            )
            values += (kind, name, value)
        order = "l.aggregate"
    else:
        source = f"aggregates a INDEXED BY {_head_index(connection, kind, where)}"
        order = "a.aggregate"
    conditions += ["a.kind = ?", "a.tombstone = 0"]
    values.append(kind)
    if where.owner is not None:
        conditions.append("a.customer_id = ?")
        values.append(where.owner)
        if where.owner:
            conditions.append("a.customer_id <> ''")
    if where.flag is not None:
        conditions.append("a.attention = ?")
        values.append(where.flag)
        if where.flag:
            conditions.append("a.attention <> 0")
    _created("a.created_ns", where, conditions, values)
    return _page(
        "a.aggregate, a.id, a.version, a.body",
        source,
        conditions,
        values,
        ("a.status", where.statuses),
        (order, after, limit),
        newest_first=True,
    )


def _head_index(connection: sqlite3.Connection, kind: Kind, where: HeadFilter) -> str:
    if where.owner:
        return "aggregates_by_customer"
    if where.flag:
        return "aggregates_by_attention"
    if where.created_from_ns is not None or where.created_before_ns is not None:
        conditions, values = ["kind = ?", "tombstone = 0"], [kind]
        _created("created_ns", where, conditions, values)
        (found,) = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM aggregates"  # noqa: S608  # our own text only
            " INDEXED BY aggregates_by_created"
            f" WHERE {' AND '.join(conditions)} LIMIT ?)",
            [*values, _NARROW + 1],
        ).fetchone()
        if found <= _NARROW:
            return "aggregates_by_created"
    return "aggregates_by_status" if where.statuses else "aggregates_by_kind"


def rows_query(
    table: int | None,
    where: RowFilter,
    after: int | None,
    limit: int,
    *,
    newest_first: bool,
) -> tuple[str, list[Any]]:
    """Return the statement of one page of a projection."""
    conditions: list[str] = []
    values: list[Any] = []
    statuses = where.statuses
    if table is not None:
        conditions.append("p.tab = ?")
        values.append(table)
    if where.keys:
        index = "projections_by_key"
        conditions.append(f"p.key IN ({', '.join('?' * len(where.keys))})")
        values += where.keys
    elif where.ref is not None:
        index = "projections_by_ref"
    elif where.flag:
        index = "projections_by_flag"
    elif statuses:
        index = "projections_by_status"
    else:
        index = "projections_by_table"
    if where.ref is not None:
        conditions += ["p.kind = ?", "p.id = ?"]
        values += where.ref
    if where.flag is not None:
        conditions.append("p.flag = ?")
        values.append(where.flag)
        if where.flag:
            conditions.append("p.flag <> 0")
    _created("p.created_ns", where, conditions, values)
    return _page(
        "p.position, p.tab, p.key, p.kind, p.id, p.created_ns, p.status, p.flag, p.body",
        f"projections p INDEXED BY {index}",
        conditions,
        values,
        ("p.status", statuses),
        ("p.position", after, limit),
        newest_first=newest_first,
    )


def _created(
    column: str, where: HeadFilter | RowFilter, conditions: list[str], values: list[Any]
) -> None:
    if where.created_from_ns is not None:
        conditions.append(f"{column} >= ?")
        values.append(where.created_from_ns)
    if where.created_before_ns is not None:
        conditions.append(f"{column} < ?")
        values.append(where.created_before_ns)


def _page(
    columns: str,
    source: str,
    conditions: list[str],
    values: list[Any],
    status: tuple[str, tuple[int, ...]],
    place: tuple[str, int | None, int],
    *,
    newest_first: bool,
) -> tuple[str, list[Any]]:
    """Return a page's statement: one walk of the index for each status, merged.

    A single walk with `status IN (…)` would have to read and sort all of them.
    """
    order, after, limit = place
    status_column, statuses = status
    direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    if after is not None:
        conditions = [*conditions, f"{order} {beyond} ?"]
        values = [*values, after]
    walks: list[str] = []
    parameters: list[Any] = []
    for chosen in dict.fromkeys(statuses) or (None,):
        extra = [] if chosen is None else [f"{status_column} = ?"]
        where = " AND ".join([*conditions, *extra])
        walks.append(
            f"SELECT * FROM (SELECT {columns} FROM {source}"  # noqa: S608  # our own text only
            f" WHERE {where}"
            f" ORDER BY {order} {direction} LIMIT ?)"
        )
        parameters += [*values, *([] if chosen is None else [chosen]), limit]
    if len(walks) == 1:
        return walks[0], parameters
    return f"{' UNION ALL '.join(walks)} ORDER BY 1 {direction} LIMIT ?", [*parameters, limit]
