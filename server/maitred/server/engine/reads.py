"""The one way to what the store holds, for everything that is answered to a caller.

Where memory answers reads, a commit is durable a moment before it is published. Who read the store
in that moment would see version v + 1 and then, from memory, version v. So what was read is
released only once every commit that was with the store when the read ended has been published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from maitred.server.engine.soundness import require_sound
from maitred.server.stores.base import (
    Claim,
    Head,
    HeadFilter,
    Kind,
    Loaded,
    Ref,
    Row,
    RowFilter,
    Store,
    StoredEvent,
)

T = TypeVar("T")


class Barrier:
    """Counts the commits that are with the store; costs a reader nothing while there is none."""

    def __init__(self) -> None:
        self._begun = 0
        self._with_store: dict[int, None] = {}
        """Submissions whose outcome is not known yet, oldest first."""
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Readers in the order in which they came, each with the last submission it waits for."""

    def begin(self) -> int:
        """Count a submission."""
        self._begun += 1
        self._with_store[self._begun] = None
        return self._begun

    def end(self, number: int) -> None:
        """Note that a submission was published, or that it is known not to be or not known yet."""
        del self._with_store[number]
        if not self._waiting:
            return
        oldest = next(iter(self._with_store), self._begun + 1)
        while self._waiting and self._waiting[0][0] < oldest:
            waiter = self._waiting.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)

    async def passed(self) -> None:
        """Wait until everything that is with the store now has come back."""
        if not self._with_store:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._begun, waiter))
        await waiter


class Reads:
    """Reads of the store, each released behind the barrier. Raises: StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.barrier = Barrier()
        self.exclusive = False
        """Whether memory answers reads; known once the store is open."""

    async def load(self, ref: Ref) -> Loaded | None:
        """Read a head, as `Store.load`.

        Released at once: while a commit of this aggregate is under way, memory keeps no head of
        it that is older than one read here.
        """
        return await self._store.load(ref)

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
        """Read a page of one log, as `Store.events`; one row more, so that the chain is checked.

        Raises: CorruptData, where the rows are not what was written.
        """
        linked = changes is None and after > 0 and limit > 0 and not newest_first
        start = after - 1 if linked else after
        size = limit + 1 if linked else limit
        rows = await self.released(
            self._store.events(ref, start, size, changes, before=before, newest_first=newest_first)
        )
        require_sound(rows)
        if not linked:
            return rows
        wanted = [row for row in rows if row.version > after]
        if not wanted and rows:
            # The row before was all that a page could hold.
            wanted = await self.released(self._store.events(ref, after, limit, before=before))
            require_sound([*rows, *wanted])
        return wanted[:limit]

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist, as `Store.versions`."""
        return await self.released(self._store.versions(refs))

    async def version(self, ref: Ref) -> int:
        """Read the version of one aggregate, deleted or not; 0 where there never was one."""
        return (await self.versions([ref])).get(ref, 0)

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """Read a page of aggregates, as `Store.list_heads`."""
        return await self.released(self._store.list_heads(kind, where, after, limit))

    async def list_rows(
        self,
        table: int,
        where: RowFilter,
        after: int | None,
        limit: int,
        *,
        newest_first: bool = True,
    ) -> list[Row]:
        """Read a page of a projection, as `Store.list_rows`."""
        return await self.released(
            self._store.list_rows(table, where, after, limit, newest_first=newest_first)
        )

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key, as `Store.claim`."""
        return await self.released(self._store.claim(space, key))

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read a page of the log of all aggregates, as `Store.feed`."""
        rows = await self.released(self._store.feed(after, limit))
        require_sound(rows)
        return rows

    async def feed_end(self) -> bytes:
        """Read where the feed ends, as `Store.feed_end`."""
        return await self.released(self._store.feed_end())

    async def released(self, reading: Awaitable[T]) -> T:
        """Read something, and hold it back until memory knows at least as much."""
        found = await reading
        if self.exclusive:
            await self.barrier.passed()
        return found
