# generated: edit _async and run scripts/unasync.py
"""The base of every part of a session handle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maitred.client._options import Mutation
from maitred.client._seen import Seen
from maitred.v1.state_pb2 import Session

if TYPE_CHECKING:
    from maitred.client._sync.client import Client


class HandleCore:
    """A session and what was last seen of it."""

    def __init__(
        self, client: Client, session_id: str, seen: Seen, *, new_visit: bool = False
    ) -> None:
        self._client = client
        self._seen = seen
        self.session_id = session_id
        self.new_visit = new_visit
        """`create_session` began a new visit: the id had a session, which has ended."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    @property
    def state(self) -> Session | None:
        """The session as the newest answer showed it; None before the first. Watches leave it."""
        return self._seen.state

    def _fenced(self, options: Mutation) -> Mutation:
        state = self._seen.state
        if state is None:
            return options
        fenced: Mutation = {"expected_reset_count": state.reset_count, **options}
        return fenced

    def _currency(self) -> str:
        state = self._seen.state
        seen = state.payment.balance.currency if state is not None else ""
        return seen or self._client._calls.options.currency
