"""The one reducer of provider facts: webhook, poll, check, staff and sweep all go through here.

It does not matter in which order or how often the facts arrive. A payment only moves forward, but
for late money, which always counts. What arrives without being owed is credit; what arrives in
another amount or currency than was asked for settles nothing until a person has looked.
"""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain import changes
from maitred.server.domain.money import money
from maitred.server.domain.snapshots import (
    REFUND_STATUSES,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
)
from maitred.server.domain.tab import UNSETTLED, Tab
from maitred.v1.event_pb2 import Event, PaymentChanged
from maitred.v1.state_pb2 import (
    ATTENTION_ABANDONED_TAB,
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    ATTENTION_UNSPECIFIED,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_CANCELED,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    REFUND_STATUS_FAILED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    Attention,
    Payment,
    PaymentMethod,
    PaymentStatus,
    Refund,
    RefundStatus,
    Session,
)

RANK: dict[PaymentStatus.ValueType, int] = {
    PAYMENT_STATUS_CREATING: 0,
    PAYMENT_STATUS_OUTCOME_UNKNOWN: 1,
    PAYMENT_STATUS_OPEN: 2,
    PAYMENT_STATUS_PROCESSING: 3,
    PAYMENT_STATUS_FAILED: 4,
    PAYMENT_STATUS_EXPIRED: 4,
    PAYMENT_STATUS_CANCELED: 4,
    PAYMENT_STATUS_SUCCEEDED: 5,
}
"""A payment only rises: a stale fact ranks lower, and of contradictory ends the first one stays."""

STATUS_OF: dict[ProviderStatus, PaymentStatus.ValueType] = {
    ProviderStatus.UNKNOWN: PAYMENT_STATUS_OUTCOME_UNKNOWN,
    ProviderStatus.OPEN: PAYMENT_STATUS_OPEN,
    ProviderStatus.PROCESSING: PAYMENT_STATUS_PROCESSING,
    ProviderStatus.PAID: PAYMENT_STATUS_SUCCEEDED,
    ProviderStatus.FAILED: PAYMENT_STATUS_FAILED,
    ProviderStatus.EXPIRED: PAYMENT_STATUS_EXPIRED,
    ProviderStatus.CANCELED: PAYMENT_STATUS_CANCELED,
}

_CHANGE: dict[PaymentStatus.ValueType, str] = {
    PAYMENT_STATUS_CREATING: "payment_requested",
    PAYMENT_STATUS_OUTCOME_UNKNOWN: "payment_outcome_unknown",
    PAYMENT_STATUS_OPEN: "payment_opened",
    PAYMENT_STATUS_PROCESSING: "payment_processing",
    PAYMENT_STATUS_FAILED: "payment_failed",
    PAYMENT_STATUS_EXPIRED: "payment_expired",
    PAYMENT_STATUS_CANCELED: "payment_canceled",
    PAYMENT_STATUS_SUCCEEDED: "payment_succeeded",
}

_REFUND_RANK: dict[RefundStatus.ValueType, int] = {
    REFUND_STATUS_PENDING: 0,
    REFUND_STATUS_SUCCEEDED: 1,
    # A refund may still fail after it went through: the bank sends it back.
    REFUND_STATUS_FAILED: 2,
}


def apply_snapshot(
    session: Session, payment: Payment, snapshot: ProviderSnapshot, source: str, now_ns: int
) -> Event | None:
    """Apply what the provider says of a payment; None where it says nothing new.

    `payment` is the payment as it is stored, which need not be the session's newest.
    """
    if not _is_about(payment, snapshot):
        return None
    after = copy(payment)
    tab = Tab(session)
    if snapshot.provider_payment_id and not after.provider_payment_id:
        after.provider_payment_id = snapshot.provider_payment_id
        if snapshot.expires_at_ns is not None:
            after.expires_at.CopyFrom(timestamp(snapshot.expires_at_ns))
    if snapshot.status is ProviderStatus.PAID:
        _take_money(session, tab, after, snapshot, now_ns)
    elif after.attention != ATTENTION_AMOUNT_MISMATCH:
        _advance(after, snapshot, now_ns)
    if after.status == PAYMENT_STATUS_SUCCEEDED:
        for refund in snapshot.refunds:
            _merge_refund(tab, after, refund, now_ns)
    if snapshot.disputed and not after.disputed:
        after.disputed = True
        if after.attention != ATTENTION_AMOUNT_MISMATCH:
            after.attention = ATTENTION_DISPUTED
    if after == payment:
        return None
    return changed(session, tab, payment, after, source)


def apply_refund(
    session: Session, payment: Payment, refund: ProviderRefund, source: str, now_ns: int
) -> Event | None:
    """Apply what the provider says of one refund; None where it says nothing new."""
    after = copy(payment)
    tab = Tab(session)
    _merge_refund(tab, after, refund, now_ns)
    if after == payment:
        return None
    return changed(session, tab, payment, after, source)


