"""The kind `menu`: what may be ordered."""

from __future__ import annotations

from typing import Final

from maitred.server.domain import evolve
from maitred.server.errors import MaitredError, MenuNotFound, RequestTooLarge
from maitred.server.kinds.aggregate import MIB, Aggregate
from maitred.server.stores.values import Index, Kind, Ref
from maitred.server.units import NS
from maitred.v1.state_pb2 import Menu

MENU: Final = Kind(3)

MENU_BYTES: Final = MIB + 32 * 1024
"""The largest menu."""


def menu_ref(menu_id: str) -> Ref:
    """Name a menu."""
    return Ref(MENU, menu_id)


def _index(menu: Menu) -> Index:
    updated = menu.updated_at
    return Index(created_ns=updated.seconds * NS + updated.nanos)


def _too_large(size: int, limit: int) -> MaitredError:
    return RequestTooLarge(
        f"the menu takes {size} bytes, at most {limit} fit",
        metadata={"limit": str(limit), "size": str(size)},
    )


KIND: Final = Aggregate(
    number=MENU,
    name="menu",
    state=Menu,
    fold=evolve.evolve_menu,
    absent=MenuNotFound,
    gone=MenuNotFound,
    source=2,
    index=_index,
    most_bytes=MENU_BYTES,
    too_large=_too_large,
)
