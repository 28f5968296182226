"""Asks a store that others share whether it is there, so that nobody has to find out by waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from maitred.server.stores.base import SchemaTooNew, Store, StoreError, StoreUnavailable

EVERY_S = 1.0
AGAIN_S = 0.3
"""Between two questions: while the store answers, and while it does not."""

ANSWER_S = 2.0
"""A store that takes longer is as good as away: a call would wait no less."""

FAILURES = 2
"""So many in a row, because one connection may be lost for reasons of its own."""

log = structlog.get_logger(__name__)

Listener = Callable[[StoreError | None], None]
"""Told why the store is away, and with None that it is back."""


class Watchdog:
    """Knows whether the store answers. Until it is started, it does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.listeners: list[Listener] = []
        self.failure: StoreError | None = None
        """Why the store is away; None while it answers."""
        self._refusal: StoreError | None = None

    def start(self) -> None:
        """Ask in the background."""
        self._task = asyncio.create_task(self._run(), name="store-watchdog")

    async def stop(self) -> None:
        """End the asking."""
        if self._task is not None:
            # Said as well: in a driver, wait_for of Python 3.11 may swallow a cancellation.
            self._stopping = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def check(self) -> None:
        """Refuse at once what a silent store would keep waiting. Raises: StoreError.

        One that says itself that it cannot be reached says so quickly, and may be right again by
        the next call: it is asked.
        """
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            silent, error = await self._ask()
            failures = 0 if error is None else failures + 1
            if error is None or failures >= FAILURES or isinstance(error, SchemaTooNew):
                self._refusal = error if silent or isinstance(error, SchemaTooNew) else None
                self._set(error)
            await asyncio.sleep(EVERY_S if error is None else AGAIN_S)

    async def _ask(self) -> tuple[bool, StoreError | None]:
        """Put the question; answers whether the store kept silent, and what is wrong with it."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._store.check()
        except TimeoutError:
            return True, StoreUnavailable(f"the store did not answer within {ANSWER_S:g} s")
        except StoreError as error:
            return False, error
        return False, None

    def _set(self, failure: StoreError | None) -> None:
        before, self.failure = self.failure, failure
        if (before is None) == (failure is None):
            return
        if failure is None:
            log.info("store_back")
        else:
            log.error("store_lost", kind=type(failure).__name__, error=str(failure))
        for listener in self.listeners:
            listener(failure)
