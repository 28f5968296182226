"""What the server keeps: one module for each kind of aggregate, and the list of them.

Everything that is particular to a kind stands in its module: the engine, the stores and the tools
read it from there. Numbers are stored: append, never renumber (2 and 4 are reserved for customers
and flow definitions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from maitred.server.kinds import menu, session
from maitred.server.kinds.aggregate import Aggregate
from maitred.server.stores.values import Kind

Kinds = Mapping[Kind, Aggregate]


def all_kinds(retention_s: int = 0, more: Iterable[Aggregate] = ()) -> Kinds:
    """Build the table of all kinds; ended sessions are kept for `retention_s`, or for ever."""
    return {kind.number: kind for kind in (session.kind(retention_s), menu.KIND, *more)}
