"""The one reducer of provider facts: webhook, poll, check, staff and sweep all go through here.

It does not matter in which order or how often the facts arrive. A payment only moves forward, but
for late money, which always counts. What arrives without being owed is credit; what arrives in
another amount or currency than was asked for settles nothing until a person has looked.
"""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain import attention, changes, receipts, returns
from maitred.server.domain.money import clamped, money
from maitred.server.domain.snapshots import ProviderRefund, ProviderSnapshot, ProviderStatus
from maitred.server.domain.tab import UNSETTLED, Tab
from maitred.v1.event_pb2 import Event, PaymentChanged
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_CANCELED,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    PaymentMethod,
    PaymentStatus,
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


def apply_snapshot(
    session: Session, payment: Payment, snapshot: ProviderSnapshot, source: str, now_ns: int
) -> Event | None:
    """Apply what the provider says of a payment; None where it says nothing new.

    `payment` is the payment as it is stored, which need not be the session's newest.
    """
    if not _is_about(payment, snapshot):
        return None
    tab = Tab(session)
    after = absorb(session, tab, payment, snapshot, now_ns)
    return None if after == payment else changed(session, tab, payment, after, source)


def absorb(
    session: Session, tab: Tab, payment: Payment, snapshot: ProviderSnapshot, now_ns: int
) -> Payment:
    """Take in what the provider says of a payment; answers the payment after it."""
    after = copy(payment)
    if not _is_about(payment, snapshot):
        return after
    if snapshot.provider_payment_id and not after.provider_payment_id:
        after.provider_payment_id = snapshot.provider_payment_id
        if snapshot.expires_at_ns is not None:
            after.expires_at.CopyFrom(timestamp(snapshot.expires_at_ns))
    if snapshot.status is ProviderStatus.PAID:
        _take_money(session, tab, after, snapshot, now_ns)
    elif not attention.has(after, ATTENTION_AMOUNT_MISMATCH):
        _advance(after, snapshot, now_ns)
    at = timestamp(now_ns)
    if after.status == PAYMENT_STATUS_SUCCEEDED:
        for refund in snapshot.refunds:
            returns.merge_refund(tab, after, refund, now_ns, at)
    for dispute in snapshot.disputes:
        returns.merge_dispute(tab, after, dispute, now_ns, at)
    return after


def apply_refund(
    session: Session, payment: Payment, refund: ProviderRefund, source: str, now_ns: int
) -> Event | None:
    """Apply what the provider says of one refund; None where it says nothing new."""
    after = copy(payment)
    tab = Tab(session)
    returns.merge_refund(tab, after, refund, now_ns, timestamp(now_ns))
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
    del payment.receipts[:]
    if received:
        receipts.put(payment, method, received, timestamp(now_ns))
    receipts.sum_up(payment)
    payment.settled_at.CopyFrom(timestamp(now_ns))
    payment.url = ""
    attention.leave(payment, ATTENTION_AMOUNT_MISMATCH, ATTENTION_OUTCOME_UNKNOWN)
    if _is_for_this_tab(session, payment):
        excess = tab.settle(
            payment.tab_amount.minor_units,
            received,
            payment.tip_amount.minor_units,
            payment.credit_applied.minor_units,
        )
    else:
        tab.receive_credit(received)
        excess = received
    if excess > 0:
        _overpaid(payment, min(excess, received), now_ns)


