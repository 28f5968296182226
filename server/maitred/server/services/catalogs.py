"""Cached menus: looked up and searched without a read for each call."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from maitred.server.domain.menus import Catalog
from maitred.server.engine.engine import Engine
from maitred.server.kinds.menu import menu_ref
from maitred.v1.state_pb2 import Menu

_KEPT: Final = 100
"""Menus that are kept at hand."""

_SLICE_S: Final = 0.005
"""How long the making of a catalog holds everybody else up at a time."""


class Catalogs:
    """The catalogs of menus, one for each version that is in use."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, Catalog] = {}
        self._making: dict[str, tuple[Menu, asyncio.Task[Catalog]]] = {}

    async def of(self, menu_id: str) -> Catalog:
        """Read a menu with its items at hand.

        Raises: MenuNotFound.
        """
        menu = (await self._engine.reader.require(menu_ref(menu_id))).state
        catalog = self._kept.get(menu_id)
        # The very same state object: nobody changes one in place.
        if catalog is not None and catalog.menu is menu:
            return catalog
        making = self._making.get(menu_id)
        if making is None or making[0] is not menu:
            making = self._making[menu_id] = (menu, asyncio.create_task(self._make(menu_id, menu)))
        # Whoever else asks waits for the same, so that a caller who leaves must not end it.
        return await asyncio.shield(making[1])

    async def _make(self, menu_id: str, menu: Menu) -> Catalog:
        try:
            catalog = Catalog(menu)
            until = time.perf_counter() + _SLICE_S
            for _ in catalog.preparing():
                if time.perf_counter() >= until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + _SLICE_S
        finally:
            if self._making[menu_id][0] is menu:
                del self._making[menu_id]
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[menu_id] = catalog
        return catalog
