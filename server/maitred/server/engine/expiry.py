"""No read shows as active what is overdue: it expires first.

The sweeper comes by in its own time. Where a read is earlier, it commits the very same expiry, by
the same command; where that cannot be stored just now, it is at least shown as expired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from maitred.server.engine.cache import Latest
from maitred.server.engine.call import SYSTEM_CALL, Call
from maitred.server.engine.clock import Clock
from maitred.server.engine.command import Command, Result
from maitred.server.engine.reader import Reader
from maitred.server.errors import MaitredError
from maitred.server.kinds import Kinds
from maitred.server.kinds.aggregate import Life
from maitred.server.stores import base
from maitred.server.stores.base import Ref, Store, StoreError

DUE_AT_ONCE: Final = 100
"""What a listing of expired ones has expire at a time."""

ROUNDS: Final = 10
"""How often a listing looks again for what became overdue unseen; the rest is only shown so."""

LEASE_S: Final = 1.0
"""What is due but not overdue is the sweeper's, and soon handed to it."""

log = structlog.get_logger(__name__)

Execute = Callable[[Command, Call], Awaitable[Result]]


class Expiry:
    """Has expire what is about to be shown."""

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        reader: Reader,
        execute: Execute,
        clock: Clock,
        owner: str,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._reader = reader
        self._execute = execute
        self._clock = clock
        self._owner = owner

    async def settle(self, ref: Ref, head: Latest) -> Latest:
        """Have what is overdue expire; answers what to show instead of the head given.

        Raises: the kind's `gone`, where it was erased meanwhile.
        """
        kind = self._kinds[ref.kind]
        life = kind.life
        assert life is not None

        def expire(state: Any, now_ns: int) -> Any:
            return life.expire(state) if life.is_overdue(state, now_ns) else None

        command = Command(ref, expire, ended=True, overdue=True)
        try:
            await self._execute(command, SYSTEM_CALL)
            newest = await self._reader.head(ref)
        except kind.gone:
            raise
        except (MaitredError, StoreError) as error:
            log.warning("expiry_not_stored", ref=ref.id, error=str(error))
            newest = None
        return _as_expired(life, head) if newest is None else newest

    async def listed(
        self,
        life: Life,
        read: Callable[[], Awaitable[Sequence[base.Head]]],
        statuses: Sequence[int],
    ) -> Sequence[base.Head]:
        """Read rows of a listing, none of them overdue and yet shown as active."""
        if statuses and life.active_status not in statuses:
            if life.expired_status in statuses:
                await self._settle_due()
            return await read()
        for _ in range(ROUNDS):
            rows = await read()
            overdue = [row.ref for row in rows if self._is_overdue(row)]
            if not overdue:
                return rows
            await asyncio.gather(*map(self._settle_one, overdue))
        rows = await read()
        return [self._row_as_expired(row) if self._is_overdue(row) else row for row in rows]

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
            log.warning("expiry_not_stored", ref=ref.id, error=str(error))

    def _is_overdue(self, row: base.Head) -> bool:
        kind = self._kinds[row.ref.kind]
        return kind.life is not None and kind.life.is_overdue(
            kind.parse(row.body), self._clock.now_ns()
        )

    def _row_as_expired(self, row: base.Head) -> base.Head:
        kind = self._kinds[row.ref.kind]
        assert kind.life is not None
        state = kind.life.as_expired(kind.parse(row.body))
        return row._replace(body=state.SerializeToString())


def _as_expired(life: Life, head: Latest) -> Latest:
    state = life.as_expired(head.state)
    body = state.SerializeToString()
    return Latest(head.version, head.time_ns, head.chain, body, state, head.index, None)
