"""The balance: what may still be ordered."""

from __future__ import annotations

from maitred.server.domain import text
from maitred.server.domain.money import format_money
from maitred.server.domain.tab import Tab
from maitred.server.errors import InsufficientFunds, InvalidField, Violation
from maitred.v1.event_pb2 import BalanceAdjusted, Event
from maitred.v1.payment_pb2 import AdjustBalanceRequest, CheckFundsRequest, CheckFundsResponse
from maitred.v1.state_pb2 import Session


def adjust(session: Session, request: AdjustBalanceRequest) -> Event | None:
    """Change the balance by hand, never below zero; None where the change is zero.

    Raises: ReasonRequired, CurrencyMismatch, InsufficientFunds, AmountOutOfRange,
    CardNumberRefused.
    """
    reason = text.why(request.reason, "the balance is adjusted")
    tab = Tab(session)
    delta = tab.require(request.delta, "delta")
    if delta == 0:
        return None
    if tab.balance + delta < 0:
        raise InsufficientFunds(
            f"the balance of {format_money(tab.balance, tab.currency)} cannot be lowered by"
            f" {format_money(-delta, tab.currency)}",
            metadata={
                "balance": str(tab.balance),
                "price": str(-delta),
                "currency": tab.currency,
            },
        )
    tab.adjust(delta)
    change = BalanceAdjusted(
        delta=request.delta, reason=reason, payment=tab.state(), ledger=tab.ledger
    )
    return Event(balance_adjusted=change)


def check_funds(session: Session, request: CheckFundsRequest) -> CheckFundsResponse:
    """Compare an amount with the balance; exactly enough is enough.

    Raises: CurrencyMismatch, InvalidField.
    """
    tab = Tab(session)
    amount = tab.require(request.amount, "amount")
    if amount < 0:
        raise InvalidField(
            "amount: must not be negative",
            violations=[Violation("amount.minor_units", "funds.amount", "must not be negative")],
        )
    return CheckFundsResponse(sufficient=tab.balance >= amount, balance=session.payment.balance)
