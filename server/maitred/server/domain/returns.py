"""Money that goes back: refunds and disputes, as recorded and as reported by providers."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain import attention, receipts
from maitred.server.domain.money import clamped, money
from maitred.server.domain.snapshots import (
    DISPUTE_STATUSES,
    REFUND_STATUSES,
    ProviderDispute,
    ProviderRefund,
)
from maitred.server.domain.tab import Tab
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    DISPUTE_STATUS_LOST,
    DISPUTE_STATUS_OPEN,
    DISPUTE_STATUS_WON,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_SUCCEEDED,
    REFUND_STATUS_FAILED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    Dispute,
    DisputeStatus,
    Payment,
    Refund,
    RefundStatus,
)

_REFUND_RANK: dict[RefundStatus.ValueType, int] = {
    REFUND_STATUS_PENDING: 0,
    REFUND_STATUS_SUCCEEDED: 1,
    # A refund may still fail after it went through: the bank sends it back.
    REFUND_STATUS_FAILED: 2,
}

_DISPUTE_RANK: dict[DisputeStatus.ValueType, int] = {
    DISPUTE_STATUS_OPEN: 0,
    DISPUTE_STATUS_LOST: 1,
    # Banks do give money back after all; they do not take it a second time.
    DISPUTE_STATUS_WON: 2,
}


def record_refund(tab: Tab, payment: Payment, refund: Refund, *, takes_credit: bool) -> None:
    """Append a refund that counts as spent; what stands as credit is given back first."""
    if refund.amount.currency == tab.currency:
        taken = tab.give_back(refund.amount.minor_units, takes_credit=takes_credit)
        if taken:
            refund.credit_taken.CopyFrom(money(taken, tab.currency))
    payment.refunds.append(refund)
    receipts.sum_refunds(payment)


def merge_refund(
    tab: Tab, after: Payment, news: ProviderRefund, now_ns: int, at: Timestamp
) -> None:
    """Apply what the provider says of one refund, in place."""
    status = REFUND_STATUSES[news.state]
    refund = _find_refund(after, news)
    if refund is None:
        # Made at the provider's, not by us.
        refund = Refund(
            refund_id=news.refund_id or news.provider_refund_id,
            provider_refund_id=news.provider_refund_id,
            amount=money(clamped(news.minor_units), after.amount.currency),
            status=status,
            created_at=at,
            method=PAYMENT_METHOD_PROVIDER,
        )
        if status == REFUND_STATUS_FAILED:
            refund.failure_reason = news.reason
            after.refunds.append(refund)
            attention.enter(after, ATTENTION_REFUND_FAILED, now_ns, refund.refund_id)
        elif _can_give_back(tab, after, news.minor_units):
            record_refund(tab, after, refund, takes_credit=True)
        else:
            attention.enter(after, ATTENTION_AMOUNT_MISMATCH, now_ns, news.provider_refund_id)
        return
    if news.provider_refund_id:
        refund.provider_refund_id = news.provider_refund_id
    if _REFUND_RANK[status] <= _REFUND_RANK[refund.status]:
        return
    if status == REFUND_STATUS_FAILED and refund.amount.currency == tab.currency:
        back, taken = refund.amount.minor_units, refund.credit_taken.minor_units
        if not tab.can_take_again(back, taken):
            attention.enter(after, ATTENTION_AMOUNT_MISMATCH, now_ns, refund.refund_id)
            return
        tab.take_again(back, taken)
    refund.status = status
    if status == REFUND_STATUS_FAILED:
        refund.ClearField("credit_taken")
        refund.failure_reason = news.reason
        receipts.sum_refunds(after)
        attention.enter(after, ATTENTION_REFUND_FAILED, now_ns, refund.refund_id)


def merge_dispute(
    tab: Tab, after: Payment, news: ProviderDispute, now_ns: int, at: Timestamp
) -> None:
    """Apply what the provider says of one dispute, in place.

    A loss is booked as money that went back; the tab stays settled, since what was served was
    served. Money that is not booked yet cannot be booked as lost: it is asked about again.
    """
    name = news.dispute_id or f"{after.payment_id}:dispute"
    status = DISPUTE_STATUSES[news.state]
    dispute = next((each for each in after.disputes if each.dispute_id == name), None)
    if dispute is None:
        receipt = receipts.of(after, PAYMENT_METHOD_PROVIDER)
        whole = receipt.amount.minor_units if receipt is not None else 0
        dispute = after.disputes.add(
            dispute_id=name,
            amount=money(clamped(news.minor_units or whole), after.amount.currency),
            status=DISPUTE_STATUS_OPEN,
            created_at=at,
        )
        if status == DISPUTE_STATUS_OPEN:
            attention.enter(after, ATTENTION_DISPUTED, now_ns, name)
    if _DISPUTE_RANK[status] > _DISPUTE_RANK[dispute.status]:
        _decide(tab, after, dispute, status, now_ns, at)
    after.disputed = any(each.status == DISPUTE_STATUS_OPEN for each in after.disputes)


def _decide(
    tab: Tab,
    after: Payment,
    dispute: Dispute,
    status: DisputeStatus.ValueType,
    now_ns: int,
    at: Timestamp,
) -> None:
    amount = dispute.amount.minor_units
    if status == DISPUTE_STATUS_LOST:
        if after.status != PAYMENT_STATUS_SUCCEEDED or not _can_give_back(tab, after, amount):
            attention.enter(after, ATTENTION_DISPUTED, now_ns, dispute.dispute_id)
            return
        taken = tab.give_back(amount, takes_credit=True)
        if taken:
            dispute.credit_taken.CopyFrom(money(taken, tab.currency))
    elif dispute.status == DISPUTE_STATUS_LOST:
        taken = dispute.credit_taken.minor_units
        if not tab.can_take_again(amount, taken):
            attention.enter(after, ATTENTION_DISPUTED, now_ns, dispute.dispute_id)
            return
        tab.take_again(amount, taken)
        dispute.ClearField("credit_taken")
    dispute.status = status
    dispute.closed_at.CopyFrom(at)
    receipts.sum_refunds(after)
    attention.leave(after, ATTENTION_DISPUTED, source_id=dispute.dispute_id)


def _can_give_back(tab: Tab, payment: Payment, amount: int) -> bool:
    return tab.can_give_back(amount) and receipts.can_give_back(payment, amount)


def end_attention(tab: Tab, after: Payment) -> None:
    """Take off a payment what has been made good meanwhile, in place."""
    excess = after.excess_amount.minor_units - _credit_taken(after)
    if tab.credit == 0 or (after.HasField("excess_amount") and excess <= 0):
        attention.leave(after, ATTENTION_OVERPAID)
    made_good = _made_good(after)
    for item in attention.items_of(after):
        if item.kind == ATTENTION_REFUND_FAILED and item.source_id in made_good:
            attention.leave(after, ATTENTION_REFUND_FAILED, source_id=item.source_id)


def _credit_taken(payment: Payment) -> int:
    refunds = sum(each.credit_taken.minor_units for each in payment.refunds)
    return refunds + sum(each.credit_taken.minor_units for each in payment.disputes)


def _made_good(payment: Payment) -> set[str]:
    """Name the failed refunds whose money later ones, of the same way, gave back after all."""
    owed: list[tuple[str, int, int]] = []
    made_good = set()
    for refund in payment.refunds:
        way, left = receipts.way_of(payment, refund), refund.amount.minor_units
        if refund.status == REFUND_STATUS_FAILED:
            owed.append((refund.refund_id, way, left))
        elif refund.status == REFUND_STATUS_SUCCEEDED:
            rest = []
            for name, of_way, amount in owed:
                paid = min(left, amount) if of_way == way else 0
                left -= paid
                if paid == amount:
                    made_good.add(name)
                else:
                    rest.append((name, of_way, amount - paid))
            owed = rest
    return made_good


def _find_refund(payment: Payment, news: ProviderRefund) -> Refund | None:
    for refund in payment.refunds:
        ours = bool(news.refund_id) and refund.refund_id == news.refund_id
        theirs = bool(news.provider_refund_id) and (
            refund.provider_refund_id == news.provider_refund_id
        )
        if ours or theirs:
            return refund
    return None
