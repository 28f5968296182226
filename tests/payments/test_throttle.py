"""The throttle: never too often, guests first, and nothing left behind. In a time of its own."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from maitred.server.payments.throttle import BURST, Priority, Throttle, Urgency

GUEST, NEWS, ROUTINE = Priority.GUEST, Priority.NEWS, Priority.ROUTINE


class StillTime(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything is to be done, and else jumps to what is due.

    So a minute takes milliseconds, and no other load of the machine shows in a test.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Read the clock."""
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Move the clock."""
        self._now_s += seconds


class _Jumping(selectors.SelectSelector):
    """Does not wait: it moves the clock."""

    def __init__(self, loop: StillTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is ever going to happen")
        # No clock stands quite still: loops run timers that are due within its resolution.
        self._loop.jump(max(timeout, 1e-9))
        return super().select(0)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tell a story in a time of its own."""
    with asyncio.Runner(loop_factory=StillTime) as runner:
        runner.run(story())


def now() -> float:
    """Read the clock of the story."""
    return asyncio.get_running_loop().time()


def most_in_a_second(passed: list[float]) -> int:
    """Count what passed in the busiest second, wherever it began."""
    return max((sum(start <= each < start + 1 for each in passed) for start in passed), default=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [1.0, 3.0, 20.0, 100.0])
def test_no_second_sees_more_than_the_rate(rate: float, seed: int) -> None:
    """Rate and burst together, whoever comes when, and whoever leaves or becomes urgent meanwhile.

    What nobody waits for takes no more than half of it.
    """
    random = Random(seed)
    passed: dict[bool, list[float]] = {True: [], False: []}

    async def enter(throttle: Throttle, urgency: Urgency) -> None:
        await throttle.enter(urgency)
        passed[urgency.priority is GUEST].append(now())

    async def come(throttle: Throttle) -> None:
        await asyncio.sleep(random.uniform(0, 5))
        urgency = Urgency(random.choice(list(Priority)))
        entering = asyncio.create_task(enter(throttle, urgency))
        if random.random() < 0.3:
            await asyncio.sleep(random.uniform(0, 2))
            if random.random() < 0.5:
                entering.cancel()
            else:
                urgency.rise(GUEST)
        await asyncio.gather(entering, return_exceptions=True)

    async def story() -> None:
        throttle = Throttle(rate)
        await asyncio.gather(*(come(throttle) for _ in range(int(rate * 8))))

        assert throttle.waiting == 0

    run(story)

    everybody = sorted(passed[True] + passed[False])
    assert len(everybody) > rate * 4
    assert most_in_a_second(everybody) <= rate + max(1, rate * BURST)
    assert most_in_a_second(sorted(passed[False])) <= rate / 2 + max(1, rate / 2 * BURST)


def test_what_nobody_waits_for_gets_half_of_the_rate() -> None:
    """Also where nobody else wants the other half: a guest may come at any moment."""
    passed: list[float] = []

    async def come(throttle: Throttle, priority: Priority) -> None:
        await throttle.enter(Urgency(priority))
        passed.append(now())

    async def story() -> None:
        throttle = Throttle(20.0)
        await asyncio.gather(*(come(throttle, (NEWS, ROUTINE)[n % 2]) for n in range(100)))

    run(story)

    assert most_in_a_second(passed) <= 10 + 10 * BURST
    assert passed[-1] == pytest.approx(10, abs=0.5)


def test_guests_pass_a_crowd_of_questions_that_nobody_waits_for() -> None:
    """At half of the rate they hardly wait at all."""
    waited: list[float] = []

    async def guest(throttle: Throttle, at_s: float) -> None:
        await asyncio.sleep(at_s)
        began = now()
        await throttle.enter(Urgency(GUEST))
        waited.append(now() - began)

    async def story() -> None:
        throttle = Throttle(20.0)
        crowd = [asyncio.create_task(throttle.enter(Urgency())) for _ in range(400)]
        await asyncio.gather(*(guest(throttle, n / 10) for n in range(100)))
        for each in crowd:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)

        assert throttle.waiting == 0

    run(story)

    assert max(waited) <= 0.06


def test_guests_come_before_news_and_news_before_routine() -> None:
    """And who came first of those who are alike."""
    order: list[tuple[Priority, int]] = []

    async def come(throttle: Throttle, priority: Priority, number: int) -> None:
        await throttle.enter(Urgency(priority))
        order.append((priority, number))

    async def story() -> None:
        throttle = Throttle(1.0)
        await throttle.enter(Urgency(GUEST))
        await asyncio.gather(
            *(come(throttle, priority, n) for n in range(3) for priority in (ROUTINE, NEWS, GUEST))
        )

    run(story)

    assert order == [(priority, n) for priority in (GUEST, NEWS, ROUTINE) for n in range(3)]


def test_who_becomes_urgent_while_waiting_passes_the_others() -> None:
    """A guest who asks about what is being polled does not wait for the poll's turn."""
    times: dict[str, float] = {}

    async def come(throttle: Throttle, name: str, urgency: Urgency) -> None:
        await throttle.enter(urgency)
        times[name] = now()

    async def story() -> None:
        throttle = Throttle(2.0)
        risen = Urgency()
        crowd = [asyncio.create_task(come(throttle, f"{n}", Urgency())) for n in range(20)]
        last = asyncio.create_task(come(throttle, "risen", risen))
        await asyncio.sleep(3)
        risen.rise(ROUTINE)
        risen.rise(GUEST)
        await asyncio.gather(last, *crowd)

    run(story)

    assert 3 <= times["risen"] <= 3.5
    assert times["19"] > 15


def test_who_leaves_leaves_nothing_behind() -> None:
    """Neither a place in the queue nor a turn: the next one passes as if nobody had been there."""

    async def story() -> None:
        throttle = Throttle(1.0)
        await throttle.enter(Urgency(GUEST))
        began = now()
        leaving = [asyncio.create_task(throttle.enter(Urgency(each))) for each in Priority]
        await asyncio.sleep(0.5)
        urgency = Urgency()
        leaving.append(asyncio.create_task(throttle.enter(urgency)))
        await asyncio.sleep(0)
        urgency.rise(GUEST)
        for each in leaving:
            each.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        left = throttle.waiting
        urgency.rise(GUEST)
        await throttle.enter(Urgency(GUEST))

        assert left == throttle.waiting == 0
        assert now() - began == pytest.approx(1.0)

    run(story)


def test_a_free_throttle_lets_through_at_once() -> None:
    """Without a turn of the clock."""

    async def story() -> None:
        throttle = Throttle(20.0)
        for _ in range(5):
            await throttle.enter(Urgency(GUEST))

        assert now() < 1e-6

    run(story)
