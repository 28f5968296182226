"""The newest state of a session that a handle has seen."""

from __future__ import annotations

import threading

from maitred.v1.state_pb2 import Session


class Seen:
    """Keeps the newest of the states shown to it, in whatever order they come."""

    def __init__(self, state: Session | None = None) -> None:
        self._state = state
        self._lock = threading.Lock()

    @property
    def state(self) -> Session | None:
        """The newest state; None before the first."""
        return self._state

    def see(self, state: Session) -> None:
        """Take a state, unless a newer one was seen."""
        with self._lock:
            if self._state is None or state.version >= self._state.version:
                self._state = state
