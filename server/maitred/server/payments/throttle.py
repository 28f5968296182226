"""Rate limit of calls to a provider, with priority for waiting guests.

A token bucket (one for each operation, as providers count) with half of its rate kept for guests:
what nobody waits for may use the other half at most, news before routine.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable


class Priority(enum.IntEnum):
    """Who waits for an answer; the lower, the sooner."""

    GUEST = 0
    """A call that waits for it."""
    NEWS = 1
    """A notice said that something happened."""
    ROUTINE = 2
    """Nobody waits and nothing is known: it is time to ask."""


class Urgency:
    """The priority of a piece of work, which may rise while it waits."""

    def __init__(self, priority: Priority = Priority.ROUTINE) -> None:
        self.priority = priority
        self._risen: Callable[[], None] | None = None

    def rise(self, priority: Priority) -> None:
        """Take on a priority, if it is a higher one."""
        if priority < self.priority:
            self.priority = priority
            if self._risen is not None:
                self._risen()

    def watch(self, risen: Callable[[], None] | None) -> None:
        """Name who is told when the priority rises; None: nobody any more."""
        self._risen = risen


BURST = 0.25
"""So many seconds' worth of calls may come at once: rate and burst stay below the provider's
limit together, in every second."""


class _Bucket:
    """Tokens that come back at a rate."""

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._rate = rate_per_s
        self._most = max(1.0, rate_per_s * BURST)
        self._tokens = self._most
        self._at_s = now_s

    def missing_s(self, now_s: float) -> float:
        """Seconds until there is a token; 0 where there is one."""
        self._tokens = min(self._most, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        # A timer may fire a hair early: that much of a token is not worth another round.
        return max(0.0, (1.0 - self._tokens) / self._rate - 1e-6)

    def take(self) -> None:
        """Use a token."""
        self._tokens -= 1.0


class Throttle:
    """Lets callers through one by one, below a rate."""

    def __init__(self, rate_per_s: float) -> None:
        """Take how many may pass in a second; what nobody waits for gets half of that at most."""
        now_s = asyncio.get_running_loop().time()
        self._all = _Bucket(rate_per_s, now_s)
        self._background = _Bucket(rate_per_s / 2, now_s)
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {
            priority: deque() for priority in Priority
        }
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait to be let through."""
        return sum(len(queue) for queue in self._waiting.values())

    async def enter(self, urgency: Urgency) -> None:
        """Wait for one's turn; the turn comes sooner if the urgency rises meanwhile."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting[urgency.priority]
        queue.append(turn)

        def rise() -> None:
            nonlocal queue
            if turn in queue:
                queue.remove(turn)
                queue = self._waiting[urgency.priority]
                queue.append(turn)
                self._let_through()

        urgency.watch(rise)
        try:
            self._let_through()
            await turn
        finally:
            urgency.watch(None)
            if turn in queue:
                queue.remove(turn)

    def _let_through(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while True:
            found = self._next()
            if found is None:
                return
            priority, queue = found
            now_s = loop.time()
            missing_s = self._all.missing_s(now_s)
            if priority is not Priority.GUEST:
                missing_s = max(missing_s, self._background.missing_s(now_s))
            if missing_s > 0:
                self._timer = loop.call_later(missing_s, self._let_through)
                return
            self._all.take()
            if priority is not Priority.GUEST:
                self._background.take()
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)

    def _next(self) -> tuple[Priority, deque[asyncio.Future[None]]] | None:
        for priority, queue in self._waiting.items():
            if queue:
                return priority, queue
        return None
