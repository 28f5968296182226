"""WatchSession: every version of an aggregate once and in order, or its newest state.

Any kind may be watched so, by a request and responses of the shape of WatchSession's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from maitred.server.engine import eventlog, wire
from maitred.server.engine.engine import Engine
from maitred.server.engine.limits import PAGE_EVENTS
from maitred.server.engine.reader import Snapshot
from maitred.server.engine.ring import Topic
from maitred.server.errors import VersionOutOfRange
from maitred.server.services.watching.loop import Messages
from maitred.server.services.watching.resuming import resume_after
from maitred.server.stores.values import PAGE_BYTES, Ref
from maitred.v1 import session_pb2 as pb

HEARTBEAT = pb.Heartbeat()


class LogStream:
    """A cursor over the log of one aggregate."""

    def __init__(
        self, engine: Engine, ref: Ref, request: Any, response: type[Any] = pb.WatchSessionResponse
    ) -> None:
        self._engine = engine
        self._kind = engine.kinds[ref.kind]
        self._request = request
        self._response = response
        self._ref = ref
        self._ends = {self._kind.changes.numbers[name] for name in self._kind.changes.ends_log}
        self._latest = request.mode == pb.WATCH_MODE_LATEST
        self._topic: Topic
        self.seen = 0
        self.over = False

    def attended(self) -> AbstractContextManager[Topic]:
        """Hold the topic of the aggregate."""
        return self._engine.hub.watch(self._ref)

    async def begin(self, topic: Topic) -> Messages:
        """Begin with a snapshot, or with what follows the place where the watch resumes.

        Raises: the kind's `absent` and `gone`, InvalidField, VersionOutOfRange.
        """
        self._topic = topic
        try:
            snapshot = await self._engine.reader.require(self._ref)
        except self._kind.gone:
            # Who was cut off in the moment of the deletion still learns of the end.
            newest = await self._engine.reads.version(self._ref)
            after = resume_after(self._request, topic.seal, newest)
            if after is None:
                raise
            if after == newest or self._latest:
                self.seen = newest
                return self._end(unread=False)
            self.seen = after
            return await self._from_log()
        topic.begin(snapshot.version, snapshot.state)
        after = resume_after(self._request, topic.seal, snapshot.version)
        if after is None or (self._latest and after < snapshot.version):
            return self._snapshot(snapshot)
        self.seen = after
        return await self.next() if after < topic.version else ()

    async def next(self) -> Messages:
        """Hand out what follows, from the ring or the log."""
        if self._latest:
            return await self._newest()
        topic = self._topic
        entry = topic.after(self.seen)
        if entry is None:
            return await self._from_log()
        if entry.version == topic.version:
            # The usual case: the same bytes go to every watcher.
            self.seen, message = entry.version, entry.message
        else:
            batch = topic.batch(self.seen, PAGE_BYTES)
            entry = batch[-1]
            self.seen = entry.version
            message = wire.session_events(
                self.seen, self._token(), [each.event_bytes for each in batch]
            )
        return (
            (message, *self._end(unread=False))
            if entry.change in self._kind.changes.ends_log
            else (message,)
        )

    def heartbeat(self) -> bytes:
        """Say that nothing was missed up to here."""
        message = self._response(version=self.seen, resume_token=self._token(), heartbeat=HEARTBEAT)
        return bytes(message.SerializeToString())

    async def _from_log(self) -> Messages:
        rows = await self._engine.reads.events(self._ref, self.seen, PAGE_EVENTS)
        if not rows:
            raise VersionOutOfRange(f"what follows version {self.seen} is no longer in the log")
        last = rows[-1]
        deleted = last.change in self._ends
        if rows[0].version != self.seen + 1:
            # All that is left is the deletion; what was before it cannot be shown any more.
            return self._end(unread=True)
        self.seen = last.version
        events = [eventlog.decode_bytes(row, self._kind.event) for row in rows]
        message = wire.session_events(self.seen, self._token(), events)
        return (message, *self._end(unread=False)) if deleted else (message,)

    async def _newest(self) -> Messages:
        try:
            snapshot = await self._engine.reader.require(self._ref)
        except self._kind.gone:
            self.seen = await self._engine.reads.version(self._ref)
            return self._end(unread=False)
        return self._snapshot(snapshot) if snapshot.version > self.seen else ()

    def _snapshot(self, snapshot: Snapshot) -> Messages:
        self.seen = snapshot.version
        return (wire.session_snapshot(self.seen, self._token(), snapshot.body),)

    def _end(self, *, unread: bool) -> Messages:
        self.over = True
        end = pb.WatchEnd(deleted=True, unread=unread)
        message = self._response(
            version=self.seen, resume_token=self._token(), end=end
        ).SerializeToString()
        return (message,)

    def _token(self) -> bytes:
        return self._topic.seal.token(wire.varint(self.seen))
