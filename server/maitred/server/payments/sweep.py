"""The daily reconciliation: compares the provider's list of paid payments with ours.

Polls and notices find all of them sooner; this finds what a lost notice, a restored backup or a
mistake of ours left out, money of payments that nobody here knows above all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable

import structlog

from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.engine.engine import Engine
from maitred.server.errors import InvalidSession, PaymentNotFound, SessionDeleted
from maitred.server.payments.gateway import Gateway, Gateways
from maitred.server.payments.inbox import Inbox
from maitred.server.payments.provider import ProviderError, Rejected
from maitred.server.payments.records import Records
from maitred.server.payments.throttle import Priority, Urgency
from maitred.server.payments.unmatched import Unmatched, is_known
from maitred.server.payments.worker import Worker
from maitred.server.stores.base import RowFilter, StoreError
from maitred.server.telemetry import metrics
from maitred.v1.payment_pb2 import (
    UNMATCHED_REASON_OTHER_LINK,
    UNMATCHED_REASON_SESSION_GONE,
    UNMATCHED_REASON_UNKNOWN_PAYMENT,
    UnmatchedPayment,
)
from maitred.v1.state_pb2 import PAYMENT_STATUS_SUCCEEDED, Payment

EVERY_S = 24 * 3600.0
AFTER_TROUBLE_S = 600.0
REACH_S = 48 * 3600
"""How far back the list goes: twice the longest life of a link."""

TAKE_UP_EVERY_S = 60.0
"""How soon notices that another server took in and left are found."""

LEASE = "payment-sweep"
LEASE_S = 3600.0
NS = 1_000_000_000

log = structlog.get_logger(__name__)


class Sweep:
    """Runs at the start and then once a day, on one server at a time."""

    def __init__(
        self,
        engine: Engine,
        gateways: Gateways,
        records: Records,
        worker: Worker,
        inbox: Inbox,
        unmatched: Unmatched,
    ) -> None:
        self._engine = engine
        self._gateways = gateways
        self._records = records
        self._worker = worker
        self._inbox = inbox
        self._unmatched = unmatched
        self._owner = secrets.token_hex(8)
        self._again = False
        """Something could not be compared for a reason that passes."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Work in the background."""
        self._tasks = [
            asyncio.create_task(self._sweep_for_ever(), name="payment-sweep"),
            asyncio.create_task(self._take_up_for_ever(), name="payment-notices-left"),
        ]

    async def stop(self) -> None:
        """End the work; it is begun anew by the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self) -> int:
        """Compare both lists and clear the inbox; returns how many payments had to be mended.

        What cannot be compared is told and passed over, and a provider that does not answer keeps
        nobody from the others. Raises: ProviderError, StoreError; all else is done by then.
        """
        mended, trouble, self._again = 0, None, False
        for gateway in self._gateways.all:
            try:
                mended += await self._compare_all(gateway)
            except ProviderError as error:
                trouble = error
        mended += await self._ask_about_disputes()
        mended += await self._ask_about_unmatched()
        await self._inbox.purge()
        if trouble is not None:
            raise trouble
        return mended

    async def _compare_all(self, gateway: Gateway) -> int:
        mended = 0
        since_ns = self._engine.clock.now_ns() - REACH_S * NS
        async for snapshot in gateway.completed(since_ns):
            name = snapshot.provider_payment_id
            mended += await self._apart(name, self._compare(gateway.name, snapshot))
        return mended

    async def _apart(self, payment: str, work: Awaitable[bool]) -> bool:
        """Do what one payment needs; whatever goes wrong with it is no other payment's trouble."""
        try:
            return await work
        except Exception as error:  # logged and counted: one bad row stops nothing
            self._again |= isinstance(error, (ProviderError, StoreError))
            metrics.ROWS_SKIPPED.labels("sweep").inc()
            log.exception("payment_not_compared", payment=payment)
            return False

    async def _ask_about_disputes(self) -> int:
        """Look at disputed payments: banks take months, and one lost notice would be the last."""
        mended = 0
        where = RowFilter(statuses=(PAYMENT_STATUS_SUCCEEDED,), flag=1)
        async for payment in self._records.rows(where):
            if payment.disputed and self._gateways.named(payment.provider) is not None:
                mended += await self._apart(payment.payment_id, self._ask_about(payment))
        return mended

    async def _ask_about(self, payment: Payment) -> bool:
        snapshot = await self._worker.look(payment, Urgency(Priority.ROUTINE))
        return await self._apply(payment, snapshot)

    async def _ask_about_unmatched(self) -> int:
        """Look at unmatched payments again: they may be refunded, or recorded by now."""
        mended = 0
        async for entry in self._unmatched.recent():
            gateway = self._gateways.named(entry.provider)
            if gateway is not None:
                name = entry.provider_payment_id
                mended += await self._apart(name, self._look_again(gateway, entry))
        return mended

    async def _look_again(self, gateway: Gateway, entry: UnmatchedPayment) -> bool:
        urgency = Urgency(Priority.ROUTINE)
        try:
            snapshot = await gateway.retrieve(entry.provider_payment_id, urgency)
        except Rejected as error:  # it will be rejected tomorrow as well; staff has to look
            log.warning("unmatched_payment_unknown", provider=entry.provider, error=str(error))
            return False
        payment = await self._named(snapshot)
        if payment is not None and is_its_link(payment, snapshot) and is_known(payment, snapshot):
            await self._unmatched.close(entry)
            return False
        return await self._compare(gateway.name, snapshot)

    async def _compare(self, provider: str, snapshot: ProviderSnapshot) -> bool:
        payment = await self._named(snapshot)
        if payment is None:
            await self._unmatched.record(provider, snapshot, UNMATCHED_REASON_UNKNOWN_PAYMENT)
            return False
        if not is_its_link(payment, snapshot):
            reason = UNMATCHED_REASON_OTHER_LINK
            await self._unmatched.record(provider, snapshot, reason, payment.session_id)
            return False
        if is_known(payment, snapshot):
            return False
        return await self._apply(payment, snapshot)

    async def _named(self, snapshot: ProviderSnapshot) -> Payment | None:
        name = snapshot.payment_id
        return await self._records.stored(name) if name else None

    async def _apply(self, payment: Payment, snapshot: ProviderSnapshot) -> bool:
        """Book what the provider says; what is of a session that is gone calls for a person."""
        try:
            return await self._worker.apply(
                payment.session_id, payment.payment_id, snapshot, "sweep"
            )
        except (InvalidSession, SessionDeleted, PaymentNotFound):
            reason = UNMATCHED_REASON_SESSION_GONE
            await self._unmatched.record(
                payment.provider, snapshot, reason, payment.session_id, payment
            )
            return False

    async def _sweep_for_ever(self) -> None:
        while True:
            pause_s = EVERY_S
            try:
                if await self._engine.store.lease(LEASE, self._owner, LEASE_S) is None:
                    pause_s = LEASE_S
                else:
                    log.info("payments_compared", mended=await self.run())
                    if self._again:
                        pause_s = AFTER_TROUBLE_S
                    else:
                        await self._hold_for_a_day()
            except (ProviderError, StoreError) as error:
                pause_s = AFTER_TROUBLE_S
                log.warning("sweep_failed", kind=type(error).__name__, error=str(error))
            except Exception:  # logged; a task that ends would never sweep again
                pause_s = AFTER_TROUBLE_S
                log.exception("sweep_crashed")
            await asyncio.sleep(pause_s)

    async def _hold_for_a_day(self) -> None:
        """Where there are other servers, let none of them do the same again today."""
        info = self._engine.info
        if info is not None and not info.exclusive:
            await self._engine.store.lease(LEASE, self._owner, EVERY_S - LEASE_S)

    async def _take_up_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TAKE_UP_EVERY_S)
            try:
                await self._inbox.take_up()
            except StoreError as error:
                log.warning("take_up_failed", kind=type(error).__name__, error=str(error))
            except Exception:  # logged, and tried again
                log.exception("take_up_crashed")


def is_its_link(payment: Payment, snapshot: ProviderSnapshot) -> bool:
    """Whether a payment is recorded with this link, or with none yet."""
    return payment.provider_payment_id in ("", snapshot.provider_payment_id)
