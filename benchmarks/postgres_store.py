"""The PostgreSQL engine by itself: batches beside single statements, and wake-ups without hints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, cast

import psycopg

from benchmarks.measure import BenchmarkError, median, median_ratio
from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import Append, Commit, Committed, Ref
from maitred.server.stores.postgres import PostgresStore
from maitred.server.stores.postgres.batch import plain_columns
from maitred.server.stores.postgres.columns import register
from maitred.server.stores.postgres.sql import SQL
from maitred.server.testing.samples import new_append, new_ref, put

COMMITTERS = 64
CONNECTIONS = 20
LANES_FROM = 20
"""Single statements write lanes that the store does not."""

BODY_BYTES = 1000
TURNS = 3

Write = Callable[[Append], Awaitable[None]]


class Rates(NamedTuple):
    """What came of committers that write for a while, in turns of both ways."""

    batched: list[float]
    """Commits a second."""
    single: list[float]
    batched_p50_ms: list[float]
    single_p50_ms: list[float]
    commits_per_batch: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast batches are."""
        return median_ratio(self.batched, self.single)


async def commit_rates(url: str, seconds: float) -> Rates:
    """Measure both ways in turns, so that what else runs here meets both; the first turn warms up.

    Raises: BenchmarkError.
    """
    rates = Rates([], [], [], [], [])
    async with _opened(url) as store, _single_statements(url) as alone:

        async def batched(append: Append) -> None:
            outcome = await put(store, Commit((append,)))
            if outcome != Committed():
                raise BenchmarkError(f"a commit was answered {outcome}")

        refs = [new_ref(SESSION) for _ in range(COMMITTERS)]
        for ref in refs:
            await batched(_append_to(ref, 0))
        bases = dict.fromkeys(refs, 1)
        # Plans, caches and statistics are those of later turns.
        for write in (alone, batched):
            await _commit(bases, write, seconds / 2)
        for _ in range(TURNS):
            rate, p50_ms = await _commit(bases, alone, seconds)
            rates.single.append(rate)
            rates.single_p50_ms.append(p50_ms)
            batches, commits = store.batches, sum(bases.values())
            rate, p50_ms = await _commit(bases, batched, seconds)
            rates.batched.append(rate)
            rates.batched_p50_ms.append(p50_ms)
            rates.commits_per_batch.append(
                (sum(bases.values()) - commits) / (store.batches - batches)
            )
    return rates


async def looking_ms(url: str, rounds: int) -> list[float]:
    """Measure how long a commit takes to wake another server where hints do not arrive."""
    taken: list[float] = []
    async with (
        _opened(url, hints=False) as first,
        _opened(url, hints=False) as second,
    ):
        ref = new_ref(SESSION)
        await put(first, Commit((_append_to(ref, 0),)))
        known = {ref: 1}
        changes = cast("AsyncGenerator[set[Ref]]", second.changed(known))
        for base in range(1, rounds + 1):
            woken = asyncio.ensure_future(anext(changes))
            # At any time between two looks.
            await asyncio.sleep(0.2 + base % 10 * 0.017)
            if woken.done():
                # It told of the commit before, once more.
                woken = asyncio.ensure_future(anext(changes))
            await put(first, Commit((_append_to(ref, base),)))
            begun = time.monotonic()
            while ref not in await woken or await second.versions([ref]) == known:
                woken = asyncio.ensure_future(anext(changes))
            taken.append((time.monotonic() - begun) * 1000)
            known[ref] = base + 1
        await changes.aclose()
    return taken


def _append_to(ref: Ref, base: int) -> Append:
    """Make an append of a usual size."""
    return new_append(ref, base, body=bytes(BODY_BYTES))


async def _commit(bases: dict[Ref, int], write: Write, seconds: float) -> tuple[float, float]:
    """Let every ref have a committer of its own; return commits a second and the median in ms."""
    begun = time.monotonic()
    until = begun + seconds
    taken: list[float] = []

    async def committer(ref: Ref) -> None:
        while (sent := time.monotonic()) < until:
            await write(_append_to(ref, bases[ref]))
            bases[ref] += 1
            taken.append(time.monotonic() - sent)

    async with asyncio.TaskGroup() as group:
        for ref in bases:
            group.create_task(committer(ref))
    return len(taken) / (time.monotonic() - begun), median(taken) * 1000


@asynccontextmanager
async def _opened(url: str, *, hints: bool = True) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, hints=hints)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _single_statements(url: str) -> AsyncIterator[Write]:
    """Yield a way to commit one append in a transaction of its own, on any idle connection."""
    idle: asyncio.Queue[tuple[int, psycopg.AsyncConnection[Any]]] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        for number in range(CONNECTIONS):
            connection = await psycopg.AsyncConnection.connect(
                url, autocommit=True, prepare_threshold=0
            )
            stack.push_async_callback(connection.close)
            register(connection)
            # A lane each, so that they do not wait for one another there.
            idle.put_nowait((LANES_FROM + number, connection))

        async def alone(append: Append) -> None:
            lane, connection = await idle.get()
            try:
                columns = plain_columns([append], lane)
                cursor = await connection.execute(SQL["append"], columns)
                if cursor.rowcount != 1:
                    raise BenchmarkError("a single statement did not append")
            finally:
                idle.put_nowait((lane, connection))

        yield alone
