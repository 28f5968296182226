"""Heads of aggregates in memory, newest use last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from maitred.server.stores.base import Index, Ref


class Head:
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


class HeadCache:
    """A bounded map that forgets what was used longest ago."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heads: OrderedDict[Ref, Head] = OrderedDict()

    def __len__(self) -> int:
        """How many heads are held."""
        return len(self._heads)

    def get(self, ref: Ref) -> Head | None:
        """Take a head and mark it used."""
        head = self._heads.get(ref)
        if head is not None:
            self._heads.move_to_end(ref)
        return head

    def put(self, ref: Ref, head: Head) -> None:
        """Hold a head unless a newer one is held already."""
        held = self._heads.get(ref)
        if held is not None and held.version > head.version:
            return
        self._heads[ref] = head
        self._heads.move_to_end(ref)
        if len(self._heads) > self._capacity:
            self._heads.popitem(last=False)

    def drop(self, ref: Ref) -> None:
        """Forget a head."""
        self._heads.pop(ref, None)
