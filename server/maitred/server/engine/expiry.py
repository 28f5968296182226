"""No read shows an overdue session as active: what a read finds overdue expires first.

The sweeper comes by in its own time. Where a read is earlier, it commits the very same expiry, by
the same command; where that cannot be stored just now, the session is at least shown as expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from maitred.server.domain import sessions
from maitred.server.engine.cache import Head
from maitred.server.engine.call import SYSTEM_CALL, Call
from maitred.server.engine.clock import Clock
from maitred.server.engine.command import Command, Result
from maitred.server.engine.reader import Reader
from maitred.server.errors import MaitredError, SessionDeleted
from maitred.server.stores import base
from maitred.server.stores.base import Kind, Ref, Store, StoreError
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import SESSION_STATUS_ACTIVE, SESSION_STATUS_EXPIRED, Session

DUE_AT_ONCE: Final = 100
"""Sessions that a listing of expired ones has expire at a time."""

ROUNDS: Final = 10
"""How often a listing looks again for what became overdue unseen; the rest is only shown so."""

LEASE_S: Final = 1.0
"""What is due but not overdue is the sweeper's, and soon handed to it."""

log = structlog.get_logger(__name__)

Execute = Callable[[Command, Call], Awaitable[Result]]


class Expiry:
    """Has sessions expire that are about to be shown."""

    def __init__(
        self, store: Store, reader: Reader, execute: Execute, clock: Clock, owner: str
    ) -> None:
        self._store = store
        self._reader = reader
        self._execute = execute
        self._clock = clock
        self._owner = owner

    async def settle(self, ref: Ref, head: Head) -> Head:
        """Have an overdue session expire; answers what to show instead of the head given.

        Raises: SessionDeleted, where it was erased meanwhile.
        """
        command = Command(ref, _expire_if_overdue, ended=True, overdue=True)
        try:
            await self._execute(command, SYSTEM_CALL)
            newest = await self._reader.head(ref)
        except SessionDeleted:
            raise
        except (MaitredError, StoreError) as error:
            log.warning("expiry_not_stored", session=ref.id, error=str(error))
            newest = None
        return _as_expired(head) if newest is None else newest

    async def listed(
        self, read: Callable[[], Awaitable[Sequence[base.Head]]], statuses: Sequence[int]
    ) -> Sequence[base.Head]:
        """Read rows of a listing, none of them an overdue session that is shown as active."""
        if statuses and SESSION_STATUS_ACTIVE not in statuses:
            if SESSION_STATUS_EXPIRED in statuses:
                await self._settle_due()
            return await read()
        for _ in range(ROUNDS):
            rows = await read()
            overdue = [row.ref for row in rows if self._is_overdue(row)]
            if not overdue:
                return rows
            await asyncio.gather(*map(self._settle_one, overdue))
        rows = await read()
        return [_row_as_expired(row) if self._is_overdue(row) else row for row in rows]

    async def _settle_due(self) -> None:
        """Have everything expire that is overdue, before a listing of what has expired."""
        for _ in range(ROUNDS):
            now_ns = self._clock.now_ns()
            refs = await self._store.due(now_ns, DUE_AT_ONCE, self._owner, LEASE_S)
            await asyncio.gather(*map(self._settle_one, refs))
            if len(refs) < DUE_AT_ONCE:
                return

    async def _settle_one(self, ref: Ref) -> None:
        try:
            await self._reader.read(ref)
        except (MaitredError, StoreError) as error:
            log.warning("expiry_not_stored", session=ref.id, error=str(error))

    def _is_overdue(self, row: base.Head) -> bool:
        if row.ref.kind is not Kind.SESSION:
            return False
        return sessions.is_overdue(Session.FromString(row.body), self._clock.now_ns())


def _expire_if_overdue(session: Session, now_ns: int) -> Event | None:
    return sessions.expire() if sessions.is_overdue(session, now_ns) else None


def _as_expired(head: Head) -> Head:
    state = Session()
    state.CopyFrom(head.state)
    state.status = SESSION_STATUS_EXPIRED
    body = state.SerializeToString()
    return Head(head.version, head.time_ns, head.chain, body, state, head.index, None)


def _row_as_expired(row: base.Head) -> base.Head:
    state = Session.FromString(row.body)
    state.status = SESSION_STATUS_EXPIRED
    return row._replace(body=state.SerializeToString())