def settle(
    session: Session,
    tab: Tab,
    payment: Payment,
    received: int,
    method: PaymentMethod.ValueType,
    now_ns: int,
) -> None:
    """Turn a payment into money that was received, in place, and apply it to the tab."""
    payment.status = PAYMENT_STATUS_SUCCEEDED
    payment.method = method
    payment.received_amount.CopyFrom(money(received, tab.currency))
    payment.settled_at.CopyFrom(timestamp(now_ns))
    payment.url = ""
    if payment.attention in (ATTENTION_AMOUNT_MISMATCH, ATTENTION_OUTCOME_UNKNOWN):
        payment.attention = ATTENTION_UNSPECIFIED
    if _is_for_this_tab(session, payment):
        excess = tab.settle(
            payment.tab_amount.minor_units,
            received,
            payment.tip_amount.minor_units,
            payment.credit_applied.minor_units,
        )
    else:
        receive_credit(tab, received)
        excess = received
    if excess > 0:
        payment.attention = ATTENTION_OVERPAID


def receive_credit(tab: Tab, received: int) -> None:
    """Keep money that nothing on the tab asked for."""
    tab.credit += received
    tab.ledger.received += received


def record_refund(tab: Tab, payment: Payment, refund: Refund, *, takes_credit: bool) -> None:
    """Append a refund that counts as spent; what stands as credit is given back first."""
    taken = min(tab.credit, refund.amount.minor_units) if takes_credit else 0
    tab.credit -= taken
    tab.ledger.refunded += refund.amount.minor_units
    if taken:
        refund.credit_taken.CopyFrom(money(taken, tab.currency))
    payment.refunds.append(refund)
    _sum_refunds(payment)


def changed(
    session: Session, tab: Tab, before: Payment | None, after: Payment, source: str
) -> Event:
    """Build the event of a changed payment, with everything that the change touched."""
    newest = newest_after(session, after)
    paid_through = session.paid_through_line
    settled_now = after.status == PAYMENT_STATUS_SUCCEEDED and (
        before is None or before.status != PAYMENT_STATUS_SUCCEEDED
    )
    if settled_now and after.reset_count == session.reset_count:
        # Beside a payment that is under way, only both together tell which lines are paid.
        if newest is after:
            paid_through = max(paid_through, after.through_line)
        if tab.tab == 0:
            paid_through = session.last_line_number
    change = PaymentChanged(
        payment=after,
        state=tab.state(newest),
        ledger=tab.ledger,
        paid_through_line=paid_through,
        attention=_session_attention(session, tab, before, after),
        source=source,
        last_payment_number=max(last_number(session), after.number),
    )
    event = Event()
    getattr(event, _change_name(before, after)).CopyFrom(change)
    return event


def newest_after(session: Session, after: Payment) -> Payment | None:
    """The newest payment of this visit once one has changed.

    A payment of a former visit is none of this one's. One that is under way stays the newest,
    whatever else was settled beside it.
    """
    newest = changes.newest_payment(session)
    if after.reset_count != session.reset_count:
        return newest
    if newest is None or newest.payment_id == after.payment_id:
        return after
    beside = is_unsettled(newest) and not is_unsettled(after)
    return newest if beside or newest.number > after.number else after


def last_number(session: Session) -> int:
    """The highest number that a payment of the session has, in whatever visit."""
    latest = session.latest_payment.number if session.HasField("latest_payment") else 0
    return max(session.last_payment_number, latest)


def copy(payment: Payment) -> Payment:
    """Copy a payment, to be changed."""
    after = Payment()
    after.CopyFrom(payment)
    return after


def timestamp(now_ns: int) -> Timestamp:
    """Write a time as the contract does."""
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def is_unsettled(payment: Payment) -> bool:
    """Whether the payment may still take money, or may have taken it unknown to us."""
    return payment.status in UNSETTLED


def asks_for_what_is_owed(payment: Payment, tab: Tab) -> bool:
    """Whether a payment created now would ask for the same."""
    return (
        payment.tab_amount.minor_units == tab.tab
        and payment.tip_amount.minor_units == tab.tip
        and payment.credit_applied.minor_units == min(tab.credit, tab.tab + tab.tip)
    )


def _is_about(payment: Payment, snapshot: ProviderSnapshot) -> bool:
    """Whether the snapshot tells of this very payment: the fence of every provider fact."""
    if snapshot.payment_id and snapshot.payment_id != payment.payment_id:
        return False
    known = payment.provider_payment_id
    return not known or snapshot.provider_payment_id in ("", known)