def changed(
    session: Session, tab: Tab, before: Payment | None, after: Payment, source: str
) -> Event:
    """Build the event of a changed payment, with everything that the change touched."""
    returns.end_attention(tab, after)
    newest = newest_after(session, after)
    items = attention.of_session(
        session,
        after,
        has_credit=tab.credit > 0,
        is_settled=tab.tab == 0 and (newest is None or not is_unsettled(newest)),
    )
    change = PaymentChanged(
        payment=after,
        state=tab.state(newest),
        ledger=tab.ledger,
        paid_through_line=_paid_through(session, tab, before, after),
        attention=attention.most_urgent(items),
        attention_items=items,
        source=source,
        last_payment_number=max(last_number(session), after.number),
    )
    if newest is not None and newest is not after:
        now = attention.as_it_stands(newest, items)
        if now is not newest:
            change.latest.CopyFrom(now)
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
    receipts.upgrade(after)
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
        _take_more(tab, after, snapshot, now_ns)
        return
    is_asked_for = (received, snapshot.currency) == (
        after.amount.minor_units,
        after.amount.currency,
    )
    if not is_asked_for or not tab.can_receive(received):
        attention.enter(after, ATTENTION_AMOUNT_MISMATCH, now_ns)
        attention.leave(after, ATTENTION_OUTCOME_UNKNOWN)
        held = clamped(received)
        receipts.put(after, PAYMENT_METHOD_PROVIDER, held, timestamp(now_ns), snapshot.currency)
        after.received_amount.CopyFrom(money(held, snapshot.currency))
        after.url = ""
        if is_unsettled(after):
            after.status = PAYMENT_STATUS_OUTCOME_UNKNOWN
        return
    after.reason = ""
    settle(session, tab, after, received, PAYMENT_METHOD_PROVIDER, now_ns)


def _take_more(tab: Tab, after: Payment, snapshot: ProviderSnapshot, now_ns: int) -> None:
    """Take money that came after the payment was settled by hand, or in parts: credit, once.

    What cannot be booked, because of its currency or its size, waits for a person.
    """
    known = receipts.of(after, PAYMENT_METHOD_PROVIDER)
    if known is not None and known.amount.currency != snapshot.currency:
        return
    more = snapshot.minor_units - (0 if known is None else known.amount.minor_units)
    if more <= 0:
        return
    at = timestamp(now_ns)
    if snapshot.currency != tab.currency:
        held = clamped(snapshot.minor_units)
        receipts.put(after, PAYMENT_METHOD_PROVIDER, held, at, snapshot.currency)
        attention.enter(after, ATTENTION_AMOUNT_MISMATCH, now_ns)
    elif not (tab.can_receive(more) and receipts.can_receive(after, more)):
        attention.enter(after, ATTENTION_AMOUNT_MISMATCH, now_ns)
    else:
        tab.receive_credit(more)
        receipts.put(after, PAYMENT_METHOD_PROVIDER, snapshot.minor_units, at)
        receipts.sum_up(after)
        _overpaid(after, more, now_ns)


def _overpaid(payment: Payment, excess: int, now_ns: int) -> None:
    excess += payment.excess_amount.minor_units
    payment.excess_amount.CopyFrom(money(excess, payment.amount.currency))
    attention.enter(payment, ATTENTION_OVERPAID, now_ns)


def _advance(after: Payment, snapshot: ProviderSnapshot, now_ns: int) -> None:
    status = STATUS_OF[snapshot.status]
    if status == PAYMENT_STATUS_EXPIRED and after.cancel_requested:
        status = PAYMENT_STATUS_CANCELED
    if RANK[status] <= RANK[after.status]:
        return
    if status != PAYMENT_STATUS_OUTCOME_UNKNOWN:
        attention.leave(after, ATTENTION_OUTCOME_UNKNOWN)
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


def _paid_through(session: Session, tab: Tab, before: Payment | None, after: Payment) -> int:
    """Tell which lines are covered: those of a payment, once money paid for its whole tab part.

    Beside a payment that is under way, only both together tell which lines are paid.
    """
    paid_through = session.paid_through_line
    settled_now = after.status == PAYMENT_STATUS_SUCCEEDED and (
        before is None or before.status != PAYMENT_STATUS_SUCCEEDED
    )
    if not settled_now or after.reset_count != session.reset_count:
        return paid_through
    owed = session.payment.tab_total.minor_units
    paid_all = owed - tab.tab >= min(owed, after.tab_amount.minor_units)
    if paid_all and newest_after(session, after) is after:
        paid_through = max(paid_through, after.through_line)
    return session.last_line_number if tab.tab == 0 else paid_through


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
