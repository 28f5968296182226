"""Payments: what is owed, and getting it paid once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from maitred.client._async.calls import AsyncCalls
from maitred.client._async.pages import AsyncPager
from maitred.client._async.watches import AsyncPaymentWatch, AsyncResumingStream
from maitred.client._cursors import PaymentCursor
from maitred.client._money import money, optional_money
from maitred.client._options import Mutation
from maitred.client._values import duration
from maitred.v1.common_pb2 import Money
from maitred.v1.payment_pb2 import (
    AdjustBalanceRequest,
    AdjustBalanceResponse,
    CancelPaymentRequest,
    CancelPaymentResponse,
    CheckFundsRequest,
    CheckFundsResponse,
    CheckPaymentRequest,
    CheckPaymentResponse,
    CompletePaymentRequest,
    CompletePaymentResponse,
    CreatePaymentRequest,
    CreatePaymentResponse,
    GetPaymentRequest,
    GetPaymentResponse,
    GetPaymentStateRequest,
    GetPaymentStateResponse,
    ListPaymentsRequest,
    ListPaymentsResponse,
    ListUnmatchedPaymentsRequest,
    ListUnmatchedPaymentsResponse,
    ReconcilePaymentRequest,
    ReconcilePaymentResponse,
    RefundPaymentRequest,
    RefundPaymentResponse,
    SetTipRequest,
    SetTipResponse,
    UnmatchedPayment,
    WatchPaymentRequest,
    WatchPaymentResponse,
)
from maitred.v1.state_pb2 import Payment, PaymentMethod, PaymentStatus

_PROVIDER_S = 30.0
"""What a call that asks the provider may take beyond another call."""


class AsyncPayments:
    """The methods of the PaymentService."""

    _calls: AsyncCalls

    async def get_payment_state(self, *, session_id: str) -> GetPaymentStateResponse:
        """Read balance, tab, tip and the newest payment."""
        request = GetPaymentStateRequest(session_id=session_id)
        return await self._calls.call(request, GetPaymentStateResponse)

    async def check_funds(self, *, session_id: str, amount: Money | int) -> CheckFundsResponse:
        """Ask whether the balance covers an amount; it changes and promises nothing.

        Raises: CurrencyMismatch.
        """
        request = CheckFundsRequest(
            session_id=session_id, amount=money(amount, self._calls.options.currency)
        )
        return await self._calls.call(request, CheckFundsResponse)

    async def adjust_balance(
        self, *, session_id: str, delta: Money | int, reason: str, **options: Unpack[Mutation]
    ) -> AdjustBalanceResponse:
        """Raise or lower the balance; staff only.

        Raises: InsufficientFunds, CurrencyMismatch.
        """
        request = AdjustBalanceRequest(
            session_id=session_id,
            delta=money(delta, self._calls.options.currency),
            reason=reason,
            **options,
        )
        return await self._calls.call(request, AdjustBalanceResponse)

    async def set_tip(
        self,
        *,
        session_id: str,
        percentage: int | None = None,
        amount: Money | int | None = None,
        clear: bool = False,
        toggle: bool = False,
        **options: Unpack[Mutation],
    ) -> SetTipResponse:
        """Set the tip to one of percentage, amount or nothing.

        With `toggle` the same percentage again takes the tip away, as a button does.

        Raises: InvalidTipPercentage, TabEmpty.
        """
        if (percentage is not None) + (amount is not None) + clear != 1:
            raise ValueError("set_tip takes one of percentage, amount and clear")
        request = SetTipRequest(
            session_id=session_id,
            amount=optional_money(amount, self._calls.options.currency),
            toggle=toggle,
            **options,
        )
        if percentage is not None:
            request.percentage = percentage
        if clear:
            request.clear = True
        return await self._calls.call(request, SetTipResponse)

    async def create_payment(
        self, *, session_id: str, **options: Unpack[Mutation]
    ) -> CreatePaymentResponse:
        """Ask for a link to pay with; an open payment of the same amount is returned again.

        Raises: NothingToPay, PreviousPaymentUnresolved, AmountOutOfRange.
        """
        request = CreatePaymentRequest(session_id=session_id, **options)
        return await self._calls.call(request, CreatePaymentResponse, wait=_PROVIDER_S)

    async def get_payment(self, *, session_id: str, payment_id: str = "") -> Payment:
        """Read a payment; the newest one unless named.

        Raises: PaymentNotFound.
        """
        request = GetPaymentRequest(session_id=session_id, payment_id=payment_id)
        return (await self._calls.call(request, GetPaymentResponse)).payment

    async def check_payment(
        self,
        *,
        session_id: str,
        payment_id: str = "",
        wait: float = 0.0,
        require_settled: bool = False,
    ) -> CheckPaymentResponse:
        """Ask the provider, and wait up to so many seconds (at most 30) for the payment to settle.

        "Still open" is an answer, with `wait_expired`, unless `require_settled`.

        Raises: PaymentNotFound, PaymentTimeout.
        """
        request = CheckPaymentRequest(
            session_id=session_id,
            payment_id=payment_id,
            wait=duration(wait) if wait else None,
            require_settled=require_settled,
        )
        return await self._calls.call(request, CheckPaymentResponse, wait=wait)

    async def cancel_payment(
        self,
        *,
        session_id: str,
        payment_id: str = "",
        reason: str = "",
        **options: Unpack[Mutation],
    ) -> CancelPaymentResponse:
        """Withdraw an open payment; if the guest was faster, it has succeeded.

        Raises: PaymentNotFound, PaymentSettled.
        """
        request = CancelPaymentRequest(
            session_id=session_id, payment_id=payment_id, reason=reason, **options
        )
        return await self._calls.call(request, CancelPaymentResponse, wait=_PROVIDER_S)

    async def complete_payment(
        self,
        *,
        session_id: str,
        payment_id: str = "",
        method: PaymentMethod.ValueType = PaymentMethod.PAYMENT_METHOD_UNSPECIFIED,
        reason: str = "",
        **options: Unpack[Mutation],
    ) -> CompletePaymentResponse:
        """Settle what the provider confirms or, by staff with method and reason, what it can't.

        Raises: PaymentNotFound, PaymentNotConfirmed, PaymentSettled, NothingToPay, ReasonRequired.
        """
        request = CompletePaymentRequest(
            session_id=session_id,
            payment_id=payment_id,
            method=method,
            reason=reason,
            **options,
        )
        return await self._calls.call(request, CompletePaymentResponse, wait=_PROVIDER_S)

    async def refund_payment(
        self,
        *,
        session_id: str,
        payment_id: str,
        reason: str,
        amount: Money | int | None = None,
        method: PaymentMethod.ValueType = PaymentMethod.PAYMENT_METHOD_UNSPECIFIED,
        **options: Unpack[Mutation],
    ) -> RefundPaymentResponse:
        """Give money back, all that is left unless an amount is given; staff only.

        It goes back by the way that it came; `method` names one of several.

        Raises: PaymentNotFound, RefundExceedsPaid, CurrencyMismatch.
        """
        request = RefundPaymentRequest(
            session_id=session_id,
            payment_id=payment_id,
            amount=optional_money(amount, self._calls.options.currency),
            method=method,
            reason=reason,
            **options,
        )
        return await self._calls.call(request, RefundPaymentResponse, wait=_PROVIDER_S)

    def list_payments(
        self,
        *,
        session_id: str = "",
        statuses: Sequence[PaymentStatus.ValueType] = (),
        needs_reconciliation: bool = False,
        page_size: int = 0,
        page_token: str = "",
    ) -> AsyncPager[Payment]:
        """List payments, newest first; every filter that is given must fit."""

        async def fetch(token: str) -> tuple[Sequence[Payment], str]:
            request = ListPaymentsRequest(
                session_id=session_id,
                statuses=statuses,
                needs_reconciliation=needs_reconciliation,
                page_size=page_size,
                page_token=token,
            )
            answer = await self._calls.call(request, ListPaymentsResponse)
            return answer.payments, answer.next_page_token

        return AsyncPager(fetch, page_token)

    def list_unmatched_payments(
        self, *, page_size: int = 0, page_token: str = ""
    ) -> AsyncPager[UnmatchedPayment]:
        """List payments at a provider that no session can record, newest first; staff only."""

        async def fetch(token: str) -> tuple[Sequence[UnmatchedPayment], str]:
            request = ListUnmatchedPaymentsRequest(page_size=page_size, page_token=token)
            answer = await self._calls.call(request, ListUnmatchedPaymentsResponse)
            return answer.unmatched_payments, answer.next_page_token

        return AsyncPager(fetch, page_token)

    async def reconcile_payment(
        self, *, session_id: str, payment_id: str, reason: str, **options: Unpack[Mutation]
    ) -> ReconcilePaymentResponse:
        """Ask the provider what became of a payment, and record it; staff only.

        Raises: PaymentNotFound.
        """
        request = ReconcilePaymentRequest(
            session_id=session_id, payment_id=payment_id, reason=reason, **options
        )
        return await self._calls.call(request, ReconcilePaymentResponse, wait=_PROVIDER_S)

    def watch_payment(
        self,
        *,
        session_id: str,
        payment_id: str = "",
        after_version: int | None = None,
        resume_token: bytes = b"",
        end_when_settled: bool = False,
        timeout: float | None = None,
    ) -> AsyncPaymentWatch:
        """Watch payment state and payment: the present ones first, then every change.

        `timeout` ends the watch with DEADLINE_EXCEEDED.
        """
        request = WatchPaymentRequest(
            session_id=session_id,
            payment_id=payment_id,
            after_version=after_version,
            resume_token=resume_token,
            end_when_settled=end_when_settled,
        )
        source = AsyncResumingStream(self._calls, request, WatchPaymentResponse, timeout)
        return AsyncPaymentWatch(source, PaymentCursor(after_version))
