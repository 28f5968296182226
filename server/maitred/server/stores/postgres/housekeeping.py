"""What a store keeps up while it is open: its lane, expired claims, deletions that were begun."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from maitred.server.stores.base import (
    Append,
    Committed,
    Keep,
    Outcome,
    OutcomeUnknown,
    Record,
    Ref,
    StoreError,
    StoreFull,
)
from maitred.server.stores.postgres import jobs
from maitred.server.stores.postgres.feed import LANES
from maitred.server.stores.postgres.restore import RESTORE_S, restore, transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maitred.server.stores.postgres.connection import Pool

_log = structlog.get_logger(__name__)

LEASE_S: Final = 60.0
ROUND_S: Final = LEASE_S / 3

_LANE = "maitred lane "
"""What the lease of a lane is named, before its number."""


class Housekeeping:
    """Works beside the commits, on connections of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._owner = os.urandom(8).hex()
        self._task: asyncio.Task[None] | None = None
        self._forgetting: set[asyncio.Task[Outcome]] = set()
        self.lane = 0

    async def begin(self) -> None:
        """Take a lane, finish interrupted deletions, and go on in the background.

        Raises: StoreError.
        """
        self.lane = await self._take_lane()
        try:
            await self._finish_deletions()
        except (StoreFull, OutcomeUnknown) as error:
            # Tried again by and by; reading goes on meanwhile.
            _log.warning("an interrupted deletion is not finished yet", error=str(error))
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="maitred-postgres-housekeeping")

    async def end(self) -> None:
        """Finish deletions, stop, and let another server have the lane at once."""
        while self._forgetting:
            await asyncio.wait(self._forgetting)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StoreError):
            work = partial(jobs.end_lease, name=f"{_LANE}{self.lane}", owner=self._owner)
            await self._pool.run(work)

    async def forget(
        self, ref: Ref, base: int, last: Append, keep: Keep, buried: Callable[[], None]
    ) -> Outcome:
        """Bury an aggregate, say so, delete the rest; goes on if the caller is cancelled.

        Raises: StoreError.
        """
        work = self._forget(ref, base, last, keep, buried)
        task = asyncio.get_running_loop().create_task(work)
        self._forgetting.add(task)
        task.add_done_callback(self._forgot)
        return await asyncio.shield(task)

    def _forgot(self, task: asyncio.Task[Outcome]) -> None:
        self._forgetting.discard(task)
        if not task.cancelled():
            # Looked at, because nobody else does where the caller was cancelled.
            task.exception()

    async def _forget(
        self, ref: Ref, base: int, last: Append, keep: Keep, buried: Callable[[], None]
    ) -> Outcome:
        bury = partial(jobs.bury, lane=self.lane, ref=ref, base=base, last=last, keep=keep)
        outcome = await self._pool.run(bury, writes=True)
        if isinstance(outcome, Committed):
            buried()
            await self._delete(ref, base + 1, keep)
        return outcome

    async def _delete(self, ref: Ref, version: int, keep: Keep) -> None:
        """Delete in pieces what a tombstone leaves behind.

        Raises: OutcomeUnknown where that was interrupted; buried the aggregate is.
        """
        piece = partial(jobs.forget_piece, ref=ref, version=version, keep=keep)
        try:
            while await self._pool.run(piece, writes=True):
                pass
        except StoreError as error:
            raise OutcomeUnknown(f"the deletion was interrupted: {error}") from error

    async def restore(self, records: Sequence[Record]) -> int:
        """Write aggregates as another store kept them, several in one transaction.

        Raises: StoreError, which names the aggregate where the database cannot hold it.
        """
        written = 0
        for some in transactions(records):
            try:
                written += await self._restore(some)
            except StoreError as error:
                if type(error) is not StoreError:
                    raise
                # One that the database does not take must not keep those before it away.
                for record in some:
                    written += await self._restore_one(record)
        return written

    async def _restore_one(self, record: Record) -> int:
        ref = record.loaded.ref
        try:
            return await self._restore([record])
        except StoreError as error:
            raise type(error)(f"{ref.id!r} of kind {ref.kind}: {error}") from error

    async def _restore(self, records: Sequence[Record]) -> int:
        work = partial(restore, lane=self.lane, records=records)
        return await self._pool.run(work, writes=True, deadline_s=RESTORE_S)

    async def _finish_deletions(self) -> None:
        """Delete what is left of tombstones; what another server is at, two may delete."""
        for ref, version, keep in await self._pool.run(jobs.interrupted):
            await self._delete(ref, version, keep)

    async def _take_lane(self) -> int:
        """Take a lane of one's own, or share one where there are more servers than lanes."""
        for lane in range(LANES):
            if await self._lease(lane):
                return lane
        return int(self._owner, 16) % LANES

    async def _lease(self, lane: int) -> bool:
        work = partial(jobs.lease, name=f"{_LANE}{lane}", owner=self._owner, ttl_s=LEASE_S)
        return await self._pool.run(work, writes=True) is not None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                # Lost to another server, it is shared from then on: slower, and as right as before.
                await self._lease(self.lane)
                await self._finish_deletions()
                while await self._pool.run(jobs.expire_claims, writes=True):
                    pass
            except StoreError as error:
                _log.warning("housekeeping failed", error=str(error))
