"""The watchdog ends when it is told to, whatever a driver does with a cancellation."""

from __future__ import annotations

import asyncio

from maitred.server.engine.watchdog import Watchdog
from maitred.server.stores import create_store
from maitred.server.testing.faulty import FaultyStore


class Deaf(FaultyStore):
    """A store whose driver swallows a cancellation, as wait_for of Python 3.11 may."""

    def __init__(self) -> None:
        super().__init__(create_store("memory://"))
        self.asked = asyncio.Event()

    async def check(self) -> None:
        """Answer only when cancelled."""
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return


async def test_a_swallowed_cancellation_does_not_keep_it_running() -> None:
    """A server that waits for it could not end."""
    store = Deaf()
    watchdog = Watchdog(store)
    watchdog.start()
    await store.asked.wait()
    async with asyncio.timeout(10):
        await watchdog.stop()

    assert watchdog.failure is None
