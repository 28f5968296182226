"""How long a watch waits before it connects again, and when it gives up."""

from __future__ import annotations

import random
import time

import grpc

from maitred.client.errors import MaitredError

_FIRST_S = 0.1
_LONGEST_S = 5.0
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
_BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
"""What a transport or a proxy makes of a broken stream; from maitred itself they are final."""


class Backoff:
    """The waits of one watch: growing while nothing comes, with jitter, up to a bound."""

    def __init__(self, outage: float) -> None:
        self._outage = outage
        self._failures = 0
        self._since: float | None = None

    def succeeded(self) -> None:
        """Something came: begin anew."""
        self._failures = 0
        self._since = None

    def failed(self, error: MaitredError) -> float:
        """Tell how long to wait before the next attempt.

        Raises: MaitredError, the one given, where another attempt would not help or nothing came
        for too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        transient = error.status in _TRANSIENT or (error.status in _BROKEN and not error.reason)
        if not transient or now - self._since >= self._outage:
            raise error
        longest = min(_LONGEST_S, _FIRST_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return max(error.retry_after or 0.0, random.uniform(longest / 2, longest))  # noqa: S311 - jitter is no secret
