"""The engine for several servers: one PostgreSQL database, every acknowledged commit in its log."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg
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
    StoreInfo,
    StoreUnavailable,
)
from maitred.server.stores.changes import Changes
from maitred.server.stores.inbox import LINGER_S, QUEUE_COMMITS
from maitred.server.stores.postgres import jobs, reader
from maitred.server.stores.postgres.combine import Combiner
from maitred.server.stores.postgres.connection import Connector, Pool, Target, deadline
from maitred.server.stores.postgres.errors import translate
from maitred.server.stores.postgres.feed import decode_cursor, encode_cursor
from maitred.server.stores.postgres.housekeeping import Housekeeping
from maitred.server.stores.postgres.schema import Prepared, Skew, check_minimum, prepare, read_meta
from maitred.server.stores.postgres.sql import load_migrations
from maitred.server.stores.postgres.wakeups import Wakeups
from maitred.server.stores.postgres.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_log = structlog.get_logger(__name__)

MAX_SKEW_S: Final = 1.0
OPEN_S: Final = 120.0
"""Opening may wait for another server that migrates."""

_SCAN_REFS = 200


class PostgresStore:
    """A store in a PostgreSQL database. Keeps every promise of `Store`; shared, without backup."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int | None = None,
        prepare: bool | None = None,
        hints: bool = True,
        max_skew_s: float = MAX_SKEW_S,
        queue_commits: int = QUEUE_COMMITS,
        linger_s: float = LINGER_S,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare a store; nothing is touched before `open`.

        `pool_size` bounds the connections for reading (two more write and listen), `prepare` says
        whether statements may be prepared, which some connection poolers do not allow; both may
        be parameters of the URL as well. `hints` makes servers tell one another of commits.
        `max_skew_s` bounds how far this machine's clock may be from the database's.

        Raises: ValueError for a URL that libpq does not understand.
        """
        self._target = Target(url, pool_size=pool_size, prepare=prepare)
        self._hints = hints
        self._queue_commits = queue_commits
        self._linger_s = linger_s
        self._skew = Skew(clock_ns, max_skew_s)
        self._changes = Changes()
        self._open = False
        self._writer: Writer | None = None
        self._pool: Pool | None = None
        self._wakeups: Wakeups | None = None
        self._house: Housekeeping | None = None
        self._heads = Combiner(self._read_heads)
        self._versions = Combiner(self._read_versions)
        self._confirmed = Combiner(self._confirm)

    # ---------------------------------------------------------------- opening

    async def open(self) -> StoreInfo:
        """Open, migrate, finish interrupted deletions.

        Raises: SchemaTooNew, StoreUnavailable, CorruptData; StoreError where the database cannot
        be used.
        """
        if self._open:
            raise StoreError("the store is open already")
        self._changes = Changes()
        connector = Connector(self._target)
        pool = Pool(connector, self._target.pool_size)
        async with contextlib.AsyncExitStack() as undo:
            connection = await connector.connect(statement_s=None)
            undo.push_async_callback(connection.close)
            undo.push_async_callback(pool.close)
            skew, clock_ns = self._skew.max_skew_s, self._skew.clock_ns
            try:
                with deadline(connection, OPEN_S):
                    prepared = await prepare(connection, clock_ns=clock_ns, max_skew_s=skew)
            except (psycopg.Error, OSError) as error:
                made = translate(error)
                raise type(made)(f"cannot use {self._target.name}: {made}") from error
            house = Housekeeping(pool)
            await house.begin()
            undo.pop_all()
        self._pool = pool
        self._house = house
        self._wakeups = Wakeups(pool, connector, self._changes, house.lane, hints=self._hints)
        self._wakeups.start()
        self._writer = Writer(
            connector,
            connection,
            self._changes,
            lane=house.lane,
            wrote=self._wakeups.wrote,
            queue_commits=self._queue_commits,
            linger_s=self._linger_s,
        )
        self._open = True
        return self._info(prepared, house.lane)

    def _info(self, prepared: Prepared, lane: int) -> StoreInfo:
        _log.info(
            "store opened",
            database=self._target.name,
            engine=prepared.engine,
            schema=prepared.schema,
            lane=lane,
            epoch=prepared.epoch.hex(),
        )
        return StoreInfo(
            engine=prepared.engine,
            epoch=prepared.epoch,
            schema=prepared.schema,
            secret=prepared.secret,
            exclusive=False,
            cross_aggregate=True,
            linearizable=True,
            backup=False,
        )

    async def check(self) -> None:
        """Ask whether a newer server has taken away what this one needs, and what time it is."""
        check_minimum(await self._reading().run(read_meta), load_migrations()[-1].number)
        await self._reading().run(self._skew.look)

    async def close(self) -> None:
        """Commit what is queued, then close."""
        if not self._open:
            return
        self._open = False
        self._changes.close()
        if self._writer is not None:
            await self._writer.close()
        if self._wakeups is not None:
            await self._wakeups.close()
        if self._house is not None:
            await self._house.end()
        if self._pool is not None:
            await self._pool.close()

    def _reading(self) -> Pool:
        if self._pool is None or not self._open:
            raise StoreUnavailable("the store is closed")
        return self._pool

    def _keeping(self) -> Housekeeping:
        if self._house is None or not self._open:
            raise StoreUnavailable("the store is closed")
        return self._house

    # ---------------------------------------------------------------- writing

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit."""
        if self._writer is None:
            raise StoreUnavailable("the store was never opened")
        self._writer.submit(commit, done)

    @property
    def batches(self) -> int:
        """How many batches have been answered."""
        return 0 if self._writer is None else self._writer.batches

    def _wrote(self, refs: Iterable[Ref]) -> None:
        """Say that aggregates have moved, here and to other servers."""
        self._changes.publish(refs)
        if self._wakeups is not None:
            self._wakeups.wrote()

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Append `last`, leave a tombstone, delete the rest; goes on if the caller is cancelled."""
        return await self._keeping().forget(ref, base, last, keep, lambda: self._wrote([ref]))

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Erase the personal parts of those events."""
        return await self._reading().run(
            partial(jobs.redact, ref=ref, versions=versions), writes=True
        )

    # ---------------------------------------------------------------- reading

    async def _read_heads(self, keys: Sequence[reader.HeadKey]) -> Mapping[reader.HeadKey, Loaded]:
        return await self._reading().run(partial(reader.read_heads, keys=keys))

    async def _read_versions(self, refs: Sequence[Ref]) -> Mapping[Ref, int]:
        return await self._reading().run(partial(reader.read_versions, refs=refs))

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read the head and the event of `request_id`; a replay is durable before it is told."""
        self._reading()
        found = await self._heads.get((ref, request_id))
        if found is not None and found.request_event is not None:
            await self._confirmed.get(self._keeping().lane)
        return found

    async def _confirm(self, lanes: Sequence[int]) -> Mapping[int, None]:
        return await self._reading().run(partial(jobs.confirm, lanes=lanes))

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""
        self._reading()
        wanted = tuple(refs)
        if len(wanted) == 1:
            version = await self._versions.get(wanted[0])
            return {} if version is None else {wanted[0]: version}
        return dict(await self._read_versions(wanted)) if wanted else {}

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
        read = partial(
            reader.read_events,
            ref=ref,
            after=after,
            limit=limit,
            changes=changes,
            before=before,
            newest_first=newest_first,
        )
        return await self._reading().run(read)

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read the event that a request produced."""
        found = await self.load(ref, request_id)
        return None if found is None else found.request_event

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key."""
        return await self._reading().run(partial(reader.read_claim, space=space, key=key))

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """List aggregates, newest first."""
        return await self._reading().run(
            partial(reader.list_heads, kind=kind, where=where, after=after, limit=limit)
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
        read = partial(
            reader.list_rows,
            table=table,
            where=where,
            after=after,
            limit=limit,
            newest_first=newest_first,
        )
        return await self._reading().run(read)

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read events of all aggregates after a cursor. Raises: ValueError for another store's."""
        cursor = decode_cursor(after)
        return await self._reading().run(partial(reader.read_feed, cursor=cursor, limit=limit))

    async def feed_end(self) -> bytes:
        """Read the cursor behind which only later events are found."""
        return encode_cursor(await self._reading().run(reader.read_lanes))

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Take aggregates whose time has come; whose they are is nobody's question afterwards."""
        return await self._reading().run(
            partial(jobs.due, now_ns=now_ns, limit=limit, lease_s=lease_s), writes=True
        )

    async def next_wake(self) -> int | None:
        """Read the earliest alarm; it may be early, never late."""
        return await self._reading().run(reader.read_next_wake)

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease, by the database's clock."""
        return await self._reading().run(
            partial(jobs.lease, name=name, owner=owner, ttl_s=ttl_s), writes=True
        )

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield sets of refs that may have moved, on whatever server."""
        if self._wakeups is not None:
            self._wakeups.listen()
        return self._changes.listen(refs, self._look)

    async def _look(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read versions; while the database is away nothing moves, and listening goes on."""
        try:
            return await self.versions(refs)
        except StoreUnavailable:
            if not self._open:
                raise
            return {}

    async def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates in the order of their refs."""
        while refs := await self._reading().run(
            partial(reader.read_refs, after=after, limit=_SCAN_REFS)
        ):
            for ref in refs:
                read, more = 0, True
                while more:
                    record = await self._reading().run(
                        partial(reader.read_record, ref=ref, after=read)
                    )
                    if record is None:
                        break
                    yield record
                    more = record.more
                    read = record.events[-1].version if record.events else record.loaded.version
            after = refs[-1]

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """List claims in order."""
        return await self._reading().run(partial(reader.list_claims, after=after, limit=limit))

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as they were scanned, several in one transaction."""
        house = self._keeping()
        try:
            return await house.restore(records)
        finally:
            self._wrote(record.loaded.ref for record in records)

    async def adopt(self, secret: bytes) -> None:
        """Take over another store's secret."""
        await self._reading().run(partial(jobs.adopt, secret=secret), writes=True)

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind."""
        return await self._reading().run(partial(reader.count_heads, kind=kind))

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Refuse: PostgreSQL's own tools do it, and better."""
        raise StoreUnavailable(
            "a PostgreSQL database is backed up by its own tools: continuous archiving"
            " (point-in-time recovery), or pg_dump; see docs/postgresql.md"
        )
