"""Works out from durable state alone what a payment needs from its provider, and does it.

So it does not matter who starts it, how often, or what became of an earlier try: a crash between a
call and its record is healed by doing the same again, under the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from maitred.server.domain import attention, payments, refunds, settlement
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
from maitred.server.kinds.session import session_ref
from maitred.server.payments.gateway import Gateways, Sending
from maitred.server.payments.inbox import Inbox, processed
from maitred.server.payments.provider import (
    AnsweredWithFault,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorized,
)
from maitred.server.payments.records import Records
from maitred.server.payments.throttle import Urgency
from maitred.server.stores.base import Row
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    Payment,
    Refund,
    Session,
)

FAULTS_BEFORE_NEW_KEY = 3
"""Providers keep their answer to a key, a breakdown too; so often it is asked before giving up."""

KEY_LIFETIME_NS = 20 * 3600 * 1_000_000_000
"""Providers forget keys after a day; an older one might make a second link."""

UNKNOWN_ALARM_NS = 600 * 1_000_000_000
"""After so long without an answer a person should look."""

_MOST_STEPS = 8
"""More than any payment needs at once; a provider that contradicts itself is asked again later."""

log = structlog.get_logger(__name__)


class Worker:
    """Brings payments forward, one step after the other, holding no lock over a provider's call."""

    def __init__(
        self,
        engine: Engine,
        gateways: Gateways,
        records: Records,
        inbox: Inbox,
        seen: Callable[[Payment], None],
    ) -> None:
        """Take who is told how each payment was found before it was worked on, and left."""
        self._engine = engine
        self._gateways = gateways
        self._records = records
        self._inbox = inbox
        self._seen = seen
        self._faults: dict[str, int] = {}

    async def advance(
        self, session_id: str, payment_id: str, source: str, urgency: Urgency, *, ask: bool
    ) -> ProviderError | None:
        """Do what the payment needs; with `ask`, look at it even if it needs nothing.

        Answers what kept the provider from doing it; None where all is done.
        """
        expired, looked, refunded = False, False, set[str]()
        for _ in range(_MOST_STEPS):
            session, payment = await self._records.load(session_id, payment_id)
            self._seen(payment)
            await self._supersede(session)
            pending = refunds.pending_refunds(payment)
            unsent = [
                refund
                for refund in pending
                if not refund.provider_refund_id and refund.refund_id not in refunded
            ]
            if len(pending) > len(unsent) or any(map(self._key_is_forgotten, unsent)):
                # Sent again, they would be answered as they were then, or made a second time.
                ask = True
            try:
                if payments.is_unborn(payment):
                    await self._create(payment, urgency)
                    # An answer to a key is fresh, but what a notice tells of came after it.
                    ask = ask and source == "webhook"
                elif not expired and is_to_be_expired(payment):
                    expired = looked = True
                    await self._news(payment, source, partial(self._expire, payment, urgency))
                elif ask and not looked and payment.provider_payment_id:
                    looked = True
                    await self._news(payment, source, partial(self.look, payment, urgency))
                elif unsent:
                    refunded.add(unsent[0].refund_id)
                    await self._refund(payment, unsent[0], urgency)
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

    async def look(
        self, payment: Payment, urgency: Urgency, sending: Sending | None = None
    ) -> ProviderSnapshot:
        """Ask the provider for a payment. Raises: ProviderError."""
        gateway = self._gateways.of(payment)
        return await gateway.retrieve(payment.provider_payment_id, urgency, sending)

    async def _expire(
        self, payment: Payment, urgency: Urgency, sending: Sending
    ) -> ProviderSnapshot:
        gateway = self._gateways.of(payment)
        return await gateway.expire(payment.provider_payment_id, urgency, sending)

    async def _news(
        self,
        payment: Payment,
        source: str,
        ask: Callable[[Sending], Awaitable[ProviderSnapshot]],
    ) -> None:
        """Apply what the provider answers: it takes care of every notice that came before.

        Before the question was sent, that is, which may have waited long for its turn.
        """
        covered: tuple[Row, ...] = ()

        def sending() -> None:
            nonlocal covered
            covered = self._inbox.waiting(payment.payment_id)

        snapshot = await ask(sending)
        await self.apply(payment.session_id, payment.payment_id, snapshot, source, covered)

    async def apply(
        self,
        session_id: str,
        payment_id: str,
        snapshot: ProviderSnapshot,
        source: str,
        covered: Sequence[Row] = (),
    ) -> bool:
        """Put what a provider said through the one reducer, and notices away in the same commit.

        Answers whether it was anything new.
        """
        result = await self._records.change(
            session_id,
            payment_id,
            lambda session, payment, now_ns: settlement.apply_snapshot(
                session, payment, snapshot, source, now_ns
            ),
            rows=processed(covered),
        )
        await self._inbox.put_away(covered, stored=bool(result.event))
        if result.event:
            await self._supersede(Session.FromString(result.body))
        return bool(result.event)

    async def _create(self, payment: Payment, urgency: Urgency) -> None:
        """Send the stored parameters under the stored key, and record what came of it."""
        request = payment.request
        age_ns = self._engine.clock.now_ns() - request.first_sent_at.ToNanoseconds()
        known_lost = payment.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
        snapshot: ProviderSnapshot | None = None
        try:
            if known_lost or age_ns >= KEY_LIFETIME_NS:
                snapshot = await self._gateways.of(payment).find(payment, urgency)
            if snapshot is None and age_ns >= KEY_LIFETIME_NS:
                snapshot = _failed("never reached the provider")
            if snapshot is None:
                snapshot = await self._send(payment, urgency)
        except Rejected as error:
            snapshot = _failed(str(error))
        except OutcomeUnknown as error:
            unknown = ProviderSnapshot(ProviderStatus.UNKNOWN)
            await self.apply(payment.session_id, payment.payment_id, unknown, "create")
            if isinstance(error, AnsweredWithFault):
                snapshot = await self._after_faults(payment, urgency)
            if snapshot is None:
                raise
        await self.apply(payment.session_id, payment.payment_id, snapshot, "create")

    async def _send(self, payment: Payment, urgency: Urgency) -> ProviderSnapshot:
        """Send the request until it is answered, the same bytes under the same key each time.

        Raises: Rejected; else the worst that happened, since one lost answer leaves it open.
        """
        settings, request = self._engine.settings, payment.request
        gateway = self._gateways.of(payment)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settings.payment_create_timeout_s
        worst: ProviderError | None = None
        for delay_s in (*settings.payment_create_delays_s, None):
            try:
                return await gateway.create(request.parameters, request.key, urgency)
            except Rejected:
                raise
            except ProviderError as error:
                worst = error if _is_worse(error, worst) else worst
                if isinstance(error, AnsweredWithFault):
                    self._faults[payment.payment_id] = self._faults.get(payment.payment_id, 0) + 1
                if isinstance(error, RateLimited) and delay_s is not None:
                    delay_s = max(delay_s, error.retry_after_s)  # noqa: PLW2901  # the provider's word
                if (
                    delay_s is None
                    or isinstance(error, Unauthorized)
                    or deadline - loop.time() <= delay_s
                ):
                    break
            await asyncio.sleep(delay_s)
        assert worst is not None
        raise worst

    async def _after_faults(self, payment: Payment, urgency: Urgency) -> ProviderSnapshot | None:
        """Decide what answered breakdowns mean: what was made after all, or a new attempt.

        Providers take one request of a key at a time: after an answer none is under way any more,
        so that what is not found then was never made.
        """
        name = payment.payment_id
        if self._faults.get(name, 0) < FAULTS_BEFORE_NEW_KEY:
            return None
        found = await self._gateways.of(payment).find(payment, urgency)
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

    async def _refund(self, payment: Payment, refund: Refund, urgency: Urgency) -> None:
        amount = refund.amount.minor_units
        try:
            news = await self._gateways.of(payment).refund(
                payment, refund.refund_id, amount, refund.key, urgency
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

    def _key_is_forgotten(self, refund: Refund) -> bool:
        age_ns = self._engine.clock.now_ns() - refund.created_at.ToNanoseconds()
        return age_ns >= KEY_LIFETIME_NS

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
                payments.flag_unknown,
            )


def is_to_be_expired(payment: Payment) -> bool:
    """Whether the provider has to be told that a link must not be paid any more."""
    return (
        payments.is_withdrawn(payment)
        and bool(payment.provider_payment_id)
        and not attention.has(payment, ATTENTION_AMOUNT_MISMATCH)
        and payment.status in (PAYMENT_STATUS_OPEN, PAYMENT_STATUS_OUTCOME_UNKNOWN)
    )


def needs_work(payment: Payment) -> bool:
    """Whether the provider has to be told something, not merely asked."""
    if payments.is_unborn(payment) and payment.status != PAYMENT_STATUS_OUTCOME_UNKNOWN:
        return True
    return is_to_be_expired(payment) or bool(refunds.pending_refunds(payment))


def _is_worse(error: ProviderError, than: ProviderError | None) -> bool:
    """Whether an error leaves more open than another: a lost answer more than an answered fault."""

    def openness(each: ProviderError) -> int:
        return isinstance(each, OutcomeUnknown) + (type(each) is OutcomeUnknown)

    return than is None or openness(error) >= openness(than)


def _failed(reason: str) -> ProviderSnapshot:
    return ProviderSnapshot(ProviderStatus.FAILED, reason=reason)
