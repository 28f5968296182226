"""Token buckets by name: a rate per second, and a burst."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Buckets:
    """A bucket for each name, in memory. Names come from the token file, so that they are few."""

    def __init__(
        self, rate_per_s: float, burst: float, clock: Callable[[], float] = monotonic
    ) -> None:
        """Let `burst` acts pass at once, and `rate_per_s` of them for good."""
        self._rate = rate_per_s
        self._burst = max(1.0, burst)
        self._clock = clock
        self._levels: dict[str, list[float]] = {}

    def take(self, name: str) -> float:
        """Count one act: answers 0 where it may happen, else in how many seconds one may."""
        now = self._clock()
        bucket = self._levels.get(name)
        if bucket is None:
            bucket = self._levels[name] = [self._burst, now]
        left = min(self._burst, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if left < 1.0:
            bucket[0] = left
            return (1.0 - left) / self._rate
        bucket[0] = left - 1.0
        return 0.0

    def give_back(self, name: str) -> None:
        """Take one act back that did not happen after all."""
        bucket = self._levels.get(name)
        if bucket is not None:
            bucket[0] = min(self._burst, bucket[0] + 1.0)
