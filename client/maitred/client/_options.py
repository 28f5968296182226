"""How calls are made, and what every mutation takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from maitred.client._request_ids import RandomIds, RequestIds

MISSED = 3
"""Heartbeats that may be missing."""

LEAST_SILENCE = 1.0
"""However often a server speaks, so long it may be busy."""


class RequestId(TypedDict, total=False):
    """What a mutation of something that may not exist yet takes."""

    request_id: str
    """Makes running it again safe; the client makes one up where unset."""


class Mutation(RequestId, total=False):
    """What every mutation of a session takes beside its arguments."""

    expected_version: int
    """Refuse unless the session is at this version."""
    expected_payment_version: int
    """Refuse unless the payment state is at this version."""
    expected_reset_count: int
    """Refuse unless the session was reset this many times; handles send what they saw."""


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are made."""

    timeout: float | None = 15.0
    """Seconds that a call may take, retries included; longer than a command may wait for its
    session."""
    currency: str = "USD"
    """Currency of amounts given as plain ints."""
    heartbeat: float = 15.0
    """Seconds between the server's heartbeats, assumed until its first message says how many."""
    outage: float = 120.0
    """Seconds without any answer after which a watch gives up."""
    request_ids: RequestIds = field(default_factory=RandomIds)

    def silence(self, heartbeat: float = 0.0) -> float:
        """Seconds of silence after which a watch is taken for dead: three missed heartbeats.

        `heartbeat` is what the server said; nothing before its first message.
        """
        return max(LEAST_SILENCE, MISSED * heartbeat) if heartbeat else MISSED * self.heartbeat


DEFAULTS = Options()
