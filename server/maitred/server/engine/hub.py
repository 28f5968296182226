"""The hub says that a version exists, and keeps the last messages serialised for all watchers.

A watch is a cursor over the log: a watcher asks for what comes after its version and takes it from
the ring or, when it was too slow, from the store. So a watcher costs an integer and a future, and a
slow one loses nothing and holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from maitred.server.domain import changes, outcomes
from maitred.server.engine import wire
from maitred.server.engine.ring import PaymentView, RingEntry, Rings, Topic, wake
from maitred.server.engine.tokens import Seal, Tokens
from maitred.server.errors import MaitredError, ShuttingDown, StoreUnavailable
from maitred.server.kinds import Kinds
from maitred.server.stores.base import Ref, StoreError
from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import WatchPaymentResponse
from maitred.v1.state_pb2 import Payment, Session

HEARTBEAT_TICKS = 64
"""Ticks in the time after which a silent watch speaks; they spread the heartbeats of many."""
PATIENCE_S = 10.0
"""How long watches wait for a store that is away; then they end, to be resumed elsewhere."""


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
    """Wakes watchers when something became durable, and when they have been silent for long."""

    def __init__(self, heartbeat_s: float, kinds: Kinds) -> None:
        self._heartbeat_s = heartbeat_s
        self._kinds = kinds
        self.interval = wire.heartbeat_interval(heartbeat_s)
        """The field that tells watchers how often to expect something."""
        self.ticks = 0
        """The time of watches."""
        self.rings = Rings()
        self.tokens = Tokens(b"", b"")
        self._topics: dict[Ref, Topic] = {}
        self._everything = Topic(self.tokens.seal("everything"), self.tokens.seal("payment", ""))
        self._due: list[set[asyncio.Future[None]]] = [set() for _ in range(HEARTBEAT_TICKS)]
        """Those who wait, by the tick at which each has to speak."""
        self._tick_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._quiet = False
        self._patience: asyncio.TimerHandle | None = None
        self._failure: Callable[[], MaitredError] | None = None
        self.positions = Positions(self._topics)
        self.topics_audience: Audience = _nobody
        self.feed_audience: Audience = _nobody
        self.fill: Fill | None = None

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return sum(topic.watchers for topic in self._topics.values()) + self._everything.watchers

    def start(self, tokens: Tokens) -> None:
        """Begin to tick, and to give out tokens."""
        self.tokens = tokens
        self._everything.seal = tokens.seal("everything")
        self._tick_at = asyncio.get_running_loop().time()
        self._tick()

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
            wake(topic.waiters)

    def topic(self, ref: Ref) -> Topic | None:
        """Find the topic of an aggregate whose watchers have something to begin with."""
        topic = self._topics.get(ref)
        return topic if topic is not None and topic.version else None

    def _topic(self, ref: Ref) -> Topic:
        kind = self._kinds[ref.kind].name
        return Topic(self.tokens.seal(kind, ref.id), self.tokens.seal("payment", ref.id))

    @contextmanager
    def watch(self, ref: Ref, *, payments: bool = False) -> Iterator[Topic]:
        """Hold the topic of an aggregate while somebody watches it, or its payments."""
        topic = self._topics.get(ref)
        if topic is None:
            topic = self._topics[ref] = self._topic(ref)
            if len(self._topics) == 1:
                self.topics_audience(True)
        topic.watchers += 1
        topic.payment_watchers += payments
        try:
            yield topic
        finally:
            topic.watchers -= 1
            topic.payment_watchers -= payments
            if topic.watchers == 0:
                del self._topics[ref]
                self.rings.drop(topic)
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

    async def news(self, topic: Topic, seen: int, sent: int | None = None) -> bool:
        """Wait until the topic is past `seen`: True; or until it is time for a heartbeat: False.

        That is a heartbeat interval after the tick `sent` (None is now), whatever there is to
        read meanwhile. Raises: ShuttingDown; StoreUnavailable, where the store has been away for
        too long.
        """
        if sent is None:
            sent = self.ticks
        while self._failure is None:
            if self.ticks - sent >= HEARTBEAT_TICKS and not self._quiet:
                return False
            if topic.version > seen:
                return True
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            due = self._due[sent % HEARTBEAT_TICKS]
            topic.waiters.add(waiter)
            due.add(waiter)
            try:
                await waiter
            finally:
                topic.waiters.discard(waiter)
                due.discard(waiter)
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
        token = topic.seal.token(wire.varint(version))
        message = wire.session_events(version, token, (event_bytes,))
        view = None
        if topic.payment_watchers and change in changes.MONEY_CHANGES:
            shown = changes.shown_payment(change, event, state)
            if shown is None or shown.reset_count == state.reset_count:
                view = payment_view(topic.payment_seal, version, change, state, shown)
        self.rings.add(topic, RingEntry(version, change, event_bytes, message, view), state)

    def feed_moved(self) -> None:
        """Tell who watches everything that there may be something new."""
        everything = self._everything
        if everything.watchers:
            everything.version += 1
            wake(everything.waiters)

    def _tick(self) -> None:
        """Tick as often as time has passed: a busy loop makes ticks late, and not fewer."""
        loop = asyncio.get_running_loop()
        now, pause_s = loop.time(), self._heartbeat_s / HEARTBEAT_TICKS
        for _ in range(HEARTBEAT_TICKS):
            if self._tick_at > now:
                break
            self._tick_at += pause_s
            self.ticks += 1
            if not self._quiet:
                wake(self._due[self.ticks % HEARTBEAT_TICKS])
        self._tick_at = min(max(self._tick_at, now), now + pause_s)
        self._timer = loop.call_at(self._tick_at, self._tick)


def payment_view(
    seal: Seal, version: int, change: str, session: Session, payment: Payment | None
) -> PaymentView:
    """Serialise what a watch of payments shows of a version, and of the change that led to it."""
    response = WatchPaymentResponse(
        version=version, resume_token=seal.token(wire.varint(version)), state=session.payment
    )
    of_tab = outcomes.outcome_of_tab(payment, session.payment)
    settles = outcomes.settles_tab(change, payment, session)
    if payment is None:
        return PaymentView(response.SerializeToString(), None, of_tab, settles)
    response.payment.CopyFrom(payment)
    response.settled = changes.is_settled(payment)
    response.next_action.CopyFrom(outcomes.next_action(payment, session.payment))
    # Of this message's own: one of the state would hold the whole of it in memory.
    return PaymentView(response.SerializeToString(), response.payment, of_tab, settles)


def _nobody(_there: bool) -> None:
    """Where this process makes all commits, nobody has to look for those of others."""


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; resume elsewhere", retry_after_s=1)


def _store_is_away() -> StoreUnavailable:
    return StoreUnavailable(
        "this server cannot reach its store; resume elsewhere or later", retry_after_s=1
    )
