"""What a watched aggregate has to offer at once: its last events, ready to be sent, and no more.

A ring is bounded in entries and in bytes, and all rings together are: a watcher further behind
reads the store, so nothing that is dropped here is lost.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import islice
from typing import Any, NamedTuple

from maitred.server.engine.tokens import Seal
from maitred.v1.payment_pb2 import PaymentOutcome
from maitred.v1.state_pb2 import Payment

RING = 128
"""Messages kept of each watched aggregate."""
RING_BYTES = 1024 * 1024
"""Bytes kept of each watched aggregate; of the newest event always all."""
RINGS_BYTES = 64 * 1024 * 1024
"""Bytes kept of all of them together."""
ENTRY_BYTES = 400
"""About what an entry takes beside its messages."""


class PaymentView(NamedTuple):
    """What a watch of payments shows of one version."""

    message: bytes
    """A whole WatchPaymentResponse."""
    payment: Payment | None
    of_tab: PaymentOutcome.ValueType
    """How the paying of the tab stands, for who watches no one payment."""
    settles_tab: bool
    """Who waits for the tab to be settled need wait no longer."""


class RingEntry:
    """One event, serialised for all watchers."""

    __slots__ = ("change", "event_bytes", "message", "payment", "size", "version")

    def __init__(
        self,
        version: int,
        change: str,
        event_bytes: bytes,
        message: bytes,
        payment: PaymentView | None,
    ) -> None:
        self.version = version
        self.change = change
        self.event_bytes = event_bytes
        self.message = message
        """A whole WatchSessionResponse with this one event."""
        self.payment = payment
        """None where nobody watched payments, or the event changed nothing of them."""
        shown = 0 if payment is None else 2 * len(payment.message)
        self.size = ENTRY_BYTES + len(event_bytes) + len(message) + shown


class Topic:
    """One watched aggregate."""

    __slots__ = (
        "payment_seal",
        "payment_watchers",
        "ring",
        "ring_bytes",
        "seal",
        "state",
        "version",
        "waiters",
        "watchers",
    )

    def __init__(self, seal: Seal, payment_seal: Seal) -> None:
        self.seal = seal
        self.payment_seal = payment_seal
        self.ring: deque[RingEntry] = deque()
        """Consecutive versions, also where several servers make them."""
        self.ring_bytes = 0
        self.version = 0
        """Newest version known since somebody watches; 0 before the first."""
        self.state: Any = None
        """The state at that version."""
        self.watchers = 0
        self.payment_watchers = 0
        """Those among them that watch payments."""
        self.waiters: set[asyncio.Future[None]] = set()

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
        return ring[at] if 0 <= at < len(ring) else None

    def batch(self, version: int, most_bytes: int) -> list[RingEntry]:
        """Take all events after `version` that one message can hold; the first is in the ring."""
        batch: list[RingEntry] = []
        for entry in islice(self.ring, version - self.ring[0].version + 1, None):
            most_bytes -= len(entry.event_bytes)
            if batch and most_bytes < 0:
                break
            batch.append(entry)
        return batch

    def add(self, entry: RingEntry, state: Any) -> None:
        """Take an event in; one that is there already, or a gap before it, does no harm."""
        ring = self.ring
        if ring:
            newest = ring[-1].version
            if entry.version <= newest:
                return
            if entry.version > newest + 1:
                self.clear()
        ring.append(entry)
        self.ring_bytes += entry.size
        while len(ring) > RING or (self.ring_bytes > RING_BYTES and len(ring) > 1):
            self.ring_bytes -= ring.popleft().size
        if entry.version >= self.version:
            self.version, self.state = entry.version, state
        wake(self.waiters)

    def clear(self) -> None:
        """Let every watcher read for itself what it lacks."""
        self.ring.clear()
        self.ring_bytes = 0


class Rings:
    """Keeps all rings together within their bytes: who was published to longest ago gives way."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._filled: OrderedDict[Topic, None] = OrderedDict()

    def add(self, topic: Topic, entry: RingEntry, state: Any) -> None:
        """Put an event into a topic."""
        before = topic.ring_bytes
        topic.add(entry, state)
        self.held_bytes += topic.ring_bytes - before
        self._filled[topic] = None
        self._filled.move_to_end(topic)
        while self.held_bytes > RINGS_BYTES and len(self._filled) > 1:
            self.drop(next(iter(self._filled)))

    def skip(self, topic: Topic, version: int) -> None:
        """Let every watcher of a topic read for itself what leads up to a version."""
        self.drop(topic)
        topic.version, topic.state = version, None
        wake(topic.waiters)

    def drop(self, topic: Topic) -> None:
        """Empty the ring of a topic."""
        if topic in self._filled:
            del self._filled[topic]
            self.held_bytes -= topic.ring_bytes
            topic.clear()


def wake(waiters: set[asyncio.Future[None]]) -> None:
    """Let those who wait look again."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
