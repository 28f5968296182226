"""Ends unary calls that take too long and have no deadline of their own.

A timer for each call would cost more than most calls take, so all are looked through now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from maitred.server.errors import DeadlineExceeded

T = TypeVar("T")

CHECKS = 30
"""How often a call is looked at in the longest time that it may take; it ends that much late."""


class Overtime:
    """Cancels the tasks of calls that have run for too long."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._running: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def bound(self, work: Awaitable[T]) -> T:
        """Await a call, at most for as long as calls may take.

        Raises: DeadlineExceeded.
        """
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        if self._timer is None:
            self._timer = loop.call_later(self.limit_s / CHECKS, self._look, loop)
        self._running[task] = loop.time()
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._ended or task.uncancel():
                raise
            raise DeadlineExceeded(
                "the call took longer than this server allows; its outcome is unknown, "
                "so retry with the same request_id"
            ) from None
        finally:
            self._running.pop(task, None)
            self._ended.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if not self._running:
            return
        latest = loop.time() - self.limit_s
        for task, began in list(self._running.items()):
            if began <= latest:
                self._ended.add(task)
                del self._running[task]
                task.cancel()
        self._timer = loop.call_later(self.limit_s / CHECKS, self._look, loop)


async def until(deadline: float, work: Awaitable[T]) -> T:
    """Await a call until a time on the clock of `time.monotonic`.

    Raises: DeadlineExceeded.
    """
    try:
        async with asyncio.timeout(deadline - time.monotonic()) as limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise _late() from None
        raise


async def each_until(deadline: float, messages: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield messages until a time on the clock of `time.monotonic`.

    Raises: DeadlineExceeded.
    """
    while True:
        try:
            message = await until(deadline, anext(messages))
        except StopAsyncIteration:
            return
        yield message


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before the call ended; its outcome is unknown, "
        "so retry with the same request_id"
    )
