"""Two engines on one Redis: what holds for shared stores holds for this one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from tests.engine.test_shared import (
    test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay,
    test_mixed_writes_on_both_servers_lose_nothing,
    test_read_sees_what_the_other_server_wrote,
    test_refusal_rests_on_the_newest_version,
    test_replay_is_found_across_servers,
)
from tests.support.redis import RedisServer, redis_server

from maitred.server.config import Settings
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.stores.redis import RedisStore

__all__ = [
    "redis_server",
    "test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay",
    "test_mixed_writes_on_both_servers_lose_nothing",
    "test_read_sees_what_the_other_server_wrote",
    "test_refusal_rests_on_the_newest_version",
    "test_replay_is_found_across_servers",
]


@pytest.fixture
async def pair(redis_server: RedisServer) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two engines, each with its own store, on the same data."""
    url = redis_server.url(f"engines-{os.urandom(6).hex()}")
    first, second = (Engine(RedisStore(url), Settings(), clock=ManualClock()) for _ in range(2))
    await first.start()
    await second.start()
    yield first, second
    await first.stop()
    await second.stop()
