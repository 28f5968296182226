"""From submission to publication: the part of a command that nobody can cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from maitred.server.engine.cache import HeadCache, Latest
from maitred.server.engine.command import Beside, Result
from maitred.server.engine.hub import Hub
from maitred.server.engine.locks import Locks
from maitred.server.engine.reads import Barrier
from maitred.server.kinds import Kinds
from maitred.server.stores.base import (
    Commit,
    Committed,
    Outcome,
    OutcomeUnknown,
    Ref,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.v1.event_pb2 import Event

RESUBMIT_FIRST_S, RESUBMIT_MAX_S = 0.05, 0.5
"""Back-off between submissions of a commit whose outcome is unknown."""
ANSWER_S = 5.0
"""How long a caller waits for an outcome that is unknown; finding it out goes on without it."""
DRAIN_S = 10.0
"""How long the end waits for outcomes; a store that is away may never tell."""

log = structlog.get_logger(__name__)

Listener = Callable[[Ref, str, Event, Any], None]
"""Told of each durable event, in order: (ref, name of the change, event, state after it)."""


class Decided(NamedTuple):
    """A decision, ready to be stored and then shown."""

    ref: Ref
    commit: Commit
    after: Latest
    change: str
    event: Event
    event_bytes: bytes
    others: tuple[Decided, ...] = ()
    """What the same commit holds of further aggregates."""


class Committer:
    """Owns every commit that is under way, and the lock of its aggregate."""

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        cache: HeadCache,
        locks: Locks,
        hub: Hub,
        barrier: Barrier,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._cache = cache
        self._locks = locks
        self._hub = hub
        self._barrier = barrier
        self.listeners: list[Listener] = []
        self.published = 0
        """How many events were published; lets a reader see that time went by."""
        self.in_flight = 0
        self._closed = False
        self._drained: asyncio.Event | None = None

    def submit(self, decided: Decided) -> asyncio.Future[Result | Outcome | StoreError]:
        """Submit a commit and take the lock over; the future may be cancelled, the commit not."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result | Outcome | StoreError] = loop.create_future()
        delay_s, unknown, number = RESUBMIT_FIRST_S, False, 0

        def submit() -> None:
            nonlocal number
            number = self._barrier.begin()
            self._store.submit(decided.commit, done)

        def done(outcome: Outcome | StoreError) -> None:
            nonlocal delay_s, unknown
            if isinstance(outcome, Committed):
                self.publish(decided)
                self._barrier.end(number)
                self._release(decided)
                if not answer.done():
                    answer.set_result(_result(decided))
                return
            if isinstance(outcome, OutcomeUnknown):
                # It may be durable and read: memory must not go on to answer what was before.
                self._drop(decided)
            self._barrier.end(number)
            if isinstance(outcome, OutcomeUnknown) and not unknown:
                unknown = True
                log.warning("commit_outcome_unknown", ref=decided.ref.id)
                loop.call_later(ANSWER_S, _give_answer, answer, outcome)
            if _is_open(outcome, unknown=unknown) and not self._closed:
                # Whether it was applied is found out by submitting it again, never by reading;
                # until then nobody may decide on this aggregate.
                loop.call_later(delay_s, submit)
                delay_s = min(delay_s * 2, RESUBMIT_MAX_S)
                return
            if _is_open(outcome, unknown=unknown):
                outcome = OutcomeUnknown("the server stopped before it was known")
            self._drop(decided)
            self._release(decided)
            _give_answer(answer, outcome)

        self.in_flight += 1
        submit()
        return answer

    def hold(self) -> None:
        """Count work that holds a lock outside `submit`, until it ends."""
        self.in_flight += 1

    async def forget(self, decided: Decided) -> Result | Outcome:
        """Carry out a deletion that `hold` has counted; until it is known nobody may decide.

        Raises: StoreError, where it certainly did not happen.
        """
        delay_s, unknown = RESUBMIT_FIRST_S, False
        append = decided.commit.appends[0]
        # It is durable long before it is done; until then only the store may answer.
        self._cache.drop(decided.ref)
        try:
            while True:
                try:
                    outcome = await self._store.forget(
                        decided.ref, append.base, append, self._kinds[decided.ref.kind].keeps
                    )
                    break
                except StoreError as error:
                    unknown = unknown or isinstance(error, OutcomeUnknown)
                    if not _is_open(error, unknown=unknown):
                        raise
                    if self._closed:
                        raise OutcomeUnknown("the server stopped before it was known") from error
                    log.warning("deletion_outcome_unknown", ref=decided.ref.id, retry_in_s=delay_s)
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, RESUBMIT_MAX_S)
            if not isinstance(outcome, Committed):
                return outcome
            self.publish(decided)
            return _result(decided)._replace(message=None)
        finally:
            self._cache.drop(decided.ref)
            self._release(decided)

    def publish(self, decided: Decided) -> None:
        """Show what became durable to whoever reads or watches, in one step."""
        self._cache.put(decided.ref, decided.after)
        for other in decided.others:
            self._cache.put(other.ref, other.after)
        self._show(decided)
        for other in decided.others:
            self._show(other)

    def _show(self, decided: Decided) -> None:
        self.published += 1
        self._hub.publish(
            decided.ref,
            decided.after.version,
            decided.change,
            decided.event,
            decided.event_bytes,
            decided.after.state,
        )
        for listener in self.listeners:
            try:
                listener(decided.ref, decided.change, decided.event, decided.after.state)
            except Exception:  # logged; the event is durable and the lock must go
                log.exception("listener_failed", ref=decided.ref.id, change=decided.change)

    def _drop(self, decided: Decided) -> None:
        """Forget what memory has of the aggregates of a commit."""
        self._cache.drop(decided.ref)
        for other in decided.others:
            self._cache.drop(other.ref)

    def _release(self, decided: Decided) -> None:
        """Give the locks back; the commit is known."""
        self._locks.release(decided.ref)
        for other in decided.others:
            self._locks.release(other.ref)
        self.in_flight -= 1
        if self.in_flight == 0 and self._drained is not None:
            self._drained.set()

    async def drain(self) -> None:
        """Wait until nothing is under way any more, or no longer for what a lost store keeps open.

        Then the outcome stays unknown; the same request, sent again, finds it out.
        """
        try:
            async with asyncio.timeout(DRAIN_S):
                while self.in_flight:
                    self._drained = asyncio.Event()
                    await self._drained.wait()
        except TimeoutError:
            log.warning("commits_left_unknown", commits=self.in_flight)
        self._closed = True


def _result(decided: Decided) -> Result:
    after = decided.after
    result = Result(
        after.version, after.body, decided.event_bytes, replayed=False, message=decided.event
    )
    if not decided.others:
        return result
    others = {each.ref: Beside(each.after.version, each.after.body) for each in decided.others}
    return result._replace(others=others)


def _is_open(outcome: Outcome | StoreError, *, unknown: bool) -> bool:
    """Whether a commit may have been applied.

    Of one that is unknown, a later submission that did not get through says nothing.
    """
    if isinstance(outcome, (StoreUnavailable, StoreFull)):
        return unknown
    return isinstance(outcome, OutcomeUnknown)


def _give_answer(
    answer: asyncio.Future[Result | Outcome | StoreError], outcome: Outcome | StoreError
) -> None:
    if not answer.done():
        answer.set_result(outcome)
