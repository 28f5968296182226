"""Looks after aggregates whose time has come: expiry, abandoned tabs, the end of retention."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from maitred.server.domain import sessions
from maitred.server.engine.aggregates import NS
from maitred.server.engine.call import SYSTEM_CALL
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.errors import InvalidSession, MaitredError, SessionDeleted
from maitred.server.stores.base import Kind, Ref, StoreError
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import ATTENTION_ABANDONED_TAB, Session

BATCH = 100
LEASE_S = 30.0
LONGEST_SLEEP_S = 5.0
"""Another server, or a clock that was set, may make an aggregate due sooner than this one knows."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Swept:
    """What a sweep did, in sessions."""

    expired: int = 0
    abandoned: int = 0
    deleted: int = 0
    failed: int = 0


class Sweeper:
    """Sends a Tick to whoever is due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owner = engine.ids.new_id()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep in the background."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        """End the background sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def sweep(self, limit: int) -> Swept:
        """Look after at most `limit` aggregates that are due now."""
        swept = Swept()
        # Looked at now and then, so that a jump is seen when it happens.
        self._engine.clock.settled_ns()
        while limit > 0:
            now_ns = self._engine.clock.now_ns()
            refs = await self._engine.store.due(now_ns, min(limit, BATCH), self._owner, LEASE_S)
            if not refs:
                break
            limit -= len(refs)
            for ref in refs:
                await self._tick(ref, swept)
        return swept

    async def _tick(self, ref: Ref, swept: Swept) -> None:
        if ref.kind is not Kind.SESSION:
            return
        retention_s = self._engine.settings.retention_seconds

        def tick(session: Session, now_ns: int, *, deleting: bool) -> Event | None:
            # What is judged under the lock may ask for something else than what was seen before.
            event = sessions.tick(session, now_ns, retention_s)
            wrong = event is not None and event.HasField("session_deleted") != deleting
            return None if wrong else event

        try:
            head = await self._engine.reader.head(ref)
            if head is None:
                return
            event = sessions.tick(head.state, self._engine.clock.now_ns(), retention_s)
            deleting = event is not None and event.HasField("session_deleted")
            if deleting and not self._may_erase(head.state):
                return
            decide = partial(tick, deleting=deleting)
            command = Command(ref, decide, ended=True, overdue=True)
            carry_out = self._engine.forget if deleting else self._engine.execute
            result = await carry_out(command, SYSTEM_CALL)
        except (InvalidSession, SessionDeleted):
            return
        except (MaitredError, StoreError) as error:
            # It stays due and is taken up again when its lease ends.
            swept.failed += 1
            log.warning("tick_failed", session=ref.id, error=str(error))
            return
        event = result.parsed_event()
        if event is None:
            return
        swept.expired += event.HasField("session_expired")
        swept.deleted += event.HasField("session_deleted")
        swept.abandoned += any(
            item.kind == ATTENTION_ABANDONED_TAB for item in event.attention_changed.attention_items
        )

    def _may_erase(self, session: Session) -> bool:
        """Whether a session is to be erased also by the time that has held for long."""
        settled_ns = self._engine.clock.settled_ns()
        event = sessions.tick(session, settled_ns, self._engine.settings.retention_seconds)
        return event is not None and event.HasField("session_deleted")

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep(BATCH)
                next_ns = await self._engine.store.next_wake()
            except StoreError as error:
                log.warning("sweep_failed", error=str(error))
                next_ns = None
            await asyncio.sleep(self._pause_s(next_ns))

    def _pause_s(self, next_ns: int | None) -> float:
        if next_ns is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.05, (next_ns - self._engine.clock.now_ns()) / NS))
