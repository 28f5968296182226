"""The default engine: one SQLite database, one server, every acknowledged commit on the disk."""

from __future__ import annotations

import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from maitred.server.stores.base import (
    KEEP_NOTHING,
    Append,
    BackupInfo,
    Claim,
    Commit,
    Done,
    Head,
    HeadFilter,
    Keep,
    Kind,
    Lease,
    Loaded,
    Outcome,
    Progress,
    Record,
    Ref,
    Row,
    RowFilter,
    StoredEvent,
    StoreError,
    StoreFull,
    StoreInfo,
    StoreUnavailable,
)
from maitred.server.stores.changes import Changes
from maitred.server.stores.inbox import LINGER_S, QUEUE_COMMITS
from maitred.server.stores.sqlite import jobs, reader
from maitred.server.stores.sqlite.backup import back_up
from maitred.server.stores.sqlite.connection import Channel, translate
from maitred.server.stores.sqlite.lockfile import LockFile
from maitred.server.stores.sqlite.opening import Opened, open_to_read, open_to_serve, real_path
from maitred.server.stores.sqlite.schema import Prepared
from maitred.server.stores.sqlite.sql import SQL
from maitred.server.stores.sqlite.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

_log = structlog.get_logger(__name__)

T = TypeVar("T")

FATAL_STATUS = 74
"""The exit status after an I/O error while writing; EX_IOERR of sysexits.h."""

_SCAN_REFS = 200
_MANY_REFS = 64
"""More single reads than this belong on the reading thread."""


def exit_at_once(message: str) -> None:
    """End the process without closing anything, so that nothing more reaches the database."""
    os._exit(FATAL_STATUS)


