"""The hub says that a version exists, and keeps the last messages serialised for all watchers.

A watch is a cursor over the log: a watcher asks for what comes after its version and takes it from
the ring or, when it was too slow, from the store. So a watcher costs an integer and a future, and a
slow one loses nothing and holds nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from maitred.server.domain import changes
from maitred.server.engine.command import varint
from maitred.server.errors import MaitredError, ShuttingDown, StoreUnavailable
from maitred.server.stores.base import Ref, StoreError
from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import WatchPaymentResponse
from maitred.v1.state_pb2 import Payment, PaymentState

RING = 128
"""Messages kept of each watched aggregate; a watcher further behind reads the store."""
HEARTBEAT_BUCKETS = 64
"""Waiting watchers are spread over so many ticks, so that heartbeats come evenly."""
PATIENCE_S = 10.0
"""How long watches wait for a store that is away; then they end, to be resumed elsewhere."""
DELETED = "session_deleted"
"""The change that ends a log: whatever was before it is erased."""


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

    __slots__ = ("ring", "state", "version", "waiters", "watchers")

    def __init__(self) -> None:
        self.ring: deque[RingEntry] = deque(maxlen=RING)
        """Consecutive versions, also where several servers make them."""
        self.version = 0
        """Newest version known since somebody watches; 0 before the first."""
        self.state: Any = None
        """The state at that version."""
        self.watchers = 0
        self.waiters: set[asyncio.Future[bool]] = set()

    def begin(self, version: int, state: Any) -> None:
        """Note what the first watcher read, unless something was published meanwhile."""
        if self.version == 0:
            self.version, self.state = version, state

    def after(self, version: int) -> RingEntry | None:
        """Take the event that a watcher at `version` gets next, if the ring holds it."""
        ring = self.ring
        if not ring:
            return None
        at = version - ring[0].version + 1
        if 0 <= at < len(ring):
            return ring[at]
        last = ring[-1]
        return last if last.change == DELETED and last.version > version else None

    def add(self, entry: RingEntry) -> None:
        """Take an event in; one that is there already, or a gap before it, does no harm."""
        ring = self.ring
        if ring:
            newest = ring[-1].version
            if entry.version <= newest:
                return
            if entry.version > newest + 1:
                ring.clear()
        ring.append(entry)
        if entry.version >= self.version:
            self.version, self.state = entry.version, entry.state
        _wake(self.waiters, news=True)

    def skip_to(self, version: int) -> None:
        """Let every watcher read for itself what leads up to a version."""
        self.ring.clear()
        self.version, self.state = version, None
        _wake(self.waiters, news=True)


class Positions(Mapping[Ref, int]):
    """The versions of all watched aggregates, always as they are now."""

    def __init__(self, topics: Mapping[Ref, Topic]) -> None:
        self._topics = topics

    def __getitem__(self, ref: Ref) -> int:
        return self._topics[ref].version

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)


Audience = Callable[[bool], None]
"""Told when the first watcher comes (True) and when the last one has gone."""
Fill = Callable[[Ref, int], None]
"""Told that events up to a version were committed, some of them elsewhere."""


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
        self._quiet = False
        self._patience: asyncio.TimerHandle | None = None
        self._failure: Callable[[], MaitredError] | None = None
        self.positions = Positions(self._topics)
        self.topics_audience: Audience = _nobody
        self.feed_audience: Audience = _nobody
        self.fill: Fill | None = None
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
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._fail(_shutting_down)

    def store_changed(self, failure: StoreError | None) -> None:
        """Wait for a store that is away, in silence and not for ever; go on when it is back.

        A heartbeat says that nothing was missed, which then is not known.
        """
        if self._patience is not None:
            self._patience.cancel()
        if self._stopped:
            return
        self._quiet, self._patience, self._failure = failure is not None, None, None
        if failure is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_S, self._fail, _store_is_away)

    def _fail(self, failure: Callable[[], MaitredError]) -> None:
        """End every watch that waits, and every one that begins to."""
        self._failure = failure
        for topic in (*self._topics.values(), self._everything):
            _wake(topic.waiters, news=True)

    def topic(self, ref: Ref) -> Topic | None:
        """Find the topic of an aggregate whose watchers have something to begin with."""
        topic = self._topics.get(ref)
        return topic if topic is not None and topic.version else None

    @contextmanager
    def watch(self, ref: Ref) -> Iterator[Topic]:
        """Hold the topic of an aggregate while somebody watches it."""
        topic = self._topics.get(ref)
        if topic is None:
            topic = self._topics[ref] = Topic()
            if len(self._topics) == 1:
                self.topics_audience(True)
        topic.watchers += 1
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0:
                del self._topics[ref]
                if not self._topics:
                    self.topics_audience(False)

    @contextmanager
    def watch_everything(self) -> Iterator[Topic]:
        """Hold the topic of all commits; its version counts them."""
        self._everything.watchers += 1
        if self._everything.watchers == 1:
            self.feed_audience(True)
        try:
            yield self._everything
        finally:
            self._everything.watchers -= 1
            if self._everything.watchers == 0:
                self.feed_audience(False)

    async def news(self, topic: Topic, seen: int) -> bool:
        """Wait until the topic is past `seen`: True; or until it is time for a heartbeat: False.

        Raises: ShuttingDown; StoreUnavailable, where the store has been away for too long.
        """
        while self._failure is None:
            if topic.version > seen:
                return True
            waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            bucket = self._buckets[self._next_bucket]
            topic.waiters.add(waiter)
            bucket.add(waiter)
            try:
                if not await waiter and self._failure is None:
                    return False
            finally:
                topic.waiters.discard(waiter)
                bucket.discard(waiter)
        raise self._failure()

    def publish(
        self, ref: Ref, version: int, change: str, event: Event, event_bytes: bytes, state: Any
    ) -> None:
        """Tell the watchers of an aggregate that a version exists. Never waits."""
        self.feed_moved()
        topic = self._topics.get(ref)
        if topic is None:
            return
        if self.fill is not None and version > topic.version + 1 > 1:
            # Another server was in between. One reads it for all watchers, not each for itself.
            self.fill(ref, version)
        else:
            self.show(topic, version, change, event, event_bytes, state)

    def show(
        self, topic: Topic, version: int, change: str, event: Event, event_bytes: bytes, state: Any
    ) -> None:
        """Put an event into a topic, serialised once for all watchers."""
        message = self.session_message(version, (event_bytes,))
        topic.add(RingEntry(version, change, event, event_bytes, state, message))

    def feed_moved(self) -> None:
        """Tell who watches everything that there may be something new."""
        everything = self._everything
        if everything.watchers:
            everything.version += 1
            _wake(everything.waiters, news=True)

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
        if not self._quiet:
            _wake(self._buckets[bucket], news=False)
        self._next_bucket = bucket
        self._timer = asyncio.get_running_loop().call_later(
            self._heartbeat_s / HEARTBEAT_BUCKETS, self._tick, (bucket + 1) % HEARTBEAT_BUCKETS
        )


def _wake(waiters: set[asyncio.Future[bool]], *, news: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(news)


def _nobody(_there: bool) -> None:
    """Where this process makes all commits, nobody has to look for those of others."""


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; resume elsewhere", retry_after_s=1)


def _store_is_away() -> StoreUnavailable:
    return StoreUnavailable(
        "this server cannot reach its store; resume elsewhere or later", retry_after_s=1
    )
