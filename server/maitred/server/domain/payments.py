"""The commands of payments: pure decisions, each of at most one event.

Every command on an existing payment takes it as an argument, because it need not be the newest one
of its session. What the provider says is applied by `settlement`, never here.
"""

from __future__ import annotations

from maitred.server.domain import attention, text
from maitred.server.domain.charging import require_chargeable
from maitred.server.domain.money import money
from maitred.server.domain.outcomes import Rest, rest_beside
from maitred.server.domain.receipts import HOUSE
from maitred.server.domain.settlement import (
    absorb,
    apply_snapshot,
    asks_for_what_is_owed,
    changed,
    copy,
    is_unsettled,
    last_number,
    settle,
    timestamp,
)
from maitred.server.domain.snapshots import ProviderSnapshot, Terms
from maitred.server.domain.tab import Tab, has_open_payment
from maitred.server.errors import (
    NothingToPay,
    PaymentNotConfirmed,
    PaymentOpen,
    PaymentSettled,
    PreviousPaymentUnresolved,
)
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    PAYMENT_METHOD_CREDIT,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    PaymentMethod,
    ProviderRequest,
    Session,
)


def request_payment(session: Session, now_ns: int, payment_id: str, terms: Terms) -> Event | None:
    """Record that what is owed is to be paid; None where an open payment asks for just that.

    None also where money is on its way or waits for staff: no other link may be made then.
    What credit covers wholly is settled at once. Raises: NothingToPay, AmountOutOfRange,
    PreviousPaymentUnresolved, and the refusal of the terms.
    """
    tab = Tab(session)
    if has_open_payment(session):
        latest = session.latest_payment
        if _can_be_joined(latest, tab, now_ns) or _decides_itself(latest):
            return None
        raise PreviousPaymentUnresolved(
            "the link before this one is not known to be dead yet; try again",
            metadata={"payment_id": latest.payment_id},
            retry_after_s=1,
        )
    payment = _new_payment(session, tab, now_ns, payment_id)
    amount = payment.amount.minor_units
    if amount == 0:
        return _settle_by_hand(session, tab, None, payment, PAYMENT_METHOD_CREDIT, "", now_ns)
    require_chargeable(amount, tab.currency, terms)
    if terms.refusal is not None:
        raise terms.refusal
    payment.status = PAYMENT_STATUS_CREATING
    payment.provider = terms.provider
    payment.is_simulated = terms.is_simulated
    # Whole seconds, upward: providers count in them, and a link must not die before its time.
    payment.expires_at.seconds = -(-now_ns // 1_000_000_000) + terms.lifetime_s
    payment.request.CopyFrom(
        ProviderRequest(
            key=creation_key(payment_id, 1),
            parameters=terms.parameters(payment),
            first_sent_at=timestamp(now_ns),
            attempt=1,
        )
    )
    return changed(session, tab, None, payment, "create")


def creation_key(payment_id: str, attempt: int) -> str:
    """Name an attempt to create a payment at its provider."""
    return f"{payment_id}:create:{attempt}"


def is_withdrawn(payment: Payment) -> bool:
    """Whether the link of an unsettled payment is to be made unusable."""
    return is_unsettled(payment) and (payment.superseded or payment.cancel_requested)


def new_attempt(session: Session, payment: Payment, attempt: int) -> Event | None:
    """Give up a key for which the provider answers only errors, once it holds nothing under it.

    `attempt` is the one given up; None where that happened already.
    """
    if not is_unborn(payment) or payment.request.attempt != attempt:
        return None
    after = copy(payment)
    after.request.attempt = attempt + 1
    after.request.key = creation_key(payment.payment_id, attempt + 1)
    return changed(session, Tab(session), payment, after, "create")


def supersede(session: Session, _now_ns: int) -> Event | None:
    """Mark the open payment superseded where late money of another one changed what is owed."""
    if not has_open_payment(session) or session.latest_payment.superseded:
        return None
    tab = Tab(session)
    if asks_for_what_is_owed(session.latest_payment, tab):
        return None
    after = copy(session.latest_payment)
    after.superseded = True
    return changed(session, tab, session.latest_payment, after, "sweep")


def flag_unknown(session: Session, payment: Payment, now_ns: int) -> Event | None:
    """Call for a person: what became of the payment could not be found out for long."""
    if not is_unsettled(payment) or attention.has(payment, ATTENTION_AMOUNT_MISMATCH):
        return None
    after = copy(payment)
    attention.enter(after, ATTENTION_OUTCOME_UNKNOWN, now_ns)
    if after == payment:
        return None
    return changed(session, Tab(session), payment, after, "sweep")


def request_cancel(
    session: Session, payment: Payment, reason: str, *, by_hand: bool = False
) -> Event | None:
    """Record that a payment is to be withdrawn; None where it is settled or was asked before.

    `by_hand` says that staff takes the money instead. Whoever waits for the tab to be paid must not
    take the end of the link for the end of the matter.
    """
    if not is_unsettled(payment) or (payment.cancel_requested and payment.superseded >= by_hand):
        return None
    after = copy(payment)
    after.cancel_requested = True
    after.superseded = payment.superseded or by_hand
    after.reason = text.note(reason, "reason")
    return changed(session, Tab(session), payment, after, "cancel")


def confirm(
    session: Session, payment: Payment, snapshot: ProviderSnapshot | None, now_ns: int
) -> Event | None:
    """Settle a payment that its provider confirms; None where it is settled already.

    Raises: PaymentNotConfirmed, PaymentSettled.
    """
    if payment.status == PAYMENT_STATUS_SUCCEEDED:
        return None
    event = None
    if snapshot is not None:
        event = apply_snapshot(session, payment, snapshot, "check", now_ns)
    if event is not None and event.HasField("payment_succeeded"):
        return event
    if is_unsettled(payment):
        raise PaymentNotConfirmed(
            "the provider has not confirmed the payment",
            metadata={"payment_id": payment.payment_id},
        )
    raise PaymentSettled(
        "the payment ended without money", metadata={"payment_id": payment.payment_id}
    )


def complete_by_hand(
    session: Session,
    payment: Payment | None,
    now_ns: int,
    payment_id: str,
    method: PaymentMethod.ValueType,
    reason: str,
) -> Event | None:
    """Settle on the word of staff: a payment whose link is dead or, without one, the whole tab.

    Beside a payment that is on its way, what that does not cover. None where it is settled already.
    Raises: ReasonRequired, PaymentOpen, PaymentSettled, NothingToPay.
    """
    reason = text.why(reason, "the payment is completed by hand")
    tab = Tab(session)
    if payment is None:
        beside = session.latest_payment if has_open_payment(session) else None
        if beside is not None and beside.status != PAYMENT_STATUS_PROCESSING:
            raise _link_alive(beside)
        payment = _new_payment(session, tab, now_ns, payment_id, beside)
        if payment.amount.minor_units == 0:
            method = PAYMENT_METHOD_CREDIT
        return _settle_by_hand(session, tab, None, payment, method, reason, now_ns, beside)
    if payment.status == PAYMENT_STATUS_SUCCEEDED:
        if payment.method == method:
            return None
        raise PaymentSettled(
            "the payment was paid another way", metadata={"payment_id": payment.payment_id}
        )
    mismatch = attention.has(payment, ATTENTION_AMOUNT_MISMATCH)
    if is_unsettled(payment) and not mismatch:
        raise _link_alive(payment)
    if session.latest_payment.payment_id != payment.payment_id and not mismatch:
        raise PaymentSettled(
            "a newer payment took its place", metadata={"payment_id": payment.payment_id}
        )
    if mismatch:
        # The provider holds this money: its facts about it must not count a second time.
        method = PAYMENT_METHOD_PROVIDER
    return _settle_by_hand(session, tab, payment, copy(payment), method, reason, now_ns)


def reconcile(
    session: Session, payment: Payment, snapshot: ProviderSnapshot | None, reason: str, now_ns: int
) -> Event:
    """Record what the provider says together with why somebody asked, also where it is nothing new.

    A person has looked: what called for one until now ends, unless something else must end it.
    Raises: ReasonRequired.
    """
    reason = text.why(reason, "the payment is looked into")
    tab = Tab(session)
    known = attention.items_of(payment)
    after = copy(payment)
    if snapshot is not None:
        after = absorb(session, tab, payment, snapshot, now_ns)
    after.reason = reason
    if not is_unsettled(after):
        ends = [ATTENTION_OVERPAID, ATTENTION_REFUND_FAILED, ATTENTION_OUTCOME_UNKNOWN]
        if after.status == PAYMENT_STATUS_SUCCEEDED:
            ends.append(ATTENTION_AMOUNT_MISMATCH)
        kept = [
            item for item in attention.items_of(after) if item not in known or item.kind not in ends
        ]
        attention.write(after, kept)
    return changed(session, tab, payment, after, "staff")


def is_unborn(payment: Payment) -> bool:
    """Whether the provider has still to be asked for the link, or may know it unknown to us."""
    return not payment.provider_payment_id and payment.status in (
        PAYMENT_STATUS_CREATING,
        PAYMENT_STATUS_OUTCOME_UNKNOWN,
    )


def _can_be_joined(payment: Payment, tab: Tab, now_ns: int) -> bool:
    """Whether an open payment is the one to ask for: not a link that is dead or about to be."""
    dead = payment.status == PAYMENT_STATUS_OPEN and (
        0 < payment.expires_at.ToNanoseconds() <= now_ns
    )
    return not dead and not is_withdrawn(payment) and asks_for_what_is_owed(payment, tab)


def _decides_itself(payment: Payment) -> bool:
    """Whether an open payment can be neither paid nor withdrawn: a bank or staff has the word."""
    return payment.status == PAYMENT_STATUS_PROCESSING or attention.has(
        payment, ATTENTION_AMOUNT_MISMATCH
    )


def _new_payment(
    session: Session, tab: Tab, now_ns: int, payment_id: str, beside: Payment | None = None
) -> Payment:
    owed = Rest(tab.tab, tab.tip, min(tab.credit, tab.tab + tab.tip))
    if beside is not None:
        owed = rest_beside(beside, tab.tab, tab.tip, tab.credit)
    if owed.tab + owed.tip == 0:
        raise NothingToPay(
            "there is nothing to pay" if beside is None else "all that is owed is on its way"
        )
    return Payment(
        payment_id=payment_id,
        session_id=session.session_id,
        amount=money(owed.amount, tab.currency),
        tab_amount=money(owed.tab, tab.currency),
        tip_amount=money(owed.tip, tab.currency),
        credit_applied=money(owed.credit, tab.currency),
        provider=HOUSE,
        created_at=timestamp(now_ns),
        through_line=session.last_line_number,
        through_order=session.last_order_number,
        number=last_number(session) + 1,
        reset_count=session.reset_count,
    )


def _settle_by_hand(
    session: Session,
    tab: Tab,
    before: Payment | None,
    after: Payment,
    method: PaymentMethod.ValueType,
    reason: str,
    now_ns: int,
    beside: Payment | None = None,
) -> Event:
    received = after.amount.minor_units
    if (
        attention.has(after, ATTENTION_AMOUNT_MISMATCH)
        and after.received_amount.currency == tab.currency
    ):
        received = after.received_amount.minor_units
    after.reason = reason
    tip = tab.tip
    settle(session, tab, after, received, method, now_ns)
    if beside is not None:
        # What is on its way is still owed, its tip included.
        tab.set_tip(min(tip, beside.tip_amount.minor_units), None)
    source = "create" if method == PAYMENT_METHOD_CREDIT and not reason else "staff"
    return changed(session, tab, before, after, source)


def _link_alive(payment: Payment) -> PaymentOpen:
    return PaymentOpen(
        "a payment is open, or its outcome is unknown", metadata={"payment_id": payment.payment_id}
    )
