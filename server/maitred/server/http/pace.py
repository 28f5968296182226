"""Paces incoming requests, so that a burst does not monopolize the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

AT_ONCE: Final = 16
"""So many may follow each other without a pause."""


class Pace:
    """Lets requests in at most at a rate, first come, first served; below it nobody waits.

    A request that is answered from memory never gives the loop up by itself: hundreds of them would
    run in one turn of the loop, and every other call would wait for them.
    """

    def __init__(self, rate_per_s: float) -> None:
        """Take how many may enter in a second."""
        self._rate_per_s = rate_per_s
        self._left = float(AT_ONCE)
        self._at_s = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if self._take(loop.time()):
                return
            self._look_again(loop)
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _take(self, now_s: float) -> bool:
        self._left = min(AT_ONCE, self._left + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _let_in(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        while self._waiting:
            # Whoever was cancelled while waiting takes nobody's turn.
            if not self._waiting[0].done():
                if not self._take(now_s):
                    self._look_again(loop)
                    return
                self._waiting[0].set_result(None)
            del self._waiting[0]

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Come back when there is room for the next one."""
        loop.call_later((1 - self._left) / self._rate_per_s, self._let_in, loop)
