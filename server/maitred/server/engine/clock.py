"""Time and ids, injected so that a test can hold them still."""

from __future__ import annotations

import os
import time
import uuid
from typing import Protocol

POOL_BYTES = 4096


class Clock(Protocol):
    """Where stored times come from: UTC, in nanoseconds since 1970."""

    def now_ns(self) -> int:
        """Read the time."""


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Read the time."""
        return time.time_ns()


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ns: int = 1_767_225_600_000_000_000) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Read the time."""
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Move the time forward; backward too, as a real clock may."""
        self._now_ns += round(seconds * 1_000_000_000)


class Ids(Protocol):
    """Where ids and random bytes come from."""

    def new_id(self) -> str:
        """Make an id that sorts by its time: a UUIDv7 (RFC 9562)."""

    def random_bytes(self, count: int) -> bytes:
        """Make bytes that nobody can guess."""


class RandomIds:
    """Ids from the machine's random source, for one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pool = b""

    def new_id(self) -> str:
        """Make a UUIDv7."""
        milliseconds = self._clock.now_ns() // 1_000_000
        value = (milliseconds & ((1 << 48) - 1)) << 80 | int.from_bytes(
            self.random_bytes(10), "big"
        )
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return str(uuid.UUID(int=value))

    def random_bytes(self, count: int) -> bytes:
        """Read the machine's random source, a page at a time: asking the kernel is what costs."""
        if count > len(self._pool):
            self._pool = os.urandom(max(count, POOL_BYTES))
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken
