"""Time and ids, injected so that tests can control them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from maitred.server.units import NS

POOL_BYTES = 4096

TOLERANCE_NS: Final = 2 * NS
"""What a time server corrects, and a busy machine delays, is no jump."""

log = structlog.get_logger(__name__)


class Clock(Protocol):
    """Where stored times come from: UTC, in nanoseconds since 1970."""

    def now_ns(self) -> int:
        """Read the time."""

    def settled_ns(self) -> int:
        """Read the time for what cannot be undone: one that has held for long."""


class SystemClock:
    """The machine's clock, believed as it is."""

    def now_ns(self) -> int:
        """Read the time."""
        return time.time_ns()

    def settled_ns(self) -> int:
        """Read the time."""
        return time.time_ns()


class _Trust:
    """How far the wall's time is believed to be from the time that only runs on."""

    def __init__(self, offset_ns: int, hold_ns: int, what: str) -> None:
        self._offset_ns = offset_ns
        self._hold_ns = hold_ns
        self._what = what
        self._jump: tuple[int, int] | None = None

    def offset_ns(self, seen_ns: int, monotonic_ns: int) -> int:
        """Weigh what is seen now; answers what is believed."""
        by_ns = seen_ns - self._offset_ns
        if -TOLERANCE_NS <= by_ns <= TOLERANCE_NS:
            if self._jump is not None:
                self._jump = None
                log.warning("clock_came_back", for_=self._what)
            self._offset_ns = seen_ns
            return seen_ns
        if self._jump is None or abs(seen_ns - self._jump[0]) > TOLERANCE_NS:
            self._jump = (seen_ns, monotonic_ns)
            log.warning(
                "clock_jumped",
                by_s=by_ns / NS,
                for_=self._what,
                believed_after_s=self._hold_ns / NS,
            )
        elif monotonic_ns - self._jump[1] >= self._hold_ns:
            log.warning("clock_jump_believed", by_s=by_ns / NS, for_=self._what)
            self._offset_ns, self._jump = seen_ns, None
        return self._offset_ns


class SteadyClock:
    """The machine's clock, but a jump is believed only when it has lasted.

    A clock that is set wrong for a moment, forward or back, would expire every session and erase
    what is kept for weeks. So the wall's time is held against a time that only runs on; where they
    part by more than a moment, the latter is followed until the wall has stayed where it went.
    """

    def __init__(
        self,
        *,
        hold_s: float = 300.0,
        settle_s: float = 3600.0,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Begin with the wall's time as it is; a jump counts after `hold_s` or `settle_s`."""
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        offset_ns = wall_ns() - monotonic_ns()
        self._now = _Trust(offset_ns, round(hold_s * NS), "sessions")
        self._settled = _Trust(offset_ns, round(max(hold_s, settle_s) * NS), "erasure")

    def now_ns(self) -> int:
        """Read the time that is believed."""
        monotonic_ns = self._monotonic_ns()
        return monotonic_ns + self._now.offset_ns(self._wall_ns() - monotonic_ns, monotonic_ns)

    def settled_ns(self) -> int:
        """Read the time that has held for long."""
        monotonic_ns = self._monotonic_ns()
        return monotonic_ns + self._settled.offset_ns(self._wall_ns() - monotonic_ns, monotonic_ns)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ns: int = 1_767_225_600_000_000_000) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Read the time."""
        return self._now_ns

    def settled_ns(self) -> int:
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
