"""Routine polling of open payments: one server at a time, by a lease.

The lease saves questions and nothing else. Two servers that ask at once do no harm, because every
answer goes through the one reducer, every commit is fenced by its version, and every call to a
provider carries a key that was stored before it. So nobody waits for a lease: whoever creates,
cancels or refunds a payment, or is told of one, does that work wherever it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from maitred.server.engine.engine import Engine
from maitred.server.stores.base import StoreError

LEASE = "payment-poller"
LEASE_S = 15.0
"""How long payments may go without routine when their server is gone."""
RENEW_S = 5.0
RELEASE_S = 0.001

Work = Callable[[], Awaitable[None]]

log = structlog.get_logger(__name__)


class Duty:
    """Holds the lease while it can; a store that is this process's own needs none."""

    def __init__(self, engine: Engine, work: Work, lost: Callable[[], None]) -> None:
        """Take the work of who is on duty, begun anew with each take-over, and who ends it."""
        self._engine = engine
        self._work = work
        self._lost = lost
        self._owner = engine.ids.new_id()
        self._token: int | None = None
        self._until = 0.0
        """By the loop's clock: a server that was stopped for a while is off duty when it wakes."""
        self._working: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this server is on duty."""
        info = self._engine.info
        if info is None or info.exclusive:
            return True
        return asyncio.get_running_loop().time() < self._until

    def start(self) -> None:
        """Try to get on duty, and stay there, in the background."""
        self._renewing = asyncio.create_task(self._renew(), name="payment-duty")

    async def aclose(self) -> None:
        """Go off duty, so that another server need not wait for the lease to end."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._token is not None:
            with contextlib.suppress(StoreError):
                await self._engine.store.lease(LEASE, self._owner, RELEASE_S)
        await self._leave()

    async def tend(self) -> None:
        """Take or renew the lease once. Raises: StoreError, and then it is as it was."""
        # Counted from before the question, so that it never ends later here than in the store.
        asked_at = asyncio.get_running_loop().time()
        lease = await self._engine.store.lease(LEASE, self._owner, LEASE_S)
        if lease is None:
            if self._token is not None:
                log.info("payment_duty_lost", token=self._token)
                await self._leave()
            return
        self._until = asked_at + LEASE_S
        if lease.token != self._token:
            # Another server may have had it meanwhile: nothing that is known here holds any more.
            await self._leave()
            self._token, self._until = lease.token, asked_at + LEASE_S
            log.info("payment_duty_taken", token=lease.token)
            self._working = asyncio.create_task(self._keep_working(), name="payment-routine")

    async def _leave(self) -> None:
        self._token, self._until = None, 0.0
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            self._working = None
        self._lost()

    async def _renew(self) -> None:
        while True:
            try:
                await self.tend()
            except StoreError as error:
                log.warning("payment_duty_unknown", kind=type(error).__name__, error=str(error))
            except Exception:  # logged, and tried again
                log.exception("payment_duty_crashed")
            await asyncio.sleep(RENEW_S)

    async def _keep_working(self) -> None:
        while True:
            try:
                await self._work()
            except StoreError as error:
                log.warning("take_up_failed", kind=type(error).__name__, error=str(error))
            except Exception:  # logged, and tried again
                log.exception("take_up_crashed")
            await asyncio.sleep(RENEW_S)
