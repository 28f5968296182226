"""The contract, kept by memory; and what only memory does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from maitred.server.stores import create_store
from maitred.server.stores.base import Committed, Store, StoreFull
from maitred.server.stores.memory import MemoryStore
from maitred.server.stores.sqlite import SqliteStore
from maitred.server.testing.samples import new_commit, new_ref, put, start
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TestMemory(StoreContract):
    """Memory keeps the whole contract but for what outlives a process."""

    lacks_reopen = "memory ends with its store"
    lacks_backup = "memory has no file to copy"

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        """Yield an empty store."""
        store = MemoryStore()
        await store.open()
        yield store
        await store.close()


async def test_a_full_queue_answers_store_full() -> None:
    """Beyond the bound a commit is refused at once, those before it are kept."""
    store = MemoryStore(queue_commits=2)
    await store.open()
    answers = [start(store, new_commit(new_ref(), 0)) for _ in range(3)]
    outcomes = [await answer for answer in answers]

    assert outcomes[:2] == [Committed()] * 2
    assert isinstance(outcomes[2], StoreFull)
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


@pytest.mark.parametrize("url", ["memory:", "memory://", "MEMORY://"])
def test_memory_urls(url: str) -> None:
    """Memory has one URL."""
    assert isinstance(create_store(url), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:data.db", "data.db"),
        ("sqlite:///var/data.db", "/var/data.db"),
        ("sqlite:/var/data.db", "/var/data.db"),
        ("data.db", "data.db"),
        ("./with:colon.db", "with:colon.db"),
        ("/var/lib/data.db", "/var/lib/data.db"),
    ],
)
def test_sqlite_urls(url: str, path: str) -> None:
    """A file is named by a URL or by its path."""
    store = create_store(url)

    assert isinstance(store, SqliteStore)
    assert str(store.path) == path


@pytest.mark.parametrize(
    "url", ["", "sqlite:", "sqlite://", "sqlite::memory:", "mysql://x", "memory://x"]
)
def test_an_unknown_url_says_what_is_accepted(url: str) -> None:
    """The error is one line that helps."""
    with pytest.raises(ValueError, match=r"unknown store .*sqlite:PATH") as caught:
        create_store(url)

    assert "\n" not in str(caught.value)


async def test_opened_again_it_holds_no_leases() -> None:
    """Whoever held one is gone."""
    store = MemoryStore()
    await store.open()
    ref = new_ref()
    await put(store, new_commit(ref, 0, wake_at_ns=1))
    assert await store.due(2, 10, "gone", 3600) == [ref]
    held = await store.lease("sweeper", "gone", 3600)
    await store.close()
    await store.open()

    assert await store.due(2, 10, "new", 30) == [ref]
    taken = await store.lease("sweeper", "new", 60)
    assert held is not None
    assert taken is not None
    assert taken.token > held.token
    await store.close()
