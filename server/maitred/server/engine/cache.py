"""Heads of aggregates in memory, newest use last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from maitred.server.stores.base import Index, Ref


class Latest:
    """The newest durable state of an aggregate that is known here; never changed in place."""

    __slots__ = ("body", "chain", "index", "state", "time_ns", "version", "wake_at_ns")

    def __init__(
        self,
        version: int,
        time_ns: int,
        chain: bytes,
        body: bytes,
        state: Any,
        index: Index | None,
        wake_at_ns: int | None,
    ) -> None:
        self.version = version
        self.time_ns = time_ns
        self.chain = chain
        self.body = body
        self.state = state
        self.index = index
        self.wake_at_ns = wake_at_ns


HEAD_BYTES = 800
"""About what a head takes beside its state."""

STATE_FACTOR = 3
"""About how much more a state takes, parsed and serialised, than its bytes alone."""


class HeadCache:
    """A map bounded in heads and in bytes that forgets what was used longest ago."""

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._heads: OrderedDict[Ref, Latest] = OrderedDict()
        self.held_bytes = 0
        """About how much memory all heads take."""

    def __len__(self) -> int:
        """How many heads are held."""
        return len(self._heads)

    def get(self, ref: Ref) -> Latest | None:
        """Take a head and mark it used."""
        head = self._heads.get(ref)
        if head is not None:
            self._heads.move_to_end(ref)
        return head

    def put(self, ref: Ref, head: Latest) -> None:
        """Hold a head unless a newer one is held already."""
        heads = self._heads
        held = heads.get(ref)
        if held is not None:
            if held.version > head.version:
                return
            self.held_bytes -= _cost(held)
        heads[ref] = head
        heads.move_to_end(ref)
        self.held_bytes += _cost(head)
        while len(heads) > self._capacity or (
            self.held_bytes > self._capacity_bytes and len(heads) > 1
        ):
            self.held_bytes -= _cost(heads.popitem(last=False)[1])

    def drop(self, ref: Ref) -> None:
        """Forget a head."""
        head = self._heads.pop(ref, None)
        if head is not None:
            self.held_bytes -= _cost(head)


def _cost(head: Latest) -> int:
    return HEAD_BYTES + STATE_FACTOR * len(head.body)
