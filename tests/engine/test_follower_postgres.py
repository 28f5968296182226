"""The promises of `test_follower`, on PostgreSQL: two engines, each with connections of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.engine.conftest import create
from tests.engine.test_follower import (
    Pair,
    test_commit_of_another_server_wakes_a_watcher,
    test_deletion_elsewhere_ends_a_watch_that_was_behind,
    test_ring_never_has_a_gap,
    test_wake_up_takes_no_longer_than_the_hint,
    test_watch_goes_on_when_the_store_is_back,
    test_watchers_of_everything_are_woken,
    test_watchers_on_both_servers_see_every_version_once,
)
from tests.support.shared import Shared

from maitred.server.config import Settings
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.stores import create_store

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

__all__ = [
    "test_commit_of_another_server_wakes_a_watcher",
    "test_deletion_elsewhere_ends_a_watch_that_was_behind",
    "test_ring_never_has_a_gap",
    "test_wake_up_takes_no_longer_than_the_hint",
    "test_watch_goes_on_when_the_store_is_back",
    "test_watchers_of_everything_are_woken",
    "test_watchers_on_both_servers_see_every_version_once",
]


@pytest.fixture
async def pair(postgres: PostgresServer) -> AsyncIterator[Pair]:
    """Two engines, each with a store of its own on one database."""
    url = postgres.create_database()
    stores = [create_store(url), create_store(url)]
    ways = [Shared(store, await store.open()) for store in stores]
    first, second = (Engine(way, Settings(heartbeat_s=3600), clock=ManualClock()) for way in ways)
    await first.start()
    await second.start()
    await create(first)
    yield Pair(first, second, ways[1])
    await first.stop()
    await second.stop()
    for store in stores:
        await store.close()
