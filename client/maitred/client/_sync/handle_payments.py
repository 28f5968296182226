# generated: edit _async and run scripts/unasync.py
"""The payment part of a session handle."""

from __future__ import annotations

from typing import Unpack

from maitred.client._money import money, optional_money
from maitred.client._options import Mutation
from maitred.client._payments import RequestedPayment
from maitred.client._sync.handle_core import HandleCore
from maitred.client._sync.pages import Pager
from maitred.client._sync.watches import PaymentWatch
from maitred.v1.common_pb2 import Money
from maitred.v1.payment_pb2 import CheckPaymentResponse, GetPaymentStateResponse
from maitred.v1.state_pb2 import Payment, PaymentMethod, PaymentState, Refund


class HandlePayments(HandleCore):
    """Tip, payments and balance of one session."""

    def set_tip(
        self,
        percentage: int | None = None,
        *,
        amount: Money | int | None = None,
        clear: bool = False,
        toggle: bool = False,
        **options: Unpack[Mutation],
    ) -> PaymentState:
        """Set the tip to one of percentage, amount or nothing; `toggle` as a button does.

        Raises: InvalidTipPercentage, TabEmpty.
        """
        answer = self._client.set_tip(
            session_id=self.session_id,
            percentage=percentage,
            amount=optional_money(amount, self._currency()),
            clear=clear,
            toggle=toggle,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.state

    def get_payment_state(self) -> GetPaymentStateResponse:
        """Read balance, tab, tip and the newest payment."""
        return self._client.get_payment_state(session_id=self.session_id)

    def check_funds(self, amount: Money | int) -> bool:
        """Ask whether the balance covers an amount; it changes and promises nothing."""
        answer = self._client.check_funds(
            session_id=self.session_id, amount=money(amount, self._currency())
        )
        return answer.sufficient

    def adjust_balance(
        self, delta: Money | int, *, reason: str, **options: Unpack[Mutation]
    ) -> PaymentState:
        """Raise or lower the balance; staff only.

        Raises: InsufficientFunds, CurrencyMismatch.
        """
        answer = self._client.adjust_balance(
            session_id=self.session_id,
            delta=money(delta, self._currency()),
            reason=reason,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.session.payment

    def create_payment(self, **options: Unpack[Mutation]) -> RequestedPayment:
        """Ask for a link to pay with; an open payment of the same amount is returned again.

        Its `next_action` says what to do: show the link, wait, or call staff.

        Raises: NothingToPay, PreviousPaymentUnresolved, AmountOutOfRange.
        """
        answer = self._client.create_payment(session_id=self.session_id, **self._fenced(options))
        self._seen.see(answer.session)
        return RequestedPayment(answer)

    def check_payment(
        self, *, wait: float = 0.0, payment_id: str = "", require_settled: bool = False
    ) -> CheckPaymentResponse:
        """Ask the provider, and wait up to so many seconds (at most 30) for the payment to settle.

        Raises: PaymentNotFound, PaymentTimeout.
        """
        return self._client.check_payment(
            session_id=self.session_id,
            payment_id=payment_id,
            wait=wait,
            require_settled=require_settled,
        )

    def cancel_payment(
        self, *, payment_id: str = "", reason: str = "", **options: Unpack[Mutation]
    ) -> Payment:
        """Withdraw an open payment; if the guest was faster, it has succeeded.

        Raises: PaymentNotFound, PaymentSettled.
        """
        answer = self._client.cancel_payment(
            session_id=self.session_id,
            payment_id=payment_id,
            reason=reason,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.payment

    def complete_payment(
        self,
        *,
        payment_id: str = "",
        method: PaymentMethod.ValueType = PaymentMethod.PAYMENT_METHOD_UNSPECIFIED,
        reason: str = "",
        **options: Unpack[Mutation],
    ) -> Payment:
        """Settle what the provider confirms or, by staff with method and reason, what it can't.

        Raises: PaymentNotFound, PaymentNotConfirmed, PaymentSettled, NothingToPay, ReasonRequired.
        """
        answer = self._client.complete_payment(
            session_id=self.session_id,
            payment_id=payment_id,
            method=method,
            reason=reason,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.payment

    def refund_payment(
        self,
        payment_id: str,
        *,
        reason: str,
        amount: Money | int | None = None,
        **options: Unpack[Mutation],
    ) -> Refund:
        """Give money back, all that is left unless an amount is given; staff only.

        Raises: PaymentNotFound, RefundExceedsPaid, CurrencyMismatch.
        """
        answer = self._client.refund_payment(
            session_id=self.session_id,
            payment_id=payment_id,
            amount=optional_money(amount, self._currency()),
            reason=reason,
            **self._fenced(options),
        )
        self._seen.see(answer.session)
        return answer.refund

    def list_payments(self, *, page_size: int = 0) -> Pager[Payment]:
        """List the payments, newest first."""
        return self._client.list_payments(session_id=self.session_id, page_size=page_size)

    def watch_payment(
        self,
        *,
        payment_id: str = "",
        end_when_settled: bool = False,
        timeout: float | None = None,
    ) -> PaymentWatch:
        """Watch payment state and payment: the present ones first, then every change."""
        return self._client.watch_payment(
            session_id=self.session_id,
            payment_id=payment_id,
            end_when_settled=end_when_settled,
            timeout=timeout,
        )
