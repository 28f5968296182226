"""Engines that know vouchers, on every store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kinds.voucher import KIND
from tests.kinds.vouchers import VoucherService
from tests.support.redis import redis_server

from maitred.server.config import Settings
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.kinds import all_kinds
from maitred.server.stores import create_store
from maitred.server.testing.faulty import FaultyStore

__all__ = ["redis_server"]


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Name an empty store of each engine."""
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:{tmp_path / 'maitred.db'}"
        case "postgres":
            made: str = request.getfixturevalue("postgres").create_database()
            return made
        case _:
            name = f"vouchers-{os.urandom(6).hex()}"
            prefixed: str = request.getfixturevalue("redis_server").url(name)
            return prefixed


class House:
    """An engine that keeps vouchers beside sessions and menus."""

    def __init__(self, url: str, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.store = FaultyStore(create_store(url))
        kinds = all_kinds(more=[KIND])
        settings = Settings(heartbeat_s=60.0)
        self.engine = Engine(self.store, settings, clock=self.clock, kinds=kinds)
        self.service = VoucherService(self.engine)


@pytest.fixture
async def open_house() -> AsyncIterator[Callable[..., Any]]:
    """Open houses that are closed at the end."""
    houses: list[House] = []

    async def make(url: str, clock: ManualClock | None = None) -> House:
        house = House(url, clock)
        await house.engine.start()
        houses.append(house)
        return house

    yield make
    for house in houses:
        await house.engine.stop()


@pytest.fixture
async def house(url: str, open_house: Callable[..., Any]) -> House:
    """A house on each store."""
    opened: House = await open_house(url)
    return opened
