"""The work that one payment needs of its provider, found out from what is durable and nothing else.

So it does not matter who starts it, how often, or what became of an earlier try: a crash between a
call and its record is healed by doing the same again, under the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from maitred.server.domain import payments, settlement
from maitred.server.domain.snapshots import (
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)
from maitred.server.domain.tab import has_open_payment
from maitred.server.engine.call import SYSTEM_CALL
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.refs import session_ref
from maitred.server.payments.provider import (
    AnsweredWithFault,
    OutcomeUnknown,
    PaymentProvider,
    ProviderError,
    Rejected,
)
from maitred.server.payments.records import Records
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    Payment,
    Refund,
    Session,
)

CALL_TIMEOUT_S = 30.0
"""Longest that one call of a provider may take, its own retries included."""

CONCURRENT_CALLS = 32
FAULTS_BEFORE_NEW_KEY = 3
"""Providers keep their answer to a key, a breakdown too; so often it is asked before giving up."""

KEY_LIFETIME_NS = 23 * 3600 * 1_000_000_000
"""Providers forget keys after a day; an older one might make a second link."""

UNKNOWN_ALARM_NS = 600 * 1_000_000_000
"""After so long without an answer a person should look."""

_MOST_STEPS = 8
"""More than any payment needs at once; a provider that contradicts itself is asked again later."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Worker:
    """Brings payments forward, one step after the other, holding no lock over a provider's call."""

    def __init__(
        self,
        engine: Engine,
        provider: PaymentProvider,
        records: Records,
        seen: Callable[[Payment], None],
    ) -> None:
        """Take who is told how each payment was found before it was worked on, and left."""
        self._engine = engine
        self._provider = provider
        self._records = records
        self._seen = seen
        self._slots = asyncio.Semaphore(CONCURRENT_CALLS)
        self._faults: dict[str, int] = {}

    async def advance(
        self, session_id: str, payment_id: str, source: str, *, ask: bool
    ) -> ProviderError | None:
        """Do what the payment needs; with `ask`, look at it even if it needs nothing.

        Answers what kept the provider from doing it; None where all is done.
        """
        expired, refunded = False, set[str]()
        for _ in range(_MOST_STEPS):
            session, payment = await self._records.load(session_id, payment_id)
            self._seen(payment)
            await self._supersede(session)
            waiting = [
                refund
                for refund in payments.pending_refunds(payment)
                if refund.refund_id not in refunded
            ]
            try:
                if payments.is_unborn(payment):
                    await self._create(payment)
                    ask = False
                elif not expired and is_to_be_expired(payment):
                    expired, ask = True, False
                    await self._apply(payment, await self._expire(payment), source)
                elif waiting:
                    refunded.add(waiting[0].refund_id)
                    await self._refund(payment, waiting[0])
                elif ask and payment.provider_payment_id:
                    ask = False
                    await self._apply(payment, await self.look(payment), source)
                else:
                    break
            except ProviderError as error:
                log.warning(
                    "provider_trouble",
                    payment=payment_id,
                    kind=type(error).__name__,
                    error=str(error),
                )
                await self._alarm(payment)
                return error
        self._faults.pop(payment_id, None)
        return None

    async def look(self, payment: Payment) -> ProviderSnapshot:
        """Ask the provider for a payment. Raises: ProviderError."""
        return await self._call(lambda: self._provider.retrieve(payment.provider_payment_id))

    async def _expire(self, payment: Payment) -> ProviderSnapshot:
        return await self._call(lambda: self._provider.expire(payment.provider_payment_id))

    async def apply(
        self, session_id: str, payment_id: str, snapshot: ProviderSnapshot, source: str
    ) -> None:
        """Put what a provider said through the one reducer."""
        result = await self._records.change(
            session_id,
            payment_id,
            lambda session, payment, now_ns: settlement.apply_snapshot(
                session, payment, snapshot, source, now_ns
            ),
        )
        if result.event:
            await self._supersede(Session.FromString(result.body))

    async def _apply(self, payment: Payment, snapshot: ProviderSnapshot, source: str) -> None:
        await self.apply(payment.session_id, payment.payment_id, snapshot, source)

    async def _create(self, payment: Payment) -> None:
        """Send the stored parameters under the stored key, and record what came of it."""
        request = payment.request
        age_ns = self._engine.clock.now_ns() - request.first_sent_at.ToNanoseconds()
        try:
            if age_ns < KEY_LIFETIME_NS:
                snapshot = await self._call(
                    lambda: self._provider.create(request.parameters, request.key)
                )
            else:
                snapshot = await self._find(payment) or _failed("never reached the provider")
        except Rejected as error:
            snapshot = _failed(str(error))
        except AnsweredWithFault:
            found = await self._after_fault(payment)
            if found is None:
                raise
            snapshot = found
        except OutcomeUnknown:
            await self._apply(payment, ProviderSnapshot(ProviderStatus.UNKNOWN), "create")
            raise
        await self._apply(payment, snapshot, "create")

    async def _after_fault(self, payment: Payment) -> ProviderSnapshot | None:
        """Decide what an answered breakdown means: what was made after all, or a new attempt."""
        await self._apply(payment, ProviderSnapshot(ProviderStatus.UNKNOWN), "create")
        name = payment.payment_id
        self._faults[name] = self._faults.get(name, 0) + 1
        if self._faults[name] < FAULTS_BEFORE_NEW_KEY:
            return None
        found = await self._find(payment)
        if found is None:
            del self._faults[name]
            await self._records.change(
                payment.session_id,
                name,
                lambda session, stored, _now: payments.new_attempt(
                    session, stored, payment.request.attempt
                ),
            )
        return found

    async def _find(self, payment: Payment) -> ProviderSnapshot | None:
        created_ns = payment.created_at.ToNanoseconds()
        return await self._call(lambda: self._provider.find(payment.payment_id, created_ns))

    async def _refund(self, payment: Payment, refund: Refund) -> None:
        amount = refund.amount.minor_units
        try:
            news = await self._call(
                lambda: self._provider.refund(
                    payment.provider_payment_id, refund.refund_id, amount, refund.key
                )
            )
        except Rejected as error:
            news = ProviderRefund("", RefundState.FAILED, amount, refund.refund_id, str(error))
        await self._records.change(
            payment.session_id,
            payment.payment_id,
            lambda session, stored, now_ns: settlement.apply_refund(
                session, stored, news, "staff", now_ns
            ),
        )

    async def _supersede(self, session: Session) -> None:
        """Mark the open payment superseded where another one's late money changed what is owed."""
        if has_open_payment(session) and payments.supersede(session, 0) is not None:
            command = Command(session_ref(session.session_id), payments.supersede, ended=True)
            await self._engine.execute(command, SYSTEM_CALL)

    async def _alarm(self, payment: Payment) -> None:
        age_ns = self._engine.clock.now_ns() - payment.created_at.ToNanoseconds()
        if payments.is_unborn(payment) and age_ns >= UNKNOWN_ALARM_NS:
            await self._records.change(
                payment.session_id,
                payment.payment_id,
                lambda session, stored, _now: payments.flag_unknown(session, stored),
            )

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    return await call()
            except TimeoutError as error:
                raise OutcomeUnknown(f"no answer within {CALL_TIMEOUT_S:.0f} s") from error


def is_to_be_expired(payment: Payment) -> bool:
    """Whether the provider has to be told that a link must not be paid any more."""
    return (
        payments.is_withdrawn(payment)
        and bool(payment.provider_payment_id)
        and payment.attention != ATTENTION_AMOUNT_MISMATCH
        and payment.status in (PAYMENT_STATUS_OPEN, PAYMENT_STATUS_OUTCOME_UNKNOWN)
    )


def needs_work(payment: Payment) -> bool:
    """Whether the provider has to be told something, not merely asked."""
    if payments.is_unborn(payment) and payment.status != PAYMENT_STATUS_OUTCOME_UNKNOWN:
        return True
    return is_to_be_expired(payment) or bool(payments.pending_refunds(payment))


def _failed(reason: str) -> ProviderSnapshot:
    return ProviderSnapshot(ProviderStatus.FAILED, reason=reason)
