"""Waiters for changes of aggregates, for engines that see every commit themselves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from maitred.server.stores.base import Ref, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

RECHECK_S = 0.5
"""How long a ref that was added between two looks may stay unnoticed; the promise is a second."""


class Changes:
    """Tells its listeners which refs were committed."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def publish(self, refs: Iterable[Ref]) -> None:
        """Wake all listeners; for the event loop's thread only."""
        for listener in self._listeners:
            listener.moved.update(refs)
            listener.wake.set()

    def close(self) -> None:
        """End all listening."""
        self._closed = True
        for listener in self._listeners:
            listener.wake.set()

    async def listen(
        self,
        refs: Mapping[Ref, int],
        versions: Callable[[Iterable[Ref]], Awaitable[dict[Ref, int]]],
    ) -> AsyncIterator[set[Ref]]:
        """Yield refs that moved past the version given; looks into the store now and then.

        Raises: StoreUnavailable once the store is closed.
        """
        listener = _Listener()
        self._listeners.add(listener)
        try:
            # Looks first: what was committed before the listener was there wakes nobody.
            look = True
            while True:
                if look:
                    found = await versions(tuple(refs))
                    moved = {ref for ref, version in found.items() if version > refs.get(ref, -1)}
                else:
                    moved = {ref for ref in listener.moved if ref in refs}
                    listener.moved.clear()
                if moved:
                    yield moved
                look = not listener.wake.is_set() and not await listener.wait()
                listener.wake.clear()
                if self._closed:
                    raise StoreUnavailable("the store is closed")
        finally:
            self._listeners.discard(listener)


class _Listener:
    __slots__ = ("moved", "wake")

    def __init__(self) -> None:
        self.moved: set[Ref] = set()
        self.wake = asyncio.Event()

    async def wait(self) -> bool:
        """Wait for a commit; False after a while without any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECHECK_S):
                await self.wake.wait()
        return self.wake.is_set()
