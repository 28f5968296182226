"""PostgreSQL in tests.

A test that uses the fixture `postgres` shares the server of its process, and asks it for a database
of its own; one that stops the server runs its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psycopg
import pytest

from maitred.server.stores.postgres import PostgresStore
from maitred.server.testing.postgres_server import NoPostgres, PostgresServer

__all__ = ["Gate", "Opener", "PostgresServer", "gate", "opening", "running_postgres"]

Opener = Callable[..., Awaitable[PostgresStore]]
"""Opens a store of the URL and the options given."""


@contextlib.asynccontextmanager
async def opening() -> AsyncIterator[Opener]:
    """Open stores that are closed at the end."""
    stores: list[PostgresStore] = []

    async def make(url: str, **options: object) -> PostgresStore:
        stores.append(PostgresStore(url, **options))  # type: ignore[arg-type]  # the test names them
        await stores[-1].open()
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


class Gate:
    """Holds transactions that log an event of one aggregate, with their positions taken."""

    def __init__(self, keeper: psycopg.AsyncConnection) -> None:
        self._keeper = keeper

    async def reached(self) -> None:
        """Wait until a transaction stands before the gate."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        while (await (await self._keeper.execute(waiting)).fetchone()) == (0,):
            await asyncio.sleep(0.005)

    async def lift(self) -> None:
        """Let it go on."""
        await self._keeper.execute("SELECT pg_advisory_unlock_all()")


@contextlib.asynccontextmanager
async def gate(url: str, aggregate_id: str) -> AsyncIterator[Gate]:
    """Put a gate into a database, closed.

    A trigger is the one way to hold a transaction between its statements and its COMMIT.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as keeper:
        await keeper.execute("SELECT pg_advisory_lock(7)")
        await keeper.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock_shared(7);"
            " RETURN new; END$$"
        )
        await keeper.execute(
            "CREATE TRIGGER hold AFTER INSERT ON maitred.events FOR EACH ROW"
            f" WHEN (new.id = '{aggregate_id}') EXECUTE FUNCTION hold()".encode()
        )
        try:
            yield Gate(keeper)
        finally:
            await keeper.execute("SELECT pg_advisory_unlock_all()")
            await keeper.execute("DROP TRIGGER hold ON maitred.events")
            await keeper.execute("DROP FUNCTION hold")


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """Run a server; skip the test where this machine has none."""
    try:
        server = PostgresServer(**settings)
    except NoPostgres as reason:
        pytest.skip(str(reason))
    with server:
        yield server
