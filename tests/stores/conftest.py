"""Fixtures of servers that stores stand on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from tests.support.redis import RedisServer, own_redis, redis_server

from maitred.server.stores.redis import RedisStore

__all__ = ["own_redis", "redis_pair", "redis_server"]


@pytest.fixture
async def redis_pair(redis_server: RedisServer) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """Two stores, as two servers have them, on the same data."""
    url = redis_server.url(f"pair-{os.urandom(6).hex()}")
    first, second = RedisStore(url), RedisStore(url)
    await first.open()
    await second.open()
    yield first, second
    await first.close()
    await second.close()
