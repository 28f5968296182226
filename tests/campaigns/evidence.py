"""Compares the contents of a database with what clients were told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.campaigns.killing import KillFailure

from maitred.server.domain.evolve import evolve_session
from maitred.server.engine import eventlog
from maitred.server.engine.identity import digest_request_id
from maitred.server.kinds.session import session_ref
from maitred.v1.state_pb2 import Session

if TYPE_CHECKING:
    from typing import NoReturn

    from tests.campaigns.crowd import Guest
    from tests.campaigns.operations import Operation

    from maitred.server.stores.base import Store, StoredEvent
    from maitred.v1.event_pb2 import Event

PAGE = 1000


class Evidence:
    """The log of one session as far as it was read, and what follows from it."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.version = 0
        self.requests: dict[bytes, int] = {}
        """The version that each request id was applied as."""
        self._ref = session_ref(guest.session_id)
        self._chain = eventlog.chain_start(self._ref)
        self._state: Session | None = None
        self._checked = 0
        """Operations before this one were found."""
        self._unshown: dict[int, Event] = {}
        """Events that no watch has delivered yet."""

    async def follow(self, store: Store) -> None:
        """Read what was written since, and fold it. Raises: KillFailure."""
        loaded = await store.load(self._ref)
        if loaded is None:
            self._fail("is not there")
        while self.version < loaded.version:
            rows = await store.events(self._ref, self.version, PAGE)
            if not rows:
                self._fail(f"the log ends at {self.version}, the head says {loaded.version}")
            for row in rows:
                # Written since the head was read: the next time's business.
                if row.version <= loaded.version:
                    self._take(row)
        if loaded.chain != self._chain or Session.FromString(loaded.body) != self._state:
            self._fail(f"folding the log gives another state than the stored one at {self.version}")

    def missing(self) -> list[Operation]:
        """List the acknowledged operations that the log does not have where it should."""
        return [
            each
            for each in self.guest.operations[self._checked :]
            if each.version and self.requests.get(_id(each)) != each.version
        ]

    def check(self) -> None:
        """Hold the log against the guest's history. Raises: KillFailure."""
        if missing := self.missing():
            self._fail(
                f"{len(missing)} acknowledged writes are not in the log, the first is "
                f"{missing[0].method} as version {missing[0].version}"
            )
        self._checked = sum(1 for each in self.guest.operations if each.version)
        asked = {_id(each) for each in self.guest.operations}
        if self.requests.keys() - asked:
            self._fail("the log has requests that nobody made")
        shown, self.guest.shown = self.guest.shown, []
        for event in shown:
            if event.version > self.version:
                self.guest.shown.append(event)
            elif self._unshown.pop(event.version) != event:
                self._fail(f"a watch showed another version {event.version}")
        if self.guest.observed > self.version:
            self._fail(f"version {self.guest.observed} was shown, the log has {self.version}")

    def _take(self, row: StoredEvent) -> None:
        if row.version != self.version + 1:
            self._fail(f"version {row.version} follows {self.version}")
        self._chain = eventlog.chain_next(self._chain, row.facts)
        if row.chain != self._chain:
            self._fail(f"the chain breaks at version {row.version}")
        if row.request_id is not None:
            if row.request_id in self.requests:
                earlier = self.requests[row.request_id]
                self._fail(f"one request was applied as versions {earlier} and {row.version}")
            self.requests[row.request_id] = row.version
        event = eventlog.decode(row)
        self.version = row.version
        self._state = evolve_session(self._state, event)
        self._unshown[row.version] = event

    def _fail(self, problem: str) -> NoReturn:
        raise KillFailure(f"{self.guest.session_id}: {problem}")


def _id(operation: Operation) -> bytes:
    return digest_request_id(operation.request.request_id)  # type: ignore[attr-defined]  # all have one
