"""The contract, kept by SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from maitred.server.stores.sqlite import SqliteStore
from maitred.server.testing.samples import new_commit, new_ref, put, start
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from maitred.server.stores.base import Store


class TestSqlite(StoreContract):
    """SQLite keeps the whole contract."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """Yield an empty store in a file of its own."""
        self.opened: list[SqliteStore] = [SqliteStore(tmp_path / "store.db")]
        await self.opened[0].open()
        yield self.opened[0]
        for store in self.opened:
            await store.close()

    async def reopen(self, store: Store) -> Store:
        """Open the same file again."""
        await store.close()
        again = SqliteStore(self.opened[-1].path)
        self.opened.append(again)
        await again.open()
        return again

    async def open_copy(self, path: object) -> Store:
        """Open a backup."""
        copy = SqliteStore(str(path))
        await copy.open()
        return copy

    async def test_a_commit_is_synced_before_it_is_acknowledged(self, store: Store) -> None:
        """The writing connection syncs the log at every commit, and it is a log."""
        assert isinstance(store, SqliteStore)
        pragmas = await store.writer_pragmas()

        assert pragmas["synchronous"] == 2
        assert pragmas["journal_mode"] == "wal"
        assert pragmas["secure_delete"] == 1

    async def test_commits_that_queue_share_a_transaction(self, store: Store) -> None:
        """A sync is paid for by all commits that wait for it."""
        assert isinstance(store, SqliteStore)
        before = store.batches
        answers = [start(store, new_commit(new_ref(), 0)) for _ in range(64)]
        for answer in answers:
            await answer

        assert store.batches - before <= 2

    async def test_a_hot_append_writes_no_index_of_the_head(self, store: Store) -> None:
        """A wake time that slides later leaves the alarm where it is."""
        assert isinstance(store, SqliteStore)
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=1000))
        await put(store, new_commit(ref, 1, wake_at_ns=2000))

        assert await store.next_wake() == 1000
        assert await store.due(1999, 10, "a", 1) == []
        assert await store.next_wake() == 2000
