"""A burst is let in at a pace, in its order; below the pace nobody waits."""

from __future__ import annotations

import asyncio

from maitred.server.http.pace import AT_ONCE, Pace

RATE, SLOW = 1000.0, 20.0


async def test_below_the_rate_nobody_waits() -> None:
    """As many as may come at once pass without giving the loop up."""
    pace, turns = Pace(RATE), 0

    def tick() -> None:
        nonlocal turns
        turns += 1

    asyncio.get_running_loop().call_soon(tick)
    for _ in range(AT_ONCE):
        await pace.enter()

    assert turns == 0


async def test_a_burst_is_let_in_at_the_rate_and_in_order() -> None:
    """What is more than may come at once takes its time, first come, first served."""
    pace, order = Pace(RATE), list[int]()
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def enter(number: int) -> None:
        await pace.enter()
        order.append(number)

    await asyncio.gather(*(enter(number) for number in range(AT_ONCE + 50)))

    assert order == sorted(order)
    assert loop.time() - started >= 50 / RATE * 0.9


async def test_who_was_cancelled_takes_nobodys_turn() -> None:
    """A sender that went away while it waited is passed over."""
    pace = Pace(SLOW)
    for _ in range(AT_ONCE):
        await pace.enter()
    waiting = [asyncio.create_task(pace.enter()) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting[:19]:
        task.cancel()
    started = asyncio.get_running_loop().time()
    await waiting[19]

    assert asyncio.get_running_loop().time() - started < 10 / SLOW
    await asyncio.gather(*waiting, return_exceptions=True)