class SqliteStore:
    """A store in one file. Keeps every promise of `Store`; exclusive, with backup."""

    def __init__(
        self,
        path: Path | str,
        *,
        max_bytes: int | None = None,
        queue_commits: int = QUEUE_COMMITS,
        linger_s: float = LINGER_S,
        clock_ns: Callable[[], int] = time.time_ns,
        fatal: Callable[[str], None] = exit_at_once,
        read_only: bool = False,
    ) -> None:
        """Prepare a store; nothing is touched before `open`.

        `read_only` opens what nobody serves, and changes and leaves nothing. `max_bytes` bounds the
        database file: a commit beyond it is StoreFull. `fatal` is called after an I/O error while
        writing and is expected not to return.
        """
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._queue_commits = queue_commits
        self._linger_s = linger_s
        self._clock_ns = clock_ns
        self._fatal = fatal
        self._read_only = read_only
        self._lock: LockFile | None = None
        self._opened: Opened | None = None
        self._real = self.path
        self._changes = Changes()
        self._writer: Writer | None = None
        self._local: reader.LocalReader | None = None
        self._reader: Channel | None = None
        self._open = False

    async def open(self) -> StoreInfo:
        """Open and migrate; interrupted deletions are finished beside everything else.

        Raises: StoreLocked, SchemaTooNew, StoreUnavailable, CorruptData; StoreError where the file
        is another program's.
        """
        if self._open:
            raise StoreError("the store is open already")
        self._changes = Changes()
        real = real_path(self.path)
        lock = LockFile(real)
        if self._read_only:
            lock.acquire_shared()
        else:
            lock.acquire()
        try:
            if self._read_only:
                opened = await open_to_read(real, lock)
            else:
                opened = await open_to_serve(real, lock, self._max_bytes)
        except BaseException:
            lock.release(failed=True)
            raise
        self._lock, self._real, self._opened = lock, real, opened
        self._local, self._reader = opened.local, opened.pages
        if opened.writing is not None:
            self._writer = Writer(
                opened.writing,
                self._changes,
                clock_ns=self._clock_ns,
                fatal=self._fatal,
                queue_commits=self._queue_commits,
                linger_s=self._linger_s,
            )
            await self._finish(self._writer, opened.unfinished)
        self._open = True
        return self._info(opened.prepared)

    @staticmethod
    async def _finish(writer: Writer, unfinished: Sequence[jobs.Work[Outcome]]) -> None:
        """Finish deletions that a crash cut short; where the disk is full, later."""
        for at, work in enumerate(unfinished):
            try:
                outcome: Outcome = await writer.run(work, scrub=True)
            except StoreFull as error:
                _log.warning("an interrupted deletion is not finished yet", error=str(error))
                writer.finish(unfinished[at:])
                return
            _log.info("an interrupted deletion was finished", outcome=type(outcome).__name__)

    def _info(self, prepared: Prepared) -> StoreInfo:
        _log.info(
            "store opened",
            path=str(self._real),
            sqlite=sqlite3.sqlite_version,
            schema=prepared.schema,
            epoch=prepared.epoch.hex(),
            read_only=self._read_only,
        )
        return StoreInfo(
            engine=f"SQLite {sqlite3.sqlite_version}",
            epoch=prepared.epoch,
            schema=prepared.schema,
            secret=prepared.secret,
            exclusive=True,
            cross_aggregate=True,
            linearizable=True,
            backup=not self._read_only,
        )

    async def check(self) -> None:
        """Answer that the file is open: its lock keeps every other server out."""
        self._reading()

    async def close(self) -> None:
        """Commit what is queued, then close."""
        if not self._open:
            return
        self._open = False
        self._changes.close()
        # The readers in between: the last connection to close removes the write-ahead log, and it
        # must be one that may write.
        if self._writer is not None:
            await self._writer.drain()
        if self._local is not None:
            self._local.close()
        if self._reader is not None:
            await self._reader.close()
        if self._writer is not None:
            await self._writer.close()
        if self._opened is not None and self._opened.leftover is not None:
            self._opened.leftover.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit."""
        self._writing().submit(commit, done)

    @property
    def batches(self) -> int:
        """How many transactions have carried commits."""
        return self._writing().batches

    async def writer_pragmas(self) -> dict[str, int | str]:
        """Read from the writing connection how durably it writes."""
        names = ("synchronous", "journal_mode", "secure_delete", "wal_autocheckpoint")

        def read(connection: sqlite3.Connection) -> dict[str, int | str]:
            return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

        return await self._writing().run(read, transaction=False)

    def _writing(self) -> Writer:
        if self._read_only:
            raise StoreUnavailable("the store is open for reading only")
        if self._writer is None:
            raise StoreUnavailable("the store was never opened")
        return self._writer

    def _reading(self) -> reader.LocalReader:
        if self._local is None or not self._open:
            raise StoreUnavailable("the store is closed")
        return self._local

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._reader is None or not self._open:
            raise StoreUnavailable("the store is closed")
        try:
            return await self._reader.run(function)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise translate(error) from error

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read the head and the event of `request_id`."""
        return self._reading().load(ref, request_id)

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""
        wanted = tuple(refs)
        if len(wanted) <= _MANY_REFS:
            return self._reading().versions(wanted)

        def read(connection: sqlite3.Connection) -> dict[Ref, int]:
            rows = (
                (ref, connection.execute(SQL["read_version"], ref).fetchone()) for ref in wanted
            )
            return {ref: row[0] for ref, row in rows if row is not None}

        return await self._read(read)

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
        """Read a page of an aggregate's log."""
        return await self._read(
            lambda connection: reader.read_events(
                connection, ref, after, limit, changes, before, newest_first=newest_first
            )
        )

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read the event that a request produced."""
        found = self._reading().load(ref, request_id)
        return None if found is None else found.request_event

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key."""
        return self._reading().claim(space, key, self._clock_ns())

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """List aggregates, newest first."""
        return await self._read(
            lambda connection: reader.read_heads(connection, kind, where, after, limit)
        )

    async def list_rows(
        self,
        table: int,
        where: RowFilter,
        after: int | None,
        limit: int,
        *,
        newest_first: bool = True,
    ) -> list[Row]:
        """List projection rows in order of their first writing."""
        return await self._read(
            lambda connection: reader.read_rows(
                connection, table, where, after, limit, newest_first=newest_first
            )
        )

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read events of all aggregates after a cursor."""
        return await self._read(lambda connection: reader.read_feed(connection, after, limit))

    async def feed_end(self) -> bytes:
        """Read the cursor behind which only later events are found."""
        return reader.cursor_at(self._reading().one(SQL["feed_end"])[0])

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Take aggregates whose time has come; the owner needs no record, there is one server."""
        earliest = await self.next_wake()
        if earliest is None or earliest > now_ns:
            return []
        return await self._writing().run(jobs.due(now_ns, limit, lease_s))

    async def next_wake(self) -> int | None:
        """Read the earliest alarm; it may be early, never late."""
        earliest: int | None = self._reading().one(SQL["next_wake"])[0]
        return earliest

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease."""
        return await self._writing().run(jobs.lease(name, owner, ttl_s, self._clock_ns))

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield sets of refs that may have moved."""
        return self._changes.listen(refs, self.versions)

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Append `last`, leave a tombstone, delete the rest."""
        return await self._writing().run(jobs.forget(ref, base, last, keep), ref=ref, scrub=True)

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Erase the personal parts of those events."""
        return await self._writing().run(jobs.redact(ref, versions), scrub=True)

    async def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates in the order of their refs."""
        while refs := await self._read(partial(reader.read_refs, after=after, limit=_SCAN_REFS)):
            for ref in refs:
                read, more = 0, True
                while more:
                    record = await self._read(partial(reader.read_record, ref=ref, after=read))
                    if record is None:
                        break
                    yield record
                    more = record.more
                    read = record.events[-1].version if record.events else record.loaded.version
            after = refs[-1]

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """List claims in order."""
        start = after or ("", "")
        return await self._read(
            lambda connection: [
                Claim(*row) for row in connection.execute(SQL["list_claims"], (*start, limit))
            ]
        )

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as they were scanned."""
        return await self._writing().run(jobs.restore(records))

    async def adopt(self, secret: bytes) -> None:
        """Take over another store's secret."""
        await self._writing().run(jobs.adopt(secret))

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind."""
        return await self._read(
            lambda connection: int(connection.execute(SQL["count"], (kind,)).fetchone()[0])
        )

    async def integrity(self) -> list[str]:
        """Have SQLite check its own pages and indexes; empty where all is well."""
        found = await self._read(
            lambda connection: [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        )
        return [] if found == ["ok"] else found

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Write a consistent, checked copy."""
        if not self._open:
            raise StoreUnavailable("the store is closed")
        return await back_up(self._real, target, progress)
