"""One lock for each aggregate that is being changed, and none for the others.

A lock exists only while somebody holds or awaits it. It belongs to a command, not to a task: the
holder may hand it to the store's callback, which releases it when the commit is known, whatever
became of the task. Correctness is the store's compare-and-set; locks only save conflicts.
"""

from __future__ import annotations

import asyncio
from collections import deque

from maitred.server.errors import LockTimeout
from maitred.server.stores.base import Ref


class Locks:
    """Mutual exclusion by name, first come first served."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting: dict[Ref, deque[asyncio.Future[None]]] = {}
        self.waits = 0
        """How often a command had to wait."""
        self.timeouts = 0
        """How often it waited in vain."""

    def __len__(self) -> int:
        """How many aggregates are locked."""
        return len(self._waiting)

    def held(self, ref: Ref) -> bool:
        """Whether somebody holds the lock."""
        return ref in self._waiting

    def try_acquire(self, ref: Ref) -> bool:
        """Take the lock if nobody has it; this is the usual case and costs no task switch."""
        if ref in self._waiting:
            return False
        self._waiting[ref] = deque()
        return True

    async def acquire(self, ref: Ref, timeout_s: float | None = None) -> None:
        """Take the lock, after those who came before. Cancelled, it leaves nothing behind.

        Raises: LockTimeout.
        """
        if self.try_acquire(ref):
            return
        self.waits += 1
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[ref].append(turn)
        limit = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        timer = loop.call_later(limit, self._give_up, turn)
        try:
            await turn
        except BaseException:
            # The lock may have been handed over in the same loop iteration that cancelled us.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(ref)
            elif ref in self._waiting and turn in self._waiting[ref]:
                self._waiting[ref].remove(turn)
            raise
        finally:
            timer.cancel()

    def release(self, ref: Ref) -> None:
        """Give the lock to who waits longest, or forget it."""
        waiting = self._waiting[ref]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[ref]

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self.timeouts += 1
            turn.set_exception(
                LockTimeout("the session is busy; try again", retry_after_s=self._timeout_s / 10)
            )
