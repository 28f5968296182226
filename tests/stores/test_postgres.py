"""The contract, kept by PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.postgres import PostgresServer, postgres

from maitred.server.stores.postgres import PostgresStore
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from maitred.server.stores.base import Store

__all__ = ["postgres"]


class TestPostgres(StoreContract):
    """PostgreSQL keeps the whole contract but for backups, which are its own tools' work."""

    lacks_backup = "PostgreSQL is backed up by its own tools"

    @pytest.fixture
    async def store(self, postgres: PostgresServer) -> AsyncIterator[Store]:
        """Yield an empty store in a database of its own."""
        self.url = postgres.create_database()
        self.opened = [PostgresStore(self.url)]
        await self.opened[0].open()
        yield self.opened[0]
        for store in self.opened:
            await store.close()

    async def reopen(self, store: Store) -> Store:
        """Open the same database again."""
        await store.close()
        again = PostgresStore(self.url)
        self.opened.append(again)
        await again.open()
        return again