def _take_money(
    session: Session, tab: Tab, after: Payment, snapshot: ProviderSnapshot, now_ns: int
) -> None:
    received = snapshot.minor_units
    if after.status == PAYMENT_STATUS_SUCCEEDED:
        # Paid by hand, and now at the provider too: both are true, and counted once each.
        if after.method != PAYMENT_METHOD_PROVIDER and snapshot.currency == tab.currency:
            after.method = PAYMENT_METHOD_PROVIDER
            after.received_amount.minor_units += received
            after.attention = ATTENTION_OVERPAID
            receive_credit(tab, received)
        return
    if received != after.amount.minor_units or snapshot.currency != after.amount.currency:
        after.attention = ATTENTION_AMOUNT_MISMATCH
        after.received_amount.CopyFrom(money(received, snapshot.currency))
        after.url = ""
        if is_unsettled(after):
            after.status = PAYMENT_STATUS_OUTCOME_UNKNOWN
        return
    after.reason = ""
    settle(session, tab, after, received, PAYMENT_METHOD_PROVIDER, now_ns)


def _advance(after: Payment, snapshot: ProviderSnapshot, now_ns: int) -> None:
    status = STATUS_OF[snapshot.status]
    if status == PAYMENT_STATUS_EXPIRED and after.cancel_requested:
        status = PAYMENT_STATUS_CANCELED
    if RANK[status] <= RANK[after.status]:
        return
    if status != PAYMENT_STATUS_OUTCOME_UNKNOWN and after.attention == ATTENTION_OUTCOME_UNKNOWN:
        after.attention = ATTENTION_UNSPECIFIED
    after.status = status
    after.url = snapshot.url if status == PAYMENT_STATUS_OPEN else ""
    if status not in UNSETTLED:
        after.settled_at.CopyFrom(timestamp(now_ns))
        after.reason = snapshot.reason or after.reason


def _is_for_this_tab(session: Session, payment: Payment) -> bool:
    """Whether what the payment was for is still on the session's tab."""
    if payment.reset_count != session.reset_count:
        return False
    is_newest = (
        not session.HasField("latest_payment") or session.latest_payment.number <= payment.number
    )
    return is_newest or payment.through_line > session.paid_through_line


def _merge_refund(tab: Tab, after: Payment, news: ProviderRefund, now_ns: int) -> None:
    status = REFUND_STATUSES[news.state]
    refund = _find_refund(after, news)
    if refund is None:
        # Made at the provider's, not by us.
        refund = Refund(
            refund_id=news.refund_id or news.provider_refund_id,
            provider_refund_id=news.provider_refund_id,
            amount=money(news.minor_units, after.amount.currency),
            status=status,
            created_at=timestamp(now_ns),
        )
        if status == REFUND_STATUS_FAILED:
            refund.failure_reason = news.reason
            after.refunds.append(refund)
        else:
            record_refund(tab, after, refund, takes_credit=True)
        return
    if news.provider_refund_id:
        refund.provider_refund_id = news.provider_refund_id
    if _REFUND_RANK[status] <= _REFUND_RANK[refund.status]:
        return
    refund.status = status
    if status == REFUND_STATUS_FAILED:
        tab.ledger.refunded -= refund.amount.minor_units
        tab.credit += refund.credit_taken.minor_units
        refund.ClearField("credit_taken")
        refund.failure_reason = news.reason
        after.attention = ATTENTION_REFUND_FAILED
        _sum_refunds(after)


def _find_refund(payment: Payment, news: ProviderRefund) -> Refund | None:
    for refund in payment.refunds:
        ours = bool(news.refund_id) and refund.refund_id == news.refund_id
        theirs = bool(news.provider_refund_id) and (
            refund.provider_refund_id == news.provider_refund_id
        )
        if ours or theirs:
            return refund
    return None


def _sum_refunds(payment: Payment) -> None:
    spent = sum(
        refund.amount.minor_units
        for refund in payment.refunds
        if refund.status != REFUND_STATUS_FAILED
    )
    payment.refunded_amount.CopyFrom(money(spent, payment.amount.currency))


def _change_name(before: Payment | None, after: Payment) -> str:
    if before is None or before.status != after.status:
        return _CHANGE[after.status]
    if list(before.refunds) != list(after.refunds):
        return "payment_refunded"
    if before.request.attempt != after.request.attempt:
        return _CHANGE[after.status]
    if after.cancel_requested and not before.cancel_requested:
        return "payment_cancel_requested"
    return "payment_flagged"


def _session_attention(
    session: Session, tab: Tab, before: Payment | None, after: Payment
) -> Attention.ValueType:
    was = ATTENTION_UNSPECIFIED if before is None else before.attention
    if after.attention not in (ATTENTION_UNSPECIFIED, was):
        return after.attention
    if was != after.attention and session.attention == was:
        return ATTENTION_UNSPECIFIED
    if session.attention == ATTENTION_ABANDONED_TAB and tab.tab == 0 and not is_unsettled(after):
        return ATTENTION_UNSPECIFIED
    return session.attention
