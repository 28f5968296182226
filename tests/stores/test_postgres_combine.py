"""Reads that are asked for together are sent together, and each of them is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from maitred.server.stores.postgres.combine import RUNNING, Combiner


async def test_who_asks_just_as_statements_end_is_answered() -> None:
    """A task that has ended reads nothing more, however soon after its end somebody asks."""
    gate = asyncio.Event()

    async def read(keys: Sequence[int]) -> Mapping[int, int]:
        await gate.wait()
        return {key: key for key in keys}

    combiner = Combiner(read)

    async def ask_late() -> int | None:
        # Woken in the turn in which all statements end, behind them.
        await gate.wait()
        return await combiner.get(0)

    asking = []
    for key in range(1, RUNNING + 1):
        asking.append(asyncio.create_task(combiner.get(key)))
        # Let its statement go out by itself, so that all of them are under way.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    asking.append(asyncio.create_task(ask_late()))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*asking)

    assert answers == [*range(1, RUNNING + 1), 0]


async def test_what_is_asked_for_together_is_read_together() -> None:
    """Behind the statements under way everybody waits for one more."""
    statements: list[list[int]] = []
    gate = asyncio.Event()

    async def read(keys: Sequence[int]) -> Mapping[int, int]:
        statements.append(list(keys))
        await gate.wait()
        return {key: key for key in keys if key}

    combiner = Combiner(read)
    asking = [asyncio.create_task(combiner.get(key % 10)) for key in range(40)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*asking)

    assert answers == [key % 10 or None for key in range(40)]
    assert len(statements) <= RUNNING
