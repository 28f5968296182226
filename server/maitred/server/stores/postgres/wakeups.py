"""How a server learns of other servers' commits: by polling, and by notifications to poll now.

Correctness is the looking: the newest position of each lane is a few rows, read several times a
second while anybody listens, and where one has moved, the names of what moved. So its cost grows
with what is committed, not with what is watched.

A hint is a NOTIFY on a connection of its own, at most a few a second, sent behind the commit and
never inside it: a transaction that notifies takes a lock that serialises all commits of the
cluster. Where LISTEN does not exist, or a connection pooler swallows it, looking is all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from maitred.server.stores.base import StoreError
from maitred.server.stores.postgres.errors import translate
from maitred.server.stores.postgres.feed import LANES
from maitred.server.stores.postgres.reader import read_lanes, read_moved

if TYPE_CHECKING:
    from maitred.server.stores.changes import Changes
    from maitred.server.stores.postgres.connection import Connection, Connector, Pool
    from maitred.server.stores.postgres.feed import Cursor

_log = structlog.get_logger(__name__)

LOOK_BUSY_S: Final = 0.05
LOOK_IDLE_S: Final = 0.15
"""Between two looks: while others commit, and when they have not for a while."""

LOOK_GROWTH: Final = 1.2

PAGE: Final = 2000
"""Names read at once from each lane."""

_BEFORE: Final = 2_000_000 * LANES
"""Two seconds in positions, which follow the database's clock in microseconds."""

HINT_S: Final = 0.05
"""Between two hints sent: they say only that there is something to see."""

RETRY_S: Final = 1.0
"""Between two attempts to listen for hints."""

_CHANNEL = b"maitred_changes"
_UNABLE = (psycopg.NotSupportedError, psycopg.ProgrammingError)


class Wakeups:
    """Publishes to the listeners of one server what all servers commit."""

    def __init__(
        self, pool: Pool, connector: Connector, changes: Changes, lane: int, *, hints: bool
    ) -> None:
        self._pool = pool
        self._connector = connector
        self._changes = changes
        self._lane = lane
        self._hints = hints
        self._look_now = asyncio.Event()
        self._hint_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._looking = False

    def start(self) -> None:
        """Begin to send hints; looking begins with the first listener."""
        if self._hints:
            self._spawn(self._send(), "maitred-postgres-hints")

    def listen(self) -> None:
        """Look for commits of others from now on."""
        if not self._looking:
            self._looking = True
            self._spawn(self._look(), "maitred-postgres-look")
            if self._hints:
                self._spawn(self._hear(), "maitred-postgres-hear")

    def wrote(self) -> None:
        """Let other servers know, soon, that there is something to see."""
        self._hint_due.set()

    async def close(self) -> None:
        """End looking and hinting."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _spawn(self, work: object, name: str) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(work, name=name))  # type: ignore[arg-type]  # a coroutine of this class

    # ---------------------------------------------------------------- looking

    async def _look(self) -> None:
        places: Cursor | None = None
        pause_s = LOOK_BUSY_S
        while True:
            moved = False
            if self._changes:
                try:
                    places, moved = await self._look_once(places)
                except StoreError as error:
                    # Listeners look by themselves now and then, and are told what goes on there.
                    _log.debug("looking for changes failed", error=str(error))
            else:
                places = None
            pause_s = LOOK_BUSY_S if moved else min(pause_s * LOOK_GROWTH, LOOK_IDLE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._look_now.wait()
            self._look_now.clear()

    async def _look_once(self, places: Cursor | None) -> tuple[Cursor, bool]:
        """Publish what moved behind these places; answer where that ends, and if others moved."""
        newest = await self._pool.run(read_lanes)
        if places is None:
            # From a little earlier: what was committed since the listeners' own first look, too.
            places = {lane: max(0, place - _BEFORE) for lane, place in newest.items()}
        behind = {lane: place for lane, place in places.items() if newest.get(lane, 0) > place}
        others = behind.keys() - {self._lane}
        while behind:
            refs, reached, more = await self._pool.run(
                partial(read_moved, cursor=behind, limit=PAGE)
            )
            self._changes.publish(refs)
            if more:
                behind = reached
                continue
            # Up to the newest, because what moved in a lane may be rows without an event.
            ends = {lane: max(place, newest[lane]) for lane, place in reached.items()}
            places, behind = {**places, **ends}, {}
        return places, bool(others)

    # ---------------------------------------------------------------- hints

    async def _send(self) -> None:
        while True:
            await self._hint_due.wait()
            self._hint_due.clear()
            try:
                await self._pool.run(_notify, writes=True)
            except StoreError as error:
                if isinstance(error.__cause__, _UNABLE):
                    _log.info("this database takes no hints", error=str(error))
                    return
                _log.debug("a hint was not sent", error=str(error))
            await asyncio.sleep(HINT_S)

    async def _hear(self) -> None:
        while True:
            try:
                generation = self._connector.generation
                connection = await self._connector.connect(statement_s=None)
            except StoreError:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await connection.execute(b"LISTEN " + _CHANNEL)
                async for _ in connection.notifies():
                    self._look_now.set()
            except _UNABLE as error:
                _log.info("this database gives no hints", error=str(translate(error)))
                return
            except (psycopg.Error, OSError) as error:
                self._connector.note(error, generation, lost=True)
                await asyncio.sleep(RETRY_S)
            finally:
                await connection.close()


async def _notify(connection: Connection) -> None:
    async with connection.pipeline():
        await connection.execute(b"BEGIN")
        # A hint need not outlive a crash, so it waits for no disk and makes no commit wait.
        await connection.execute(b"SET LOCAL synchronous_commit = off")
        await connection.execute(b"NOTIFY " + _CHANNEL)
        await connection.execute(b"COMMIT")
