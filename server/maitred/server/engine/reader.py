"""Reading aggregates: from memory where this process is the only writer, else from the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from maitred.server.engine import eventlog
from maitred.server.engine.cache import HeadCache, Latest
from maitred.server.engine.committer import Committer
from maitred.server.engine.locks import Locks
from maitred.server.engine.reads import Reads
from maitred.server.engine.watchdog import Watchdog
from maitred.server.errors import VersionOutOfRange
from maitred.server.kinds import Kinds
from maitred.server.stores.base import CorruptData, Loaded, Ref
from maitred.v1.event_pb2 import Event

FOLD_PAGE = 256
"""Events read at a time while folding, so that a long log does not hold the loop."""


class Snapshot(NamedTuple):
    """An aggregate at one version."""

    ref: Ref
    version: int
    body: bytes
    state: Any
    time_ns: int


class Reader:
    """Answers what is, and what was."""

    def __init__(
        self,
        reads: Reads,
        cache: HeadCache,
        locks: Locks,
        committer: Committer,
        kinds: Kinds,
        watchdog: Watchdog,
    ) -> None:
        self._reads = reads
        self._cache = cache
        self._locks = locks
        self._committer = committer
        self._kinds = kinds
        self._watchdog = watchdog
        self.exclusive = False
        """Whether memory may answer; known once the store is open."""
        self.is_overdue: Callable[[Ref, Latest], bool] = lambda _ref, _head: False
        self.settle: Callable[[Ref, Latest], Awaitable[Latest]]
        """What must be done before it is shown, and who does it; set by the engine."""

    async def read(self, ref: Ref, *, at_version: int | None = None) -> Snapshot | None:
        """Read an aggregate, now or as it was; None if there never was one.

        Raises: SessionDeleted, VersionOutOfRange.
        """
        head = await self.head(ref)
        if head is None:
            return None
        if at_version is None:
            if self.is_overdue(ref, head):
                head = await self.settle(ref, head)
            return _snapshot(ref, head)
        if at_version == head.version:
            return _snapshot(ref, head)
        if at_version > head.version:
            raise VersionOutOfRange(
                f"version {at_version} is not in the log",
                metadata={"oldest": "1", "newest": str(head.version)},
            )
        return await self._fold_to(ref, at_version)

    async def require(self, ref: Ref, *, at_version: int | None = None) -> Snapshot:
        """Read an aggregate that must exist."""
        if at_version is None and self.exclusive:
            # Nearly every read ends here, without another coroutine.
            head = self._cache.get(ref)
            if head is not None and not self.is_overdue(ref, head):
                return _snapshot(ref, head)
        snapshot = await self.read(ref, at_version=at_version)
        if snapshot is None:
            raise self._kinds[ref.kind].no_such(ref.id)
        return snapshot

    async def events(
        self,
        ref: Ref,
        after: int,
        limit: int,
        changes: Sequence[str] | None = None,
        *,
        before: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        """Read events with `after` < version < `before`, with their personal fields."""
        numbers = [eventlog.change_number(name) for name in changes] if changes else None
        stored = await self._reads.events(
            ref, after, limit, numbers, before=before, newest_first=newest_first
        )
        return [eventlog.decode(row) for row in stored]

    async def _fold_to(self, ref: Ref, version: int) -> Snapshot:
        kind = self._kinds[ref.kind]
        state, at, time_ns = None, 0, 0
        while at < version:
            rows = await self._reads.events(ref, at, min(FOLD_PAGE, version - at))
            if not rows:
                raise VersionOutOfRange(f"version {version} is no longer in the log")
            if rows[0].version != at + 1:
                # Erased between two pages: all that is left is the deletion.
                raise kind.deleted(ref.id)
            for row in rows:
                state, at, time_ns = (
                    kind.fold(state, eventlog.decode(row)),
                    row.version,
                    row.time_ns,
                )
        assert state is not None
        return Snapshot(ref, version, state.SerializeToString(), state, time_ns)

    async def head(self, ref: Ref) -> Latest | None:
        """Read the head of an aggregate as it is stored; None if there never was one."""
        if self.exclusive:
            head = self._cache.get(ref)
            if head is not None:
                return head
        self._watchdog.check()
        published = self._committer.published
        loaded = await self._reads.load(ref)
        if loaded is None:
            return None
        known = self._cache.get(ref)
        if known is not None and (known.version, known.chain) == (loaded.version, loaded.chain):
            # The same object: nobody has to parse it, or to build anew what was built upon it.
            return known
        head = self.head_of(ref, loaded)
        # A commit that was published meanwhile may have been of this aggregate: then what was read
        # is still an answer, but no longer what to remember as the newest. Where others write,
        # nothing that is remembered counts as that.
        quiet = published == self._committer.published and not self._locks.held(ref)
        if quiet or not self.exclusive:
            self._cache.put(ref, head)
        return head

    def head_of(self, ref: Ref, loaded: Loaded) -> Latest:
        """Parse what the store loaded; a tombstone raises, and so do bytes that are damaged."""
        kind = self._kinds[ref.kind]
        if loaded.tombstone:
            raise kind.deleted(ref.id)
        try:
            state = kind.parse(loaded.body)
        except DecodeError as error:
            raise CorruptData(f"the state of {ref.id!r} is damaged: {error}") from error
        if (kind.id_of(state), state.version) != (ref.id, loaded.version):
            raise CorruptData(f"the state of {ref.id!r} is not the one of version {loaded.version}")
        return Latest(
            loaded.version,
            loaded.time_ns,
            loaded.chain,
            loaded.body,
            state,
            loaded.index,
            loaded.wake_at_ns,
        )


def _snapshot(ref: Ref, head: Latest) -> Snapshot:
    return Snapshot(ref, head.version, head.body, head.state, head.time_ns)
