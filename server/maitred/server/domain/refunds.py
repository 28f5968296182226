"""Refunds by staff: money goes back the way it came, and never more than came that way."""

from __future__ import annotations

from maitred.server.domain import attention, receipts, returns, text
from maitred.server.domain.money import format_money, money, require_currency, step_of
from maitred.server.domain.settlement import changed, copy, timestamp
from maitred.server.domain.tab import Tab
from maitred.server.errors import InvalidField, PaymentNotConfirmed, RefundExceedsPaid, Violation
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    ATTENTION_OVERPAID,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_METHOD_UNSPECIFIED,
    PAYMENT_STATUS_SUCCEEDED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    Payment,
    PaymentMethod,
    Refund,
    Session,
)


def refund(
    session: Session,
    payment: Payment,
    now_ns: int,
    refund_id: str,
    amount: Money | None,
    reason: str,
    method: PaymentMethod.ValueType = PAYMENT_METHOD_UNSPECIFIED,
) -> Event:
    """Record refunds before the provider is called; they count as spent at once.

    One for each way that the money came by, the provider's money first; with a method, of that way
    alone. Without an amount, all that is left. Raises: ReasonRequired, PaymentNotConfirmed,
    CurrencyMismatch, RefundExceedsPaid, InvalidField.
    """
    reason = text.why(reason, "the money is refunded")
    if payment.status != PAYMENT_STATUS_SUCCEEDED:
        raise PaymentNotConfirmed(
            "only received money can be refunded", metadata={"payment_id": payment.payment_id}
        )
    tab = Tab(session)
    after = copy(payment)
    if amount is not None and all(
        each.amount.currency != amount.currency for each in after.receipts
    ):
        require_currency(amount, tab.currency, "amount")
    left = receipts.refundable(after, method, "" if amount is None else amount.currency)
    most = sum(share.minor_units for share in left)
    wanted = most if amount is None else amount.minor_units
    if not 0 < wanted <= most:
        raise _exceeds(after, wanted, most, method, tab.currency)
    for at, share in enumerate(receipts.share_out(wanted, left), start=1):
        name = refund_id if at == 1 else f"{refund_id}.{at}"
        by_provider = share.method == PAYMENT_METHOD_PROVIDER
        if by_provider:
            _require_step(share)
        record = Refund(
            refund_id=name,
            amount=money(share.minor_units, share.currency),
            status=REFUND_STATUS_PENDING if by_provider else REFUND_STATUS_SUCCEEDED,
            reason=reason,
            created_at=timestamp(now_ns),
            key=f"{payment.payment_id}:refund:{name}" if by_provider else "",
            method=share.method,
        )
        here = payment.reset_count == session.reset_count or bool(
            payment.excess_amount.minor_units or attention.has(payment, ATTENTION_OVERPAID)
        )
        returns.record_refund(tab, after, record, takes_credit=here)
    return changed(session, tab, payment, after, "staff")


def pending_refunds(payment: Payment) -> list[Refund]:
    """Refunds that the provider has still to be asked for, or about."""
    return [
        refund
        for refund in payment.refunds
        if refund.status == REFUND_STATUS_PENDING and refund.key
    ]


def _require_step(share: receipts.Share) -> None:
    step = step_of(share.currency)
    if share.minor_units % step:
        description = f"must be a multiple of {format_money(step, share.currency)}"
        raise InvalidField(
            f"amount: {description}",
            violations=[Violation("amount.minor_units", "refund.step", description)],
        )


def _exceeds(
    payment: Payment,
    wanted: int,
    most: int,
    method: PaymentMethod.ValueType,
    currency: str,
) -> RefundExceedsPaid:
    """Say what can be given back, and by which ways it came."""
    ways = {
        PaymentMethod.Name(share.method).removeprefix("PAYMENT_METHOD_"): share
        for share in receipts.refundable(payment, PAYMENT_METHOD_UNSPECIFIED, "")
    }
    of_way = PaymentMethod.Name(method).removeprefix("PAYMENT_METHOD_").lower() if method else ""
    return RefundExceedsPaid(
        f"{format_money(wanted, currency)} cannot be given back: "
        f"{format_money(most, currency)} is left of what came{of_way and f' by {of_way}'}",
        metadata={
            "refundable": str(most),
            "currency": currency,
            "ways": ",".join(f"{name}={share.minor_units}" for name, share in ways.items()),
        },
    )
