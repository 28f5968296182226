"""Quotas: by token name for authenticated callers, by address for everybody else."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from maitred.server.engine.buckets import Buckets
from maitred.server.errors import RateLimited
from maitred.server.telemetry import metrics

BURST_S: Final = 2.0
"""So many seconds' worth of calls may come at once."""


class Quotas:
    """How much each caller by name may ask for: calls in a second, and streams at once."""

    def __init__(self, calls_per_s: float, streams: int) -> None:
        """Take the limits; 0 is none."""
        self._rate = calls_per_s
        self._buckets = Buckets(calls_per_s, calls_per_s * BURST_S)
        self._streams = streams
        self._open: Counter[str] = Counter()

    def take(self, name: str) -> None:
        """Count one call.

        Raises: RateLimited.
        """
        if not self._rate:
            return
        wait_s = self._buckets.take(name)
        if wait_s:
            raise RateLimited(
                f"{name} makes more than {self._rate:g} calls a second", retry_after_s=wait_s
            )

    def open_stream(self, name: str) -> str:
        """Count a stream; answers what to close it by.

        Raises: RateLimited.
        """
        if self._streams and self._open[name] >= self._streams:
            raise RateLimited(
                f"{name} has {self._streams} streams open, and may have no more", retry_after_s=1.0
            )
        self._open[name] += 1
        return name

    def close_stream(self, name: str) -> None:
        """Count it no more; for an empty name, which none was counted under, nothing."""
        if name:
            self._open[name] -= 1


class Places:
    """Streams that need no token: so many in all, and from one address a quarter of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        self._total = 0

    @contextlib.contextmanager
    def take(self, peer: str) -> Iterator[bool]:
        """Hold a place while a stream is open; answers whether there was one."""
        address = peer.rpartition(":")[0] or peer
        if self._total >= self._most or self._taken[address] >= self._most // 4:
            metrics.CALLS_REFUSED.labels("no_place").inc()
            yield False
            return
        self._total += 1
        self._taken[address] += 1
        try:
            yield True
        finally:
            self._total -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]
