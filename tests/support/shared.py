"""Several servers on one store, which can go away from one of them and come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from maitred.server.stores.base import Ref, Store, StoredEvent, StoreInfo
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.faulty import FaultyStore


class Shared(FaultyStore):
    """One server's way to a store that others write too, so that no memory may answer for it."""

    def __init__(self, inner: Store, info: StoreInfo) -> None:
        super().__init__(inner)
        self._info = info._replace(exclusive=False)
        self._reached = inner
        self.listening = 0
        """How many listen for changes now."""
        self.calls: Counter[str] = Counter()

    async def open(self) -> StoreInfo:
        """Answer what the store is; it is open already."""
        return self._info

    async def close(self) -> None:
        """Leave the store to its owner."""

    def lose(self) -> None:
        """From now on this server does not reach the store, the others do."""
        # One that was never opened refuses everything, as a network that is down would.
        self.inner = MemoryStore()

    def regain(self) -> None:
        """Reach the store again."""
        self.inner = self._reached

    async def changed_of(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield hints, and count who listens."""
        self.listening += 1
        try:
            async for moved in self.inner.changed(refs):
                yield moved
        finally:
            self.listening -= 1

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Delegate, and count who listens."""
        return self.changed_of(refs)

    async def events(
        self,
        ref: Ref,
        after: int,
        limit: int,
        changes: Sequence[int] | None = None,
        *,
        before: int | None = None,
        newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Delegate, and count."""
        self.calls["events"] += 1
        return await super().events(
            ref, after, limit, changes, before=before, newest_first=newest_first
        )

    async def feed_end(self) -> bytes:
        """Delegate, and count."""
        self.calls["feed_end"] += 1
        return await super().feed_end()
