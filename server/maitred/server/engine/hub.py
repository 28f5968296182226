"""The hub says that a version exists, and keeps the last messages serialised for all watchers.

A watch is a cursor over the log: a watcher asks for what comes after its version and takes it from
the ring or, when it was too slow, from the store. So a watcher costs an integer and a future, and a
slow one loses nothing and holds nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maitred.server.domain import changes
from maitred.server.engine.command import varint
from maitred.server.errors import ShuttingDown
from maitred.server.stores.base import Ref
from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import WatchPaymentResponse
from maitred.v1.state_pb2 import Payment, PaymentState

RING = 128
"""Messages kept of each watched aggregate; a watcher further behind reads the store."""
HEARTBEAT_BUCKETS = 64
"""Waiting watchers are spread over so many ticks, so that heartbeats come evenly."""


class RingEntry:
    """One event, ready to be sent; what few watchers want is serialised when the first one asks."""

    __slots__ = (
        "_payment_message",
        "change",
        "event",
        "event_bytes",
        "message",
        "state",
        "version",
    )

    def __init__(
        self,
        version: int,
        change: str,
        event: Event,
        event_bytes: bytes,
        state: Any,
        message: bytes,
    ) -> None:
        self.version = version
        self.change = change
        self.event = event
        self.event_bytes = event_bytes
        self.state = state
        self.message = message
        """A whole WatchSessionResponse with this one event."""
        self._payment_message: bytes | None = None

    def payment_message(self, hub: Hub) -> bytes:
        """A whole WatchPaymentResponse with what this event left."""
        if self._payment_message is None:
            shown = changes.shown_payment(self.change, self.event, self.state)
            self._payment_message = hub.payment_message(self.version, self.state.payment, shown)
        return self._payment_message


class Topic:
    """One watched aggregate."""

    __slots__ = ("ring", "version", "waiters", "watchers")

    def __init__(self) -> None:
        self.ring: deque[RingEntry] = deque(maxlen=RING)
        self.version = 0
        """Newest version published since somebody watches; 0 before the first."""
        self.watchers = 0
        self.waiters: set[asyncio.Future[bool]] = set()

    def after(self, version: int) -> RingEntry | None:
        """Take the event after `version`, if the ring holds it."""
        ring = self.ring
        if not ring:
            return None
        at = version - ring[0].version + 1
        return ring[at] if 0 <= at < len(ring) else None


class Hub:
    """Wakes watchers when something became durable, and now and then when nothing did."""

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._topics: dict[Ref, Topic] = {}
        self._everything = Topic()
        self._buckets: list[set[asyncio.Future[bool]]] = [set() for _ in range(HEARTBEAT_BUCKETS)]
        self._next_bucket = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.epoch = b""

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return sum(topic.watchers for topic in self._topics.values()) + self._everything.watchers

    def start(self, epoch: bytes) -> None:
        """Begin to tick; `epoch` goes into every resume token."""
        self.epoch = epoch
        self._tick(0)

    def stop(self) -> None:
        """End every watch with ShuttingDown."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for topic in (*self._topics.values(), self._everything):
            _wake(topic.waiters, news=True)

    @contextmanager
    def watch(self, ref: Ref) -> Iterator[Topic]:
        """Hold the topic of an aggregate while somebody watches it."""
        topic = self._topics.get(ref)
        if topic is None:
            topic = self._topics[ref] = Topic()
        topic.watchers += 1
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0:
                self._topics.pop(ref, None)

    @contextmanager
    def watch_everything(self) -> Iterator[Topic]:
        """Hold the topic of all commits; its version counts them."""
        self._everything.watchers += 1
        try:
            yield self._everything
        finally:
            self._everything.watchers -= 1

    async def news(self, topic: Topic, seen: int) -> bool:
        """Wait until the topic is past `seen`: True; or until it is time for a heartbeat: False.

        Raises: ShuttingDown.
        """
        if self._stopped:
            raise ShuttingDown("the server is shutting down; resume elsewhere", retry_after_s=1)
        if topic.version > seen:
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        bucket = self._buckets[self._next_bucket]
        topic.waiters.add(waiter)
        bucket.add(waiter)
        try:
            news = await waiter
        finally:
            topic.waiters.discard(waiter)
            bucket.discard(waiter)
        if self._stopped:
            raise ShuttingDown("the server is shutting down; resume elsewhere", retry_after_s=1)
        return news

    def publish(
        self, ref: Ref, version: int, change: str, event: Event, event_bytes: bytes, state: Any
    ) -> None:
        """Tell the watchers of an aggregate that a version exists. Never waits."""
        everything = self._everything
        if everything.watchers:
            everything.version += 1
            _wake(everything.waiters, news=True)
        topic = self._topics.get(ref)
        if topic is None:
            return
        message = self.session_message(version, (event_bytes,))
        topic.ring.append(RingEntry(version, change, event, event_bytes, state, message))
        topic.version = version
        _wake(topic.waiters, news=True)

    def token(self, version: int) -> bytes:
        """Make the token that resumes after `version` in this history."""
        return self.epoch + varint(version)

    def session_message(self, version: int, events: tuple[bytes, ...]) -> bytes:
        """Serialise `WatchSessionResponse{version, resume_token, events}` around stored bytes."""
        token = self.token(version)
        batch = b"".join(b"\x0a" + varint(len(event)) + event for event in events)
        return b"".join(
            (
                b"\x08",
                varint(version),
                b"\x12",
                varint(len(token)),
                token,
                b"\x22",
                varint(len(batch)),
                batch,
            )
        )

    def payment_message(self, version: int, state: PaymentState, payment: Payment | None) -> bytes:
        """Serialise a WatchPaymentResponse."""
        response = WatchPaymentResponse(
            version=version, resume_token=self.token(version), state=state
        )
        if payment is not None:
            response.payment.CopyFrom(payment)
            response.settled = changes.is_settled(payment)
        return response.SerializeToString()

    def _tick(self, bucket: int) -> None:
        _wake(self._buckets[bucket], news=False)
        self._next_bucket = bucket
        self._timer = asyncio.get_running_loop().call_later(
            self._heartbeat_s / HEARTBEAT_BUCKETS, self._tick, (bucket + 1) % HEARTBEAT_BUCKETS
        )


def _wake(waiters: set[asyncio.Future[bool]], *, news: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(news)
