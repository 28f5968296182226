"""The Redis engine: one primary for several servers, every acknowledged commit in its log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from maitred.server.stores import keeping
from maitred.server.stores.base import (
    KEEP_NOTHING,
    Append,
    BackupInfo,
    Claim,
    Commit,
    Committed,
    Done,
    Head,
    HeadFilter,
    Keep,
    Kind,
    Lease,
    Loaded,
    Outcome,
    OutcomeUnknown,
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
from maitred.server.stores.doubts import Doubts
from maitred.server.stores.inbox import QUEUE_COMMITS
from maitred.server.stores.redis.address import parse_address
from maitred.server.stores.redis.codec import (
    append_arguments,
    claim_name,
    claim_of,
    cursor_of,
    event_of,
    head_filter_arguments,
    loaded_of,
    name_of,
    optional_time,
    outcome_of,
    ref_of,
    row_filter_arguments,
    row_of,
    sortable,
)
from maitred.server.stores.redis.gateway import Gateway
from maitred.server.stores.redis.hints import Hints
from maitred.server.stores.redis.reader import (
    PIECE,
    read_claims,
    read_events,
    read_feed,
    read_lines,
    read_records,
    read_tables,
    read_versions,
)
from maitred.server.stores.redis.restore import restore
from maitred.server.stores.redis.writer import Writer
from maitred.server.units import NS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path

_log = structlog.get_logger(__name__)

_FORMERLY: Final = Keep(tables=(1,), spaces=("provider",))
"""What deletions kept that an older version began: it noted nothing."""
_MICROSECONDS: Final = 1_000_000


class RedisStore:
    """A store in one Redis or Valkey primary that several servers share. Has no backup."""

    def __init__(
        self,
        url: str,
        *,
        accept_data_loss: bool = False,
        queue_commits: int = QUEUE_COMMITS,
    ) -> None:
        """Prepare a store; nothing is connected before `open`.

        `accept_data_loss` opens a server whose settings may lose what was acknowledged.

        Raises: ValueError for a URL that is none.
        """
        self._address = parse_address(url)
        self._gateway = Gateway(self._address, accept_data_loss=accept_data_loss)
        self._queue_commits = queue_commits
        self._doubts = Doubts()
        self._hints = Hints(self._gateway)
        self._writer: Writer | None = None
        self._forgetting: set[asyncio.Task[Outcome]] = set()
        self._open = False

    async def open(self) -> StoreInfo:
        """Connect, look at the server's settings, finish interrupted deletions.

        Raises: SchemaTooNew, StoreUnavailable, CorruptData; StoreError where the server is a
        cluster, too old, or may lose what it acknowledges.
        """
        if self._open:
            raise StoreError("the store is open already")
        connection, server, schema = await self._gateway.open()
        self._hints = Hints(self._gateway)
        self._writer = Writer(
            self._gateway,
            self._hints,
            self._doubts,
            connection,
            queue_commits=self._queue_commits,
        )
        self._open = True
        if server.unsafe:
            _log.warning("acknowledged commits may be lost", reason=server.unsafe)
        _log.info(
            "store opened",
            redis=self._address.label,
            server=server.name,
            schema=schema,
            epoch=self._gateway.epoch.hex(),
            replicas=server.replicas,
            wait_replicas=self._address.wait_replicas,
            min_replicas_to_write=server.min_replicas_to_write,
        )
        try:
            found = iter(await self._gateway.read("forgetting"))
            for name, noted in zip(found, found, strict=True):
                keep = keeping.read(noted.decode()) if noted else _FORMERLY
                await self._erase(ref_of(name), keep)
                _log.info("an interrupted deletion was finished", ref=name.decode())
        except StoreFull as error:
            _log.warning("an interrupted deletion is not finished yet", error=str(error))
        except StoreError:
            await self.close()
            raise
        return StoreInfo(
            engine=server.name,
            epoch=self._gateway.epoch,
            schema=schema,
            secret=self._gateway.secret,
            exclusive=False,
            cross_aggregate=True,
            linearizable=True,
            backup=False,
        )

    async def check(self) -> None:
        """Ask Redis whether a newer server has given the data another schema."""
        self._gateway.check_schema(int(await self._read("schema")))

    async def close(self) -> None:
        """Commit what is queued, then close."""
        if not self._open:
            return
        self._open = False
        await asyncio.gather(*self._forgetting, return_exceptions=True)
        if self._writer is not None:
            await self._writer.close()
        await self._hints.close()
        await self._gateway.close()

    async def _read(self, name: str, *arguments: bytes) -> Any:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        return await self._gateway.read(name, *arguments)

    async def _write(self, name: str, *arguments: bytes) -> Any:
        if not self._open:
            raise StoreUnavailable("the store is closed")
        return await self._gateway.write(name, *arguments)

    # ---------------------------------------------------------------- writing

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit."""
        if self._writer is None:
            raise StoreUnavailable("the store was never opened")
        self._writer.submit(commit, done)

    @property
    def batches(self) -> int:
        """How many round trips have carried commits."""
        return 0 if self._writer is None else self._writer.batches

    async def forget(self, ref: Ref, base: int, last: Append, keep: Keep = KEEP_NOTHING) -> Outcome:
        """Append `last`, leave a tombstone, delete the rest; goes on where its caller stops."""
        if not self._open:
            raise StoreUnavailable("the store is closed")
        last = last._replace(ref=ref, base=base, wake_at_ns=None)
        task = asyncio.create_task(self._forget(last, keep), name="maitred-redis-forget")
        self._forgetting.add(task)
        task.add_done_callback(self._forgotten)
        return await asyncio.shield(task)

    def _forgotten(self, task: asyncio.Task[Outcome]) -> None:
        self._forgetting.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("a deletion was not finished", error=str(error))

    async def _forget(self, last: Append, keep: Keep) -> Outcome:
        commit = Commit((last,))
        try:
            arguments = append_arguments(last)
        except (OverflowError, UnicodeError, TypeError) as error:
            raise StoreError(f"refused: {error}") from error
        answer: Outcome | StoreError
        try:
            answer = outcome_of(
                await self._gateway.write("bury", *arguments, keeping.note(keep).encode())
            )
        except StoreError as error:
            answer = error
        answer = self._doubts.weigh(commit, answer)
        if isinstance(answer, StoreError):
            raise answer
        if isinstance(answer, Committed):
            self._hints.publish([last.ref])
            try:
                await self._erase(last.ref, keep)
            except StoreError as error:
                # Asked again, it goes on from there.
                raise OutcomeUnknown(f"not everything is deleted yet: {error}") from error
        return answer

    async def _erase(self, ref: Ref, keep: Keep) -> None:
        written = await read_tables(self._gateway.read)
        tables = [b"%d" % table for table in written if table not in keep.tables]
        kept, skip = [claim_name(space, "") for space in keep.spaces], b"0"
        while skip != b"done":
            skip = await self._gateway.write(
                "erase",
                *(name_of(ref), skip, b"%d" % PIECE, b"%d" % len(tables), *tables, *kept),
            )

    async def redact(self, ref: Ref, versions: Sequence[int]) -> int:
        """Erase the personal parts of those events."""
        erased = 0
        for start in range(0, len(versions), PIECE):
            chosen = [b"%d" % version for version in versions[start : start + PIECE]]
            erased += int(await self._write("redact", name_of(ref), *chosen))
        return erased

    async def due(self, now_ns: int, limit: int, owner: str, lease_s: float) -> list[Ref]:
        """Take aggregates whose time has come; the owner needs no record, leases only save work."""
        until = sortable(now_ns + max(1, int(lease_s * NS)))
        taken: list[tuple[bytes, int, Ref]] = []
        while len(taken) < limit:
            asked = min(limit - len(taken), PIECE)
            rung, *found = await self._write("due", sortable(now_ns), until, b"%d" % asked)
            for wake, position, name in zip(*[iter(found)] * 3, strict=True):
                taken.append((wake, int(position), ref_of(name)))
            if rung < asked:
                break
        return [ref for _, _, ref in sorted(taken)]

    async def next_wake(self) -> int | None:
        """Read the earliest alarm; it may be early, never late."""
        return optional_time(await self._read("next_wake") or b"")

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take or renew a lease by the time of Redis."""
        ttl = b"%d" % int(ttl_s * _MICROSECONDS)
        found = await self._write("lease", name.encode(), owner.encode(), ttl)
        return found and Lease(name, owner, int(found[0]), int(found[1]) * 1000)

    # ---------------------------------------------------------------- reading

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Read the head and the event of `request_id`."""
        head, event = await self._read("load", name_of(ref), request_id or b"")
        return head and loaded_of(ref, head, event and event_of(ref, event))

    async def versions(self, refs: Iterable[Ref]) -> dict[Ref, int]:
        """Read the versions of those that exist."""
        return await read_versions(self._read, refs)

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
        return await read_events(
            self._read, ref, after, limit, changes, before, newest_first=newest_first
        )

    async def event_by_request(self, ref: Ref, request_id: bytes) -> StoredEvent | None:
        """Read the event that a request produced."""
        found = await self.load(ref, request_id)
        return None if found is None else found.request_event

    async def claim(self, space: str, key: str) -> Claim | None:
        """Read who owns a key."""
        found = await self._read("claim", claim_name(space, key))
        return found and claim_of(space, key, found)

    async def list_heads(
        self, kind: Kind, where: HeadFilter, after: int | None, limit: int
    ) -> list[Head]:
        """List aggregates, newest first."""
        selecting = head_filter_arguments(where)
        lines = await read_lines(
            self._read, "list_heads", [b"%02d" % kind], after, limit, selecting, body=2
        )
        return [
            Head(Ref(kind, id.decode()), int(version), body, int(position))
            for id, version, body, position in lines
        ]

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
        order = b"1" if newest_first else b"0"
        rest = [order, *row_filter_arguments(where)]
        lines = await read_lines(
            self._read, "list_rows", [b"%d" % table], after, limit, rest, body=7
        )
        return [row_of(line) for line in lines]

    async def feed(self, after: bytes, limit: int) -> list[StoredEvent]:
        """Read events of all aggregates after a cursor."""
        return await read_feed(self._read, after, limit)

    async def feed_end(self) -> bytes:
        """Read the cursor behind which only later events are found."""
        return cursor_of(await self._read("feed_end"))

    def changed(self, refs: Mapping[Ref, int]) -> AsyncIterator[set[Ref]]:
        """Yield sets of refs that may have moved."""
        return self._hints.listen(refs, self.versions)

    async def scan(self, after: Ref | None = None) -> AsyncIterator[Record]:
        """Iterate over all aggregates in the order of their refs."""
        async for record in read_records(self._read, after):
            yield record

    async def list_claims(self, after: tuple[str, str] | None, limit: int) -> list[Claim]:
        """List claims in order."""
        return await read_claims(self._read, after, limit)

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as they were scanned, one after the other."""
        written = [record.loaded.ref for record in records if await restore(self._write, record)]
        self._hints.publish(written)
        return len(written)

    async def adopt(self, secret: bytes) -> None:
        """Take over another store's secret."""
        await self._write("adopt", secret)

    async def count(self, kind: Kind) -> int:
        """Count aggregates of a kind."""
        return int(await self._read("count", b"%02d" % kind))

    async def backup(self, target: Path, progress: Progress) -> BackupInfo:
        """Refuse: Redis copies itself, and the copy is on its own disk."""
        raise StoreUnavailable(
            "Redis has no backup through maitred: copy its files, see docs/redis.md"
        )
