"""WatchEvents: the events of all sessions and menus, at least once, in order within each."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from maitred.server.engine import eventlog, wire
from maitred.server.engine.engine import Engine
from maitred.server.engine.limits import PAGE_EVENTS
from maitred.server.engine.ring import Topic
from maitred.server.errors import InvalidField, VersionOutOfRange, Violation
from maitred.server.kinds.session import SESSION
from maitred.server.services.watching.loop import Messages
from maitred.server.services.watching.resuming import one_of
from maitred.server.stores.base import StoredEvent
from maitred.v1 import session_pb2 as pb

_AGAIN = -1
"""Looked at nothing yet: any version of the topic is news."""


class EventsStream:
    """A cursor over the feed. A filter moves it on as well: the token is past what was left out."""

    def __init__(self, engine: Engine, request: pb.WatchEventsRequest) -> None:
        """Read the filter. Raises: InvalidField."""
        self._engine = engine
        self._request = request
        self._changes = {eventlog.change_number(_known(name)) for name in request.changes}
        self._ids = frozenset(request.session_ids)
        self._cursor = b""
        self._topic: Topic
        self.seen = _AGAIN
        self.over = False

    def attended(self) -> AbstractContextManager[Topic]:
        """Hold the topic of all commits."""
        return self._engine.hub.watch_everything()

    async def begin(self, topic: Topic) -> Messages:
        """Begin at the end, at the beginning, or after a token.

        Raises: InvalidField, VersionOutOfRange.
        """
        self._topic = topic
        token = self._request.resume_token
        if token and self._request.from_beginning:
            raise one_of("from_beginning", "resume_token")
        if not token and not self._request.from_beginning:
            self._cursor = await self._engine.reads.feed_end()
            return ()
        if token:
            place = topic.seal.place(token)
            if place is None:
                raise VersionOutOfRange(
                    "the resume token is not of this stream, or of another history of this store"
                )
            self._cursor = place
        return await self.next()

    async def next(self) -> Messages:
        """Read on, and hand out what passes the filter."""
        upto = self._topic.version
        rows = await self._engine.reads.feed(self._cursor, PAGE_EVENTS)
        if not rows:
            self.seen = upto
            return ()
        self.seen = _AGAIN
        self._cursor = rows[-1].cursor
        wanted = [self._sourced(row) for row in rows if self._wants(row)]
        if not wanted:
            # A store in memory never waits; a long way through what is filtered out must not
            # keep others from the loop.
            await asyncio.sleep(0)
            return ()
        return (wire.feed_events(self._token(), wanted),)

    def heartbeat(self) -> bytes:
        """Say that nothing that passes the filter was missed up to here."""
        return pb.WatchEventsResponse(resume_token=self._token()).SerializeToString()

    def _sourced(self, row: StoredEvent) -> bytes:
        kind = self._engine.kinds[row.ref.kind]
        return wire.sourced_event(kind.source, row.ref.id, eventlog.decode_bytes(row, kind.event))

    def _wants(self, row: StoredEvent) -> bool:
        if self._changes and row.change not in self._changes:
            return False
        return not self._ids or (row.ref.kind == SESSION and row.ref.id in self._ids)

    def _token(self) -> bytes:
        return self._topic.seal.token(self._cursor)


def _known(name: str) -> str:
    if name not in eventlog.change_numbers():
        raise InvalidField(
            f"changes: there is no change {name!r}",
            violations=[Violation("changes", "change.known", f"{name!r} is not a change")],
        )
    return name
