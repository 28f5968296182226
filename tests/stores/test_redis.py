"""The contract, kept by Redis."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from maitred.server.stores.redis import RedisStore
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.redis import RedisServer

    from maitred.server.stores.base import Store


class TestRedis(StoreContract):
    """Redis keeps the contract but for backups."""

    lacks_backup = "Redis copies itself"

    @pytest.fixture
    async def store(self, redis_server: RedisServer) -> AsyncIterator[Store]:
        """Yield an empty store under a prefix of its own."""
        self.url = redis_server.url(f"test-{os.urandom(6).hex()}")
        self.opened = [RedisStore(self.url)]
        await self.opened[0].open()
        yield self.opened[0]
        for store in self.opened:
            await store.close()

    async def reopen(self, store: Store) -> Store:
        """Open the same data again."""
        await store.close()
        self.opened.append(RedisStore(self.url))
        await self.opened[-1].open()
        return self.opened[-1]
