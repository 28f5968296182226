"""Follows what other servers commit to the same store, so that watches here are told of it.

The store hints which of the watched aggregates moved. Their versions are read in one query; of
those that are behind, the events are read once for all watchers, folded and put into the ring, as
if they had been committed here. A hint that is late or lost costs time and nothing else, because
watchers ask for what comes after their own version. Nothing runs while nobody watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import structlog

from maitred.server.engine import eventlog
from maitred.server.engine.hub import Hub
from maitred.server.engine.ring import RING, Topic
from maitred.server.engine.soundness import require_sound
from maitred.server.errors import MaitredError
from maitred.server.kinds import Kinds
from maitred.server.stores.base import Ref, Store, StoredEvent, StoreError

LOOK_S = 0.1
"""Between two looks at the end of the feed, for those who watch everything."""

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 1.0
"""Back-off while the store is away."""

READING = 16
"""Logs read at a time: others need connections of the store, too."""

log = structlog.get_logger(__name__)


class Follower:
    """Wakes the hub for commits of other servers."""

    def __init__(self, store: Store, hub: Hub, kinds: Kinds) -> None:
        self._store = store
        self._hub = hub
        self._kinds = kinds
        self._topics: asyncio.Task[None] | None = None
        self._feed: asyncio.Task[None] | None = None
        self._filling: dict[Ref, int] = {}
        """Aggregates whose gaps are being filled, and up to where."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Follow whenever somebody watches."""
        self._hub.topics_audience = self._topics_audience
        self._hub.feed_audience = self._feed_audience
        self._hub.fill = self._fill

    async def stop(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _topics_audience(self, there: bool) -> None:
        self._topics = self._switch(self._topics, self._follow if there else None)

    def _feed_audience(self, there: bool) -> None:
        self._feed = self._switch(self._feed, self._look if there else None)

    def _switch(
        self, task: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]] | None
    ) -> asyncio.Task[None] | None:
        if task is not None:
            task.cancel()
        return None if work is None else self._spawn(self._keep(work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="follower")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do work that ends only by failing, again and again."""
        pause_s = RETRY_FIRST_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await work()
            except StoreError as error:
                log.warning("following_failed", kind=type(error).__name__, error=str(error))
            except Exception:  # logged; watchers would wait for ever if nobody followed
                log.exception("following_failed")
            if asyncio.get_running_loop().time() - began > RETRY_MAX_S:
                pause_s = RETRY_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    # --- all aggregates ------------------------------------------------------------------------

    async def _look(self) -> None:
        end: bytes | None = None
        while True:
            # The first look counts as news: what came before it was seen by nobody.
            before, end = end, await self._store.feed_end()
            if end != before:
                self._hub.feed_moved()
            await asyncio.sleep(LOOK_S)

    # --- single aggregates ---------------------------------------------------------------------

    async def _follow(self) -> None:
        hints = self._store.changed(self._hub.positions)
        try:
            async for moved in hints:
                await self._catch_up(moved)
        finally:
            close = getattr(hints, "aclose", None)
            if close is not None:
                await close()

    async def _catch_up(self, moved: Iterable[Ref]) -> None:
        """Publish what is missing of these aggregates."""
        # Hints are of own commits as well; those are published already, nearly always.
        watched = [ref for ref in moved if self._hub.topic(ref) is not None]
        if not watched:
            return
        newest = await self._store.versions(watched)
        behind = [ref for ref, version in newest.items() if self._is_behind(ref, version)]
        for start in range(0, len(behind), READING):
            page = behind[start : start + READING]
            await asyncio.gather(*(self._read_on(ref, newest[ref]) for ref in page))

    def _is_behind(self, ref: Ref, version: int) -> bool:
        topic = self._hub.topic(ref)
        return topic is not None and topic.version < version

    async def _read_on(self, ref: Ref, newest: int) -> None:
        while (topic := self._hub.topic(ref)) is not None and topic.version < newest:
            rows = await self._store.events(ref, topic.version, RING)
            if self._hub.topic(ref) is not topic:
                return
            try:
                require_sound(rows)
                self._publish(topic, rows)
            except (StoreError, MaitredError) as error:
                # Watchers meet the same when they read it themselves, and are told in their call.
                log.warning("event_unreadable", ref=ref.id, error=str(error))
                self._hub.rings.skip(topic, newest)
            if not rows:
                return

    def _publish(self, topic: Topic, rows: Iterable[StoredEvent]) -> None:
        """Fold events into the topic; some may have been published by this server meanwhile."""
        for row in rows:
            if row.version <= topic.version:
                continue
            kind = self._kinds[row.ref.kind]
            event = eventlog.decode(row, kind.event)
            change = event.WhichOneof("change") or ""
            state = None
            if change not in kind.changes.ends_log:
                if row.version != topic.version + 1 or topic.state is None:
                    self._hub.rings.skip(topic, row.version)
                    continue
                state = kind.fold(topic.state, event)
            self._hub.show(
                topic, row.version, change, event, eventlog.decode_bytes(row, kind.event), state
            )

    def _fill(self, ref: Ref, version: int) -> None:
        if ref not in self._filling:
            _task = self._spawn(self._fill_up(ref))
        self._filling[ref] = version

    async def _fill_up(self, ref: Ref) -> None:
        try:
            while self._is_behind(ref, self._filling[ref]):
                await self._read_on(ref, self._filling[ref])
        except StoreError as error:
            # The store's next look finds it behind.
            log.warning("gap_not_filled", ref=ref.id, error=str(error))
        finally:
            del self._filling[ref]
