"""What a synchronous standby does not have yet is not told as kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from tests.support.postgres import PostgresServer, running_postgres

from maitred.server.stores.base import Committed, OutcomeUnknown
from maitred.server.stores.postgres import PostgresStore
from maitred.server.testing.samples import new_commit, new_ref, put, start

SETTINGS = {"synchronous_standby_names": "standby", "wal_retrieve_retry_interval": "100ms"}

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and its standby."""
    with (
        running_postgres(**SETTINGS) as primary,
        closing(PostgresServer(primary.programs, **SETTINGS)) as standby,
    ):
        standby.copy(primary, "standby")
        standby.start()
        yield primary, standby


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    """Open a store and close it."""
    store = PostgresStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def waiting(primary: PostgresServer, count: int) -> list[int]:
    """Wait until so many commits wait for the standby, and answer their backends."""
    while len(found := primary.execute(WAITING)) < count:
        await asyncio.sleep(0.02)
    return [pid for (pid,) in found]


async def test_a_replay_is_not_told_before_the_standby_has_it(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    """A commit that is visible because its backend ended is kept only once a standby has it."""
    primary, standby = pair
    url = primary.create_database()
    ref = new_ref()
    second = new_commit(ref, 1)
    request_id = second.appends[0].request_id
    async with opened(url) as store, opened(url) as other:
        assert await put(store, new_commit(ref, 0)) == Committed()
        standby.stop("immediate")
        first_try = start(store, second)
        (backend,) = await waiting(primary, 1)
        primary.execute("SELECT pg_terminate_backend(%s)", backend)
        assert isinstance(await first_try, OutcomeUnknown)
        # Here PostgreSQL shows what the loss of its machine would take away.
        assert await other.versions([ref]) == {ref: 2}
        again = start(store, second)
        replay = asyncio.create_task(other.load(ref, request_id))
        await waiting(primary, 2)
        assert not again.done()
        assert not replay.done()
        standby.start()
        loaded = await replay

        assert loaded is not None
        assert loaded.request_event is not None
        assert loaded.request_event.version == 2
        assert await again == Committed()
