"""Payment commands: the intent is durable before the provider is called, with no lock held.

Whoever asks commits what is wanted and then waits for the payment's job, which finds out by itself
what there is to do. A repeated or concurrent request joins that job.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from maitred.server.domain import changes, payments, refunds, settlement
from maitred.server.domain.snapshots import ProviderSnapshot, Terms
from maitred.server.domain.tab import Tab, asks_for
from maitred.server.engine.call import Call
from maitred.server.engine.command import Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.errors import (
    MaitredError,
    PaymentFailed,
    PaymentNotConfirmed,
    PaymentOpen,
    PreviousPaymentUnresolved,
    RateLimited,
    StripeUnavailable,
)
from maitred.server.kinds.session import session_ref
from maitred.server.payments import provider as vocabulary
from maitred.server.payments.gateway import Gateways
from maitred.server.payments.jobs import Jobs, Trouble
from maitred.server.payments.preconditions import carried_over
from maitred.server.payments.provider import PaymentProvider, ProviderError
from maitred.server.payments.records import Decide, Records
from maitred.server.payments.throttle import Priority, Urgency
from maitred.server.payments.worker import Worker, needs_work
from maitred.v1 import payment_pb2 as pb
from maitred.v1.common_pb2 import ROLE_STAFF
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    PAYMENT_METHOD_UNSPECIFIED,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    PaymentState,
    Refund,
    Session,
)

RESOLVE_ATTEMPTS = 3
"""How often a link before the new one is resolved; each time another one must have come between."""


class Outcome(NamedTuple):
    """What a request led to: the answer of the engine; the payment and the tab as they are now."""

    result: Result
    payment: Payment
    state: PaymentState


class PaymentCommands:
    """The commands of payments that take more than one commit."""

    def __init__(
        self,
        engine: Engine,
        gateways: Gateways,
        records: Records,
        worker: Worker,
        jobs: Jobs,
    ) -> None:
        self._engine = engine
        self._gateways = gateways
        self._records = records
        self._worker = worker
        self._jobs = jobs

    async def create(self, request: pb.CreatePaymentRequest, call: Call) -> Outcome:
        """Ask for what is owed, or join the payment that asks for it already.

        Raises: NothingToPay, AmountOutOfRange, PaymentFailed, PreviousPaymentUnresolved,
        StripeUnavailable, RateLimited.
        """
        result = await self._request_payment(request, call)
        payment_id = _payment_id(result)
        trouble = None
        payment = (await self._records.load(request.session_id, payment_id))[1]
        if payments.is_unborn(payment):
            trouble = await self._jobs.wait(request.session_id, payment_id, "create", ask=False)
        outcome = await self._outcome(request.session_id, result, payment_id)
        payment = outcome.payment
        if payment.status == PAYMENT_STATUS_FAILED and not payment.provider_payment_id:
            raise PaymentFailed(
                "the provider refused the payment", metadata={"payment_id": payment_id}
            )
        if payment.status == PAYMENT_STATUS_CREATING and trouble is not None:
            raise _as_answer(trouble, payment_id)
        return outcome

    async def cancel(self, request: pb.CancelPaymentRequest, call: Call) -> Outcome:
        """Withdraw an open payment: the provider has the last word."""
        result = await self._records.change(
            request.session_id,
            request.payment_id,
            lambda session, payment, _now: payments.request_cancel(
                session, payment, request.reason
            ),
            call,
            request,
        )
        payment_id = _event_payment_id(result) or request.payment_id or _payment_id(result)
        await self._settle_down(request.session_id, payment_id, "create")
        return await self._outcome(request.session_id, result, payment_id)

    async def complete(self, request: pb.CompletePaymentRequest, call: Call) -> Outcome:
        """Settle what the provider confirms or, with a method, what staff has taken.

        Raises: PaymentNotConfirmed, PaymentSettled, ReasonRequired, PermissionDenied,
        PreviousPaymentUnresolved, StripeUnavailable.
        """
        if request.method != PAYMENT_METHOD_UNSPECIFIED:
            return await self._complete_by_hand(request, call)

        def decide(snapshot: ProviderSnapshot | None) -> Decide:
            return lambda session, payment, now_ns: payments.confirm(
                session, payment, snapshot, now_ns
            )

        return await self._with_news(request, call, decide)

    async def refund(
        self, request: pb.RefundPaymentRequest, call: Call
    ) -> tuple[Result, Payment, list[Refund]]:
        """Record refunds, then have them made. Raises: PaymentNotConfirmed, RefundExceedsPaid."""
        refund_id = self._engine.ids.new_id()
        amount = request.amount if request.HasField("amount") else None
        result = await self._records.change(
            request.session_id,
            request.payment_id,
            lambda session, payment, now_ns: refunds.refund(
                session, payment, now_ns, refund_id, amount, request.reason, request.method
            ),
            call,
            request,
        )
        await self._settle_down(request.session_id, request.payment_id, "staff")
        outcome = await self._outcome(request.session_id, result, request.payment_id)
        return outcome.result, outcome.payment, _refunds_of(result, outcome.payment)

    async def reconcile(self, request: pb.ReconcilePaymentRequest, call: Call) -> Outcome:
        """Ask the provider on behalf of staff, and record why. Raises: StripeUnavailable."""

        def decide(snapshot: ProviderSnapshot | None) -> Decide:
            def reconcile(session: Session, payment: Payment, now_ns: int) -> Event:
                if snapshot is None and payment.provider_payment_id:
                    raise PaymentNotConfirmed(
                        "the provider was not asked", metadata={"payment_id": payment.payment_id}
                    )
                return payments.reconcile(session, payment, snapshot, request.reason, now_ns)

            return reconcile

        return await self._with_news(request, call, decide)

    # --- parts ---------------------------------------------------------------------------------

    async def _request_payment(self, request: pb.CreatePaymentRequest, call: Call) -> Result:
        payment_id = self._engine.ids.new_id()
        attempts = RESOLVE_ATTEMPTS
        while True:
            gateway, refusal = await self._gateways.for_new_payments()
            decide = partial(self._request, payment_id, gateway.provider, refusal)
            command = Command(
                session_ref(request.session_id),
                decide,
                request,
                about=lambda session: session.latest_payment.payment_id,
            )
            try:
                return await self._engine.execute(command, call)
            except PreviousPaymentUnresolved as error:
                attempts -= 1
                previous = error.metadata["payment_id"]
                trouble = await self._settle_down(request.session_id, previous, "sweep")
                _, payment = await self._records.load(request.session_id, previous)
                if trouble is not None or settlement.is_unsettled(payment) or not attempts:
                    raise
                request = await carried_over(self._engine, request, previous)

    def _request(
        self,
        payment_id: str,
        provider: PaymentProvider,
        refusal: MaitredError | None,
        session: Session,
        now_ns: int,
    ) -> Event | None:
        terms = self._terms(session, provider, refusal)
        return payments.request_payment(session, now_ns, payment_id, terms)

    def _terms(
        self, session: Session, provider: PaymentProvider, refusal: MaitredError | None
    ) -> Terms:
        limits = provider.limits(session.payment.balance.currency)
        wanted_s = self._engine.settings.payment_expiry_seconds
        return Terms(
            provider=provider.name,
            is_simulated=provider.is_simulated,
            minimum=limits.minimum,
            maximum=limits.maximum,
            step=limits.step,
            lifetime_s=min(max(wanted_s, limits.lifetime_min_s), limits.lifetime_max_s),
            parameters=provider.parameters,
            refusal=refusal,
        )

    async def _complete_by_hand(self, request: pb.CompletePaymentRequest, call: Call) -> Outcome:
        call.require(ROLE_STAFF, "completing a payment by hand")
        new_id, target = self._engine.ids.new_id(), request.payment_id
        try:
            result = await self._settle_by_hand(request, call, target, new_id)
        except PaymentOpen as error:
            previous = error.metadata["payment_id"]
            _, open_payment = await self._records.load(request.session_id, previous)
            if open_payment.status == PAYMENT_STATUS_PROCESSING:
                raise
            target = await self._withdraw(request, call, previous)
            request = await carried_over(self._engine, request, previous)
            result = await self._settle_by_hand(request, call, target, new_id)
        payment_id = _event_payment_id(result) or target or _payment_id(result)
        return await self._outcome(request.session_id, result, payment_id)

    async def _settle_by_hand(
        self, request: pb.CompletePaymentRequest, call: Call, target: str, new_id: str
    ) -> Result:
        if target:
            return await self._records.change(
                request.session_id,
                target,
                lambda session, payment, now_ns: payments.complete_by_hand(
                    session, payment, now_ns, new_id, request.method, request.reason
                ),
                call,
                request,
            )
        command = Command(
            session_ref(request.session_id),
            lambda session, now_ns: payments.complete_by_hand(
                session, None, now_ns, new_id, request.method, request.reason
            ),
            request,
            ended=True,
        )
        return await self._engine.execute(command, call)

    async def _withdraw(
        self, request: pb.CompletePaymentRequest, call: Call, payment_id: str
    ) -> str:
        """Have a link made unusable; answers the payment to complete, empty for a new one.

        The link is marked superseded: what staff takes stands in its place.
        """
        await self._records.change(
            request.session_id,
            payment_id,
            lambda session, payment, _now: payments.request_cancel(
                session, payment, request.reason, by_hand=True
            ),
            call,
        )
        await self._settle_down(request.session_id, payment_id, "staff")
        session, payment = await self._records.load(request.session_id, payment_id)
        if payment.status == PAYMENT_STATUS_PROCESSING and not request.payment_id:
            # The guest was faster, by a slow method: what that does not cover can be settled.
            return ""
        if settlement.is_unsettled(payment):
            raise PreviousPaymentUnresolved(
                "the link is not known to be dead yet; take no other money and try again",
                metadata={"payment_id": payment_id},
                retry_after_s=2,
            )
        # Cash settles the payment that the link was for, unless something else is owed by now.
        is_paid = payment.status == PAYMENT_STATUS_SUCCEEDED
        same = is_paid or asks_for(payment, Tab(session))
        return payment_id if same else request.payment_id

    async def _with_news(
        self,
        request: pb.CompletePaymentRequest | pb.ReconcilePaymentRequest,
        call: Call,
        decide: Callable[[ProviderSnapshot | None], Decide],
    ) -> Outcome:
        """Decide without the provider first, which answers retries, and with it where need be."""
        session_id, target = request.session_id, request.payment_id
        try:
            result = await self._records.change(session_id, target, decide(None), call, request)
        except PaymentNotConfirmed as error:
            target = error.metadata["payment_id"]
            _, payment = await self._records.load(session_id, target)
            if payments.is_unborn(payment):
                await self._settle_down(session_id, target, "check")
                request = await carried_over(self._engine, request, target)
                _, payment = await self._records.load(session_id, target)
            snapshot = await self._look(payment)
            result = await self._records.change(session_id, target, decide(snapshot), call, request)
        payment_id = _event_payment_id(result) or target or _payment_id(result)
        return await self._outcome(session_id, result, payment_id)

    async def _look(self, payment: Payment) -> ProviderSnapshot | None:
        if not payment.provider_payment_id:
            return None
        try:
            return await self._worker.look(payment, Urgency(Priority.GUEST))
        except ProviderError as error:
            raise _as_answer(error, payment.payment_id) from error

    async def _settle_down(self, session_id: str, payment_id: str, source: str) -> Trouble | None:
        """Have the provider asked about a payment that is not at its end."""
        _, payment = await self._records.load(session_id, payment_id)
        if not settlement.is_unsettled(payment) and not needs_work(payment):
            return None
        return await self._jobs.wait(session_id, payment_id, source, ask=True)

    async def _outcome(self, session_id: str, result: Result, payment_id: str) -> Outcome:
        snapshot = await self._engine.session(session_id)
        session, payment = await self._records.load(session_id, payment_id)
        result = result._replace(version=snapshot.version, body=snapshot.body)
        return Outcome(result, payment, session.payment)


def _event_payment_id(result: Result) -> str:
    event = result.parsed_event()
    if event is None:
        return ""
    payment = changes.changed_payment(event.WhichOneof("change") or "", event)
    return event.request_recorded.payment_id if payment is None else payment.payment_id


def _refunds_of(result: Result, payment: Payment) -> list[Refund]:
    """The refunds that the event of a request recorded, as they are now."""
    event = result.parsed_event()
    if event is None or not event.payment_refunded.payment.refunds:
        return []
    made = event.payment_refunded.payment.refunds[-1].refund_id.partition(".")[0]
    return [each for each in payment.refunds if each.refund_id.partition(".")[0] == made]


def _payment_id(result: Result) -> str:
    """The payment of the event or, where nothing was recorded, the newest one."""
    return _event_payment_id(result) or Session.FromString(result.body).latest_payment.payment_id


def _as_answer(trouble: Trouble, payment_id: str) -> Exception:
    """Say to a caller what kept the provider from doing it; the details are for the log."""
    match trouble:
        case vocabulary.RateLimited():
            return RateLimited(
                "too many requests to the payment provider",
                metadata={"payment_id": payment_id},
                retry_after_s=trouble.retry_after_s,
            )
        case ProviderError():
            return StripeUnavailable(
                "the payment provider does not answer; the same request tries again",
                metadata={"payment_id": payment_id},
                retry_after_s=2,
            )
        case _:
            return trouble
