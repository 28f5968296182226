"""The statements of listings: each walks one index in the order of positions and stops early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maitred.server.stores.values import PAGE_BYTES

if TYPE_CHECKING:
    from maitred.server.stores.base import HeadFilter, Kind, RowFilter

Query = tuple[bytes, dict[str, Any]]


class _Where:
    """Conditions and their parameters, numbered as they come."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.values: dict[str, Any] = {}

    def put(self, value: Any) -> str:
        """Return the placeholder of a value."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"%({name})s" + ("::bigint" if isinstance(value, int) else "")

    def add(self, condition: str, *values: Any) -> None:
        """Add a condition with a brace for each value."""
        self.conditions.append(condition.format(*(self.put(value) for value in values)))


def heads_query(kind: Kind, where: HeadFilter, after: int | None, limit: int) -> Query:
    """Return the statement of one page of aggregates, newest first."""
    chosen = _Where()
    source, order = "maitred.aggregates a", "a.place"
    if where.labels:
        source = "maitred.labels l JOIN maitred.aggregates a ON a.kind = l.kind AND a.id = l.id"
        order = "l.place"
        (name, value), *others = where.labels
        chosen.add("l.kind = {} AND l.name = {} AND l.value = {}", int(kind), name, value)
        for name, value in others:
            chosen.add(
                "EXISTS (SELECT 1 FROM maitred.labels o WHERE o.kind = l.kind AND o.name = {}"
                " AND o.value = {} AND o.place = l.place)",
                name,
                value,
            )
    chosen.add("a.kind = {} AND NOT a.tombstone", int(kind))
    if where.owner is not None:
        chosen.add("a.customer_id = {}", where.owner)
        if where.owner:
            # Said once more as the index says it, which does not know the parameter.
            chosen.add("a.customer_id <> ''")
    if where.flag is not None:
        chosen.add("a.attention = {}", where.flag)
        if where.flag:
            chosen.add("a.attention <> 0")
    _created("a.created_ns", where, chosen)
    return _page(
        "a.place, a.id, a.version, a.body",
        source,
        chosen,
        ("a.status", where.statuses),
        (order, after, limit),
        newest_first=True,
    )


def rows_query(
    table: int | None,
    where: RowFilter,
    after: int | None,
    limit: int | None,
    *,
    newest_first: bool,
) -> Query:
    """Return the statement of one page of a projection; all of it without a limit."""
    chosen = _Where()
    if table is not None:
        chosen.add("p.tab = {}", int(table))
    if where.keys:
        chosen.add("p.key = ANY ({}::text[])", list(where.keys))
    if where.ref is not None:
        chosen.add("p.kind = {} AND p.id = {}", int(where.ref.kind), where.ref.id)
    if where.flag is not None:
        chosen.add("p.flag = {}", where.flag)
        if where.flag:
            chosen.add("p.flag <> 0")
    _created("p.created_ns", where, chosen)
    return _page(
        "p.position, p.tab, p.key, p.kind, p.id, p.created_ns, p.status, p.flag, p.body",
        "maitred.projections p",
        chosen,
        ("p.status", where.statuses),
        ("p.position", after, limit),
        newest_first=newest_first,
    )


def _created(column: str, where: HeadFilter | RowFilter, chosen: _Where) -> None:
    if where.created_from_ns is not None:
        chosen.add(f"{column} >= {{}}", where.created_from_ns)
    if where.created_before_ns is not None:
        chosen.add(f"{column} < {{}}", where.created_before_ns)


def _page(
    columns: str,
    source: str,
    chosen: _Where,
    status: tuple[str, tuple[int, ...]],
    place: tuple[str, int | None, int | None],
    *,
    newest_first: bool,
) -> Query:
    """Return a page's statement: one walk of the index for each status, merged.

    A single walk with a list of statuses would have to read and sort all of them.
    """
    order, after, limit = place
    status_column, statuses = status
    direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    if after is not None:
        chosen.add(f"{order} {beyond} {{}}", after)
    bound = "" if limit is None else f" LIMIT {chosen.put(limit)}"
    walks: list[str] = []
    for one in dict.fromkeys(statuses) or (None,):
        extra = [] if one is None else [f"{status_column} = {chosen.put(one)}"]
        walks.append(
            f"(SELECT {columns} FROM {source}"  # noqa: S608  # our own text only
            f" WHERE {' AND '.join([*chosen.conditions, *extra])}"
            f" ORDER BY {order} {direction}{bound})"
        )
    text = " UNION ALL ".join(walks)
    if len(walks) > 1:
        text = f"{text} ORDER BY 1 {direction}{bound}"
    if limit is not None:
        # The names of the columns, without their tables; the first is the place.
        names = [column.rpartition(".")[2] for column in columns.split(", ")]
        text = (
            f"SELECT {', '.join(names)} FROM (SELECT p.*, sum(octet_length(body))"  # noqa: S608  # the same
            f" OVER (ORDER BY {names[0]} {direction} ROWS BETWEEN UNBOUNDED PRECEDING"
            f" AND 1 PRECEDING) AS held FROM ({text}) AS p) AS q"
            f" WHERE coalesce(held, 0) < {chosen.put(PAGE_BYTES)} ORDER BY {names[0]} {direction}"
        )
    return text.encode(), chosen.values
