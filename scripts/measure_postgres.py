"""Measure the PostgreSQL engine: batches against single statements, and wake-ups between servers.

All figures are of one run against a PostgreSQL that is started for it, with fsync on. Give a URL to
measure another one; its data of `maitred` grows by what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.postgres import running_postgres  # found only from here on

from maitred.server.stores.base import Append, Commit, Committed, Kind, Ref
from maitred.server.stores.postgres import PostgresStore
from maitred.server.stores.postgres.batch import plain_columns
from maitred.server.stores.postgres.columns import register
from maitred.server.stores.postgres.sql import SQL
from maitred.server.testing.samples import new_append, new_ref, put

CONNECTIONS = 20
BODY_BYTES = 1000

Write = Callable[[Append], Awaitable[object]]


@contextlib.contextmanager
def database(url: str | None) -> Iterator[str]:
    """Yield the URL of a database to measure."""
    if url is not None:
        yield url
        return
    with running_postgres(fsync="on") as server:
        yield server.create_database()


def append_to(ref: Ref, base: int) -> Append:
    """Make an append of a usual size."""
    return new_append(ref, base, body=bytes(BODY_BYTES))


async def commits_per_second(
    refs: list[Ref], bases: dict[Ref, int], write: Write, seconds: float
) -> tuple[float, float]:
    """Let every ref be written by a committer of its own; return the rate and the median in ms."""
    until = time.monotonic() + seconds
    took: list[float] = []

    async def committer(ref: Ref) -> None:
        while (began := time.monotonic()) < until:
            outcome = await write(append_to(ref, bases[ref]))
            assert outcome == Committed(), outcome
            bases[ref] += 1
            took.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(committer(ref) for ref in refs))
    return len(took) / (time.monotonic() - began), statistics.median(took) * 1000


async def measure_commits(url: str, committers: int, seconds: float) -> None:
    """Print the rates, measured in turns so that what else runs here meets both."""
    store = PostgresStore(url)
    await store.open()
    connections: asyncio.Queue[tuple[int, psycopg.AsyncConnection]] = asyncio.Queue()
    for lane in range(CONNECTIONS):
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=1
        )
        register(connection)
        # A lane each, so that single statements do not wait for one another there.
        connections.put_nowait((lane + 20, connection))

    async def alone(append: Append) -> object:
        lane, connection = await connections.get()
        try:
            columns = plain_columns([append]) | {"lane": lane}
            cursor = await connection.execute(SQL["append"], columns)
            assert cursor.rowcount == 1
            return Committed()
        finally:
            connections.put_nowait((lane, connection))

    async def batched(append: Append) -> object:
        return await put(store, Commit((append,)))

    refs = [new_ref(Kind.SESSION) for _ in range(committers)]
    for ref in refs:
        await put(store, Commit((append_to(ref, 0),)))
    bases = dict.fromkeys(refs, 1)
    ratios = []
    for turn in range(4):
        single, single_ms = await commits_per_second(refs, bases, alone, seconds)
        batches = store.batches
        many, many_ms = await commits_per_second(refs, bases, batched, seconds)
        share = many * seconds / max(1, store.batches - batches)
        print(
            f"turn {turn}: {many:7.0f}/s in batches of {share:.0f} (p50 {many_ms:.2f} ms),"
            f" {single:7.0f}/s one by one on {CONNECTIONS} connections (p50 {single_ms:.2f} ms):"
            f" {many / single:.1f} times"
        )
        ratios.append(many / single)
    # The first turn warms up: plans, caches, statistics.
    print(f"batches: {statistics.median(ratios[1:]):.1f} times the rate, {committers} committers")
    while not connections.empty():
        await connections.get_nowait()[1].close()
    await store.close()


async def measure_wakeups(url: str, rounds: int, *, hints: bool) -> None:
    """Print how long a commit on one server takes to wake a watcher on another one."""
    first, second = (PostgresStore(url, hints=hints) for _ in range(2))
    await first.open()
    await second.open()
    ref = new_ref(Kind.SESSION)
    await put(first, Commit((append_to(ref, 0),)))
    known = {ref: 1}
    changes = second.changed(known)
    took: list[float] = []
    for base in range(1, rounds + 1):
        hint = asyncio.ensure_future(anext(changes))
        # At any time between two looks.
        await asyncio.sleep(0.2 + base % 10 * 0.017)
        began = time.monotonic()
        await put(first, Commit((append_to(ref, base),)))
        # A hint may repeat an earlier one.
        while ref not in await hint or await second.versions([ref]) == known:
            hint = asyncio.ensure_future(anext(changes))
        took.append((time.monotonic() - began) * 1000)
        known[ref] = base + 1
    took.sort()
    way = "looking and hints" if hints else "looking alone"
    print(
        f"wake-up by {way}: p50 {took[len(took) // 2]:.1f} ms,"
        f" p95 {took[int(len(took) * 0.95)]:.1f} ms, worst {took[-1]:.1f} ms of {rounds}"
    )
    await changes.aclose()  # type: ignore[attr-defined]  # an async generator
    await first.close()
    await second.close()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--committers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=50, help="of wake-ups")
    given = parser.parse_args()
    with database(given.url) as url:
        await measure_commits(url, given.committers, given.seconds)
        for hints in (True, False):
            await measure_wakeups(url, given.rounds, hints=hints)


if __name__ == "__main__":
    asyncio.run(main())
