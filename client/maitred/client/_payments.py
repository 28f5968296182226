"""What asking for a payment answers."""

from __future__ import annotations

from typing import Any

from maitred.v1.common_pb2 import Money
from maitred.v1.payment_pb2 import CreatePaymentResponse, NextAction, PaymentOutcome
from maitred.v1.state_pb2 import Payment, PaymentStatus


class RequestedPayment:
    """A payment that was asked for, and what to do about it: show the link, wait, or call staff.

    Only `next_action` says whether there is something to show: `url` is empty unless the guest can
    pay by the link now. Whatever else a Payment has, this has too.
    """

    __slots__ = ("next_action", "outcome", "payment")

    def __init__(self, answer: CreatePaymentResponse) -> None:
        self.payment: Payment = answer.payment
        self.next_action: NextAction = answer.next_action
        self.outcome: PaymentOutcome.ValueType = answer.outcome

    @property
    def payment_id(self) -> str:
        """Its id."""
        return self.payment.payment_id

    @property
    def amount(self) -> Money:
        """What it asks for."""
        return self.payment.amount

    @property
    def status(self) -> PaymentStatus.ValueType:
        """Where it stands."""
        return self.payment.status

    @property
    def url(self) -> str:
        """The link to show the guest; empty where `next_action` is not PAY."""
        return self.next_action.url

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:
            raise AttributeError(name)  # while it is being copied or unpickled
        return getattr(self.payment, name)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same payment, as it stands."""
        return self.payment == (other.payment if isinstance(other, RequestedPayment) else other)

    __hash__ = None  # type: ignore[assignment]  # as messages, which change

    def __repr__(self) -> str:
        return f"RequestedPayment({self.next_action.text!r}, payment_id={self.payment_id!r})"
