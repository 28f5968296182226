"""The loop that sends every stream: a token first, and a heartbeat whenever it was idle.

It knows no transport and nothing of what is sent; a stream is a cursor that says what comes next.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from maitred.server.engine.hub import Hub
from maitred.server.engine.ring import Topic

Messages = Sequence[bytes]


class Stream(Protocol):
    """A cursor over what happens. No message of it is larger than `limits.MESSAGE_BYTES`."""

    seen: int
    """How far of its topic it has looked; beyond, there is something for `next`."""
    over: bool
    """The last message that was handed out is the last of all."""

    def attended(self) -> AbstractContextManager[Topic]:
        """Hold the topic that tells of news, for as long as the stream lives."""

    async def begin(self, topic: Topic) -> Messages:
        """Hand out what is there at once, if anything. Raises: MaitredError."""

    async def next(self) -> Messages:
        """Take one step, bounded in events and bytes, and hand out what it shows, if anything."""

    def heartbeat(self) -> bytes:
        """Make the message that says nothing but where the stream is."""


async def deliver(hub: Hub, stream: Stream) -> AsyncGenerator[bytes, None]:
    """Yield the messages of a stream to its end.

    The first one comes at once and carries a token. From then on no heartbeat interval passes
    without a message, whatever the stream leaves out of what happens.
    """
    with stream.attended() as topic:
        first, *more = await stream.begin(topic) or (stream.heartbeat(),)
        yield first + hub.interval
        for message in more:
            yield message
        sent = hub.ticks
        while not stream.over:
            if not await hub.news(topic, stream.seen, sent):
                yield stream.heartbeat() + hub.interval
                sent = hub.ticks
                continue
            for message in await stream.next():
                yield message
                sent = hub.ticks
