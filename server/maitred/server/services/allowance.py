"""How many sessions an AGENT may start: each comes with an opening balance."""

from __future__ import annotations

from maitred.server.engine.buckets import Buckets
from maitred.server.engine.call import Actor
from maitred.server.errors import RateLimited
from maitred.v1.common_pb2 import ROLE_STAFF

_HOUR_S = 3600.0


class Allowance:
    """Sessions by agent and hour, as this server has seen them; STAFF is not counted.

    It is kept in memory: a restart forgets it, and each of several servers counts what comes to it.
    """

    def __init__(self, per_hour: int) -> None:
        """Take the bound; 0 is none. An hour's worth may come at once."""
        self._per_hour = per_hour
        self._buckets = Buckets(per_hour / _HOUR_S, per_hour)

    def visit(self, actor: Actor) -> Visit:
        """Answer what counts one request that may begin a session."""
        counted = self._per_hour and not actor.is_at_least(ROLE_STAFF)
        return Visit(self._buckets if counted else None, actor.name, self._per_hour)


class Visit:
    """One request's part of the allowance: taken at most once, given back if nothing began."""

    def __init__(self, buckets: Buckets | None, name: str, per_hour: int) -> None:
        self._buckets = buckets
        self._name = name
        self._per_hour = per_hour
        self._taken = False

    def take(self) -> None:
        """Count it, however often the request is decided.

        Raises: RateLimited.
        """
        if self._buckets is None or self._taken:
            return
        wait_s = self._buckets.take(self._name)
        if wait_s:
            raise RateLimited(
                f"{self._name} has begun {self._per_hour} sessions in an hour, and may begin no"
                " more for now",
                retry_after_s=wait_s,
            )
        self._taken = True

    def give_back(self) -> None:
        """Count it no more."""
        if self._buckets is not None and self._taken:
            self._taken = False
            self._buckets.give_back(self._name)
