"""Redis in tests: a server that they share, one that they may break, a store on either."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from maitred.server.stores.redis import RedisStore
from maitred.server.testing.redis_server import NoRedis, RedisServer

__all__ = ["RedisServer", "opened_redis", "own_redis", "redis_server"]


@contextlib.asynccontextmanager
async def opened_redis(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    """Open a store and close it."""
    store = RedisStore(url, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that a test may break."""
    yield from _running()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server with safe settings, one for each worker; tests choose a prefix of their own."""
    yield from _running()


def _running() -> Iterator[RedisServer]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(RedisServer())
        except NoRedis as reason:
            pytest.skip(str(reason))
        yield server
