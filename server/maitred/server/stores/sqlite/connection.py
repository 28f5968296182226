"""Connections: how they are opened, how work reaches their thread, what their errors mean."""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import aiosqlite

from maitred.server.stores.base import (
    CorruptData,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

APPLICATION_ID = 0x4D544431
"""Marks our files; "MTD1"."""

CHECKPOINT_PAGES = 4000
"""16 MB of log: short enough to replay at once, long enough that stalls are rare."""

JOURNAL_SIZE_LIMIT = 64 * 1024 * 1024

SYNCHRONOUS = "FULL"
"""NORMAL would lose acknowledged commits when the power fails."""

_STATEMENT_CACHE = 256


class _Work(Generic[T]):
    """A function on its way to a connection's thread, and afterwards its answer."""

    __slots__ = ("function", "result")

    def __init__(self, function: Callable[[sqlite3.Connection], T]) -> None:
        self.function = function
        self.result: T | None = None


class StagedConnection(sqlite3.Connection):
    """A connection whose `commit` runs the oldest staged function.

    A whole transaction is one function and one hop to the thread; several awaited steps could be
    torn apart by a cancellation between them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.staged: deque[_Work[Any]] = deque()

    def commit(self) -> None:
        """Run the oldest staged function."""
        work = self.staged.popleft()
        work.result = work.function(self)


class Channel:
    """An aiosqlite connection that runs whole functions on its thread, in the order given."""

    def __init__(self, connection: aiosqlite.Connection, raw: StagedConnection) -> None:
        self._connection = connection
        self._raw = raw

    @classmethod
    async def open(cls, database: str) -> Channel:
        """Open a connection to a `file:` URI. Raises: StoreError."""
        made: list[StagedConnection] = []

        def factory(*args: Any, **kwargs: Any) -> StagedConnection:
            made.append(StagedConnection(*args, **kwargs))
            return made[0]

        try:
            connection = await aiosqlite.connect(
                database,
                uri=True,
                isolation_level=None,
                cached_statements=_STATEMENT_CACHE,
                factory=factory,
            )
        except sqlite3.Error as error:
            raise translate(error) from error
        return cls(connection, made[0])

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function on the thread; it runs to its end even if the caller is cancelled."""
        work = _Work(function)
        # No await between the two: the thread takes both queues in the same order.
        self._raw.staged.append(work)
        await self._connection.commit()
        return work.result  # type: ignore[return-value]  # set, because commit returned

    async def close(self) -> None:
        """Finish what is staged, then close."""
        await self._connection.close()

    def abandon(self) -> None:
        """Let the thread end by itself; for a loop that is going away."""
        self._connection.stop()


def uri(path: Path, *, mode: str) -> str:
    """Return the `file:` URI of a database."""
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def configure_writer(connection: sqlite3.Connection, max_bytes: int | None) -> None:
    """Prepare the one connection that writes."""
    for pragma in (
        "journal_mode = WAL",
        f"synchronous = {SYNCHRONOUS}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {JOURNAL_SIZE_LIMIT}",
        "cache_size = -64000",
        "temp_store = MEMORY",
        "busy_timeout = 5000",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        # What `redact` and `forget` delete must not linger in free space.
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    if max_bytes is not None:
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_size)}").fetchall()


def configure_reader(connection: sqlite3.Connection) -> None:
    """Prepare a connection that only reads."""
    for pragma in (
        "query_only = ON",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        "temp_store = MEMORY",
        "busy_timeout = 1000",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def open_local_reader(database: str) -> sqlite3.Connection:
    """Open a read-only connection to a `file:` URI for use on the event loop itself."""
    connection = sqlite3.connect(
        database,
        uri=True,
        isolation_level=None,
        cached_statements=_STATEMENT_CACHE,
    )
    configure_reader(connection)
    return connection


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error; 0 where it has none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_io_error(error: BaseException) -> bool:
    """Tell whether the operating system failed to read, write or sync."""
    return isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_IOERR


def translate(error: Exception) -> StoreError:
    """Return the store's error for a driver's; for work that is certainly not applied."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        match primary_code(error):
            case sqlite3.SQLITE_FULL:
                return StoreFull("the database has no room")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return CorruptData(f"the database file is damaged: {error}")
            case (
                sqlite3.SQLITE_BUSY
                | sqlite3.SQLITE_LOCKED
                | sqlite3.SQLITE_CANTOPEN
                | sqlite3.SQLITE_READONLY
                | sqlite3.SQLITE_PERM
                | sqlite3.SQLITE_IOERR
                | sqlite3.SQLITE_NOMEM
                | sqlite3.SQLITE_AUTH
            ):
                return StoreUnavailable(f"SQLite: {error}")
    if isinstance(error, MemoryError):
        return StoreUnavailable("out of memory")
    if isinstance(error, ValueError) and "closed" in str(error).lower():
        return StoreUnavailable("the store is closed")
    return StoreError(f"refused: {error}")
