"""What became of a payment, and what to do next: the answers that UIs and agents switch on."""

from __future__ import annotations

from typing import NamedTuple

from maitred.server.domain import attention
from maitred.server.domain.money import format_money, money
from maitred.server.domain.tab import UNSETTLED
from maitred.v1.common_pb2 import Money
from maitred.v1.payment_pb2 import (
    NEXT_ACTION_KIND_CALL_STAFF,
    NEXT_ACTION_KIND_CREATE_PAYMENT,
    NEXT_ACTION_KIND_NONE,
    NEXT_ACTION_KIND_PAY,
    NEXT_ACTION_KIND_WAIT,
    PAYMENT_OUTCOME_DEAD,
    PAYMENT_OUTCOME_PAID,
    PAYMENT_OUTCOME_PENDING,
    PAYMENT_OUTCOME_SUPERSEDED,
    PAYMENT_OUTCOME_UNSPECIFIED,
    NextAction,
    PaymentOutcome,
)
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_OUTCOME_UNKNOWN,
    PAYMENT_METHOD_CREDIT,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    TAB_STATUS_COMPLETED,
    Payment,
    PaymentState,
    Session,
)

_SOON_S, _LATER_S, _SLOW_S = 2, 5, 60
"""When to look again: at what a provider answers at once, at what it must be asked for again and at
what a bank takes days for."""


_ENDS = frozenset({"payment_succeeded", "payment_failed", "payment_expired", "payment_canceled"})
"""Changes with which a payment comes to its end."""


class Rest(NamedTuple):
    """What is owed beyond a payment that is under way, in minor units."""

    tab: int
    tip: int
    credit: int
    """Credit that pays for it, beyond what that payment uses."""

    @property
    def amount(self) -> int:
        """What is to be paid of it."""
        return self.tab + self.tip - self.credit


def rest_beside(payment: Payment, tab: int, tip: int, credit: int) -> Rest:
    """Find what a payment under way leaves of a tab and its tip."""
    rest_tab = max(0, tab - payment.tab_amount.minor_units)
    rest_tip = max(0, tip - payment.tip_amount.minor_units)
    free = max(0, credit - payment.credit_applied.minor_units)
    return Rest(rest_tab, rest_tip, min(free, rest_tab + rest_tip))


def outcome_of(payment: Payment) -> PaymentOutcome.ValueType:
    """Tell what became of one payment."""
    if payment.status == PAYMENT_STATUS_SUCCEEDED:
        return PAYMENT_OUTCOME_PAID
    if payment.superseded and payment.status != PAYMENT_STATUS_PROCESSING:
        return PAYMENT_OUTCOME_SUPERSEDED
    return PAYMENT_OUTCOME_PENDING if payment.status in UNSETTLED else PAYMENT_OUTCOME_DEAD


def outcome_of_tab(payment: Payment | None, state: PaymentState) -> PaymentOutcome.ValueType:
    """Tell how the paying of a tab stands, by its newest payment.

    A payment from before something else was ordered has not paid for that.
    """
    if payment is None:
        return PAYMENT_OUTCOME_UNSPECIFIED
    outcome = outcome_of(payment)
    if outcome == PAYMENT_OUTCOME_PAID and state.status != TAB_STATUS_COMPLETED:
        return PAYMENT_OUTCOME_PENDING
    return outcome


def settles_tab(change: str, payment: Payment | None, session: Session) -> bool:
    """Whether who waits for a tab to be settled, in whatever way, need wait no longer.

    `change` is what led to the session as it is; empty for one that is merely looked at. A link
    that ended before says nothing of the one that is or will be open, and one that asked for
    another amount than is owed is followed by the next.
    """
    if session.payment.status == TAB_STATUS_COMPLETED:
        return True
    return (
        change in _ENDS
        and payment is not None
        and payment.payment_id == session.payment.payment_id
        and not payment.superseded
    )


def next_action(payment: Payment, state: PaymentState) -> NextAction:
    """Tell what whoever serves the guest is to do about a payment; `state` is the tab now."""
    if payment.status == PAYMENT_STATUS_SUCCEEDED:
        return _nothing(payment, state)
    if attention.has(payment, ATTENTION_AMOUNT_MISMATCH):
        return NextAction(
            kind=NEXT_ACTION_KIND_CALL_STAFF,
            amount=payment.received_amount,
            text=f"{_text(payment.received_amount)} arrived instead of {_text(payment.amount)}:"
            " staff must settle the payment with CompletePayment",
        )
    if payment.status not in UNSETTLED:
        return _again(state)
    if payment.status == PAYMENT_STATUS_PROCESSING:
        return _on_its_way(payment, state)
    if attention.has(payment, ATTENTION_OUTCOME_UNKNOWN):
        return NextAction(
            kind=NEXT_ACTION_KIND_CALL_STAFF,
            amount=payment.amount,
            text="what became of the payment could not be found out for long: staff must look into"
            " it with ReconcilePayment; take no other money meanwhile",
        )
    if payment.cancel_requested:
        return _wait(payment, _SOON_S, "the link is being withdrawn; ask again with CheckPayment")
    if payment.superseded:
        return _again(state)
    if payment.status == PAYMENT_STATUS_OPEN:
        return NextAction(
            kind=NEXT_ACTION_KIND_PAY,
            url=payment.url,
            amount=payment.amount,
            text=f"show the guest the link to pay {_text(payment.amount)}",
        )
    if payment.status == PAYMENT_STATUS_CREATING:
        return _wait(payment, _SOON_S, "the link is being made; call CreatePayment again")
    return _wait(
        payment,
        _LATER_S,
        "it is not known yet whether the link was made; the provider is asked again by itself."
        " Take no other money, and call CreatePayment again",
    )


def _nothing(payment: Payment, state: PaymentState) -> NextAction:
    way = "paid from credit" if payment.method == PAYMENT_METHOD_CREDIT else "paid"
    action = NextAction(kind=NEXT_ACTION_KIND_NONE, text=way)
    if state.total.minor_units and payment.payment_id == state.payment_id:
        action.amount.CopyFrom(state.total)
        action.text += f"; {_text(state.total)} is owed since"
    return action


def _again(state: PaymentState) -> NextAction:
    if not state.total.minor_units:
        return NextAction(kind=NEXT_ACTION_KIND_NONE, text="the link is dead and nothing is owed")
    return NextAction(
        kind=NEXT_ACTION_KIND_CREATE_PAYMENT,
        amount=state.total,
        text=f"the link is dead or asks for another amount: call CreatePayment for a link to pay"
        f" {_text(state.total)}",
    )


def _on_its_way(payment: Payment, state: PaymentState) -> NextAction:
    text = f"{_text(payment.amount)} is on its way, which may take days"
    rest = rest_beside(
        payment,
        state.tab_total.minor_units,
        state.tip_amount.minor_units,
        state.credit.minor_units,
    )
    if rest.amount > 0:
        owed = money(rest.amount, state.total.currency)
        text += (
            f"; {_text(owed)} is owed beside it: staff may take that now with CompletePayment and"
            " a method"
        )
        return _wait(payment, _SLOW_S, text, owed)
    return _wait(payment, _SLOW_S, text)


def _wait(payment: Payment, after_s: int, text: str, amount: Money | None = None) -> NextAction:
    action = NextAction(kind=NEXT_ACTION_KIND_WAIT, amount=amount or payment.amount, text=text)
    action.retry_after.seconds = after_s
    return action


def _text(amount: Money) -> str:
    return format_money(amount.minor_units, amount.currency)
