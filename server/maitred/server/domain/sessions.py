"""The life of a session: created, updated, extended, reset, closed, expired, erased."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain import attention, text, updates
from maitred.server.domain.money import check_currency, format_money, money, require_currency
from maitred.server.domain.settlement import last_number
from maitred.server.domain.tab import Tab, has_open_payment
from maitred.server.errors import (
    AlreadyExists,
    InvalidField,
    PaymentOpen,
    PermissionDenied,
    SessionClosed,
    SessionDeleted,
    SessionExpired,
    TabOpen,
    Violation,
)
from maitred.server.units import NS
from maitred.v1 import event_pb2 as ev
from maitred.v1.session_pb2 import CreateSessionRequest, ExtendSessionRequest
from maitred.v1.state_pb2 import (
    ATTENTION_ABANDONED_TAB,
    BALANCE_POLICY_BUDGET,
    PHASE_GREETING,
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_DELETED,
    SESSION_STATUS_EXPIRED,
    TAB_STATUS_PENDING,
    Conversation,
    Ledger,
    LineRange,
    PaymentState,
    Session,
)


class Defaults(NamedTuple):
    """What a new session takes from the settings where its request is silent."""

    menu_id: str
    opening_balance_minor: int
    currency: str
    idle_seconds: int


# --- commands -----------------------------------------------------------------------------------


def create(
    state: Session | None,
    request: CreateSessionRequest,
    session_id: str,
    defaults: Defaults,
    *,
    same: bool = False,
) -> ev.Event | None:
    """Open a session, or begin a new visit under an id whose session has ended.

    None where the session is open and `same`: the same request opened it.
    Raises: AlreadyExists, PaymentOpen, TabOpen, CurrencyMismatch, InvalidField, CardNumberRefused.
    """
    if state is not None and is_active(state):
        if same:
            return None
        raise AlreadyExists(
            f"session {session_id!r} was created by another request",
            metadata={"session_id": session_id},
        )
    opened = _opened(request, session_id, defaults)
    if state is None:
        return ev.Event(session_created=ev.SessionCreated(session=opened))
    return ev.Event(visit_started=ev.VisitStarted(session=_next_visit(state, opened)))


def _opened(request: CreateSessionRequest, session_id: str, defaults: Defaults) -> Session:
    """What a request asks for, and the defaults where it is silent."""
    text.identifier(session_id, "session_id")
    text.identifier(request.customer_id, "customer_id")
    opening, currency = defaults.opening_balance_minor, defaults.currency
    if request.HasField("opening_balance"):
        opening = request.opening_balance.minor_units
        currency = request.opening_balance.currency
        _require(opening >= 0, "opening_balance.minor_units", "must not be negative")
    check_currency(currency, "opening_balance.currency")
    session = Session(
        session_id=session_id,
        status=SESSION_STATUS_ACTIVE,
        idle_seconds=request.idle_seconds or defaults.idle_seconds,
        customer_id=request.customer_id,
        labels=updates.labels(dict(request.labels)),
        conversation=Conversation(phase=PHASE_GREETING),
        menu_id=request.menu_id or defaults.menu_id,
        payment=_opening_state(opening, 0, currency, version=0),
        balance_policy=request.balance_policy or BALANCE_POLICY_BUDGET,
        ledger=Ledger(opening=opening),
    )
    if request.HasField("attributes"):
        session.attributes.CopyFrom(text.free_data(request.attributes, "attributes"))
    return session


def _next_visit(session: Session, opened: Session) -> Session:
    """Let a visit follow one that has ended: what was asked for, and every running number.

    Payments of the visits before stay what they are, so that their money can still be given back
    and late news of them still counts. Hence one currency for an id that has payments.
    """
    _refuse_open_payment(session)
    if _tab(session):
        raise TabOpen("the visit before left a tab", metadata={"tab": str(_tab(session))})
    other = opened.customer_id not in ("", session.customer_id)
    if _credit(session) and other:
        raise TabOpen(
            "the visit before left credit of another customer; give it back first",
            metadata={"credit": str(_credit(session))},
        )
    tab = Tab(session)
    if _credit(session) or session.HasField("latest_payment"):
        require_currency(opened.payment.balance, tab.currency, "opening_balance")
    after = _anew(session, tab, opened.ledger.opening, opened.payment.balance.currency)
    after.ClearField("close_reason")
    after.ClearField("agent_resets")
    after.status = SESSION_STATUS_ACTIVE
    after.idle_seconds = opened.idle_seconds
    after.customer_id = opened.customer_id or session.customer_id
    after.labels.clear()
    after.labels.update(opened.labels)
    if opened.HasField("attributes"):
        after.attributes.CopyFrom(opened.attributes)
    after.menu_id = opened.menu_id
    after.balance_policy = opened.balance_policy
    return after


def extend(session: Session, request: ExtendSessionRequest) -> ev.Event:
    """Move the expiry; 0 seconds keep the present span and count it anew."""
    seconds = request.idle_seconds or session.idle_seconds
    return ev.Event(session_extended=ev.SessionExtended(idle_seconds=seconds))


def reset(session: Session, reason: str, *, staff: bool) -> ev.Event:
    """Restore the defaults; who it is, what it is labelled and every running number stay.

    Raises: PaymentOpen, TabOpen, PermissionDenied, ReasonRequired, CardNumberRefused.
    """
    reason = text.note(reason, "reason")
    _require_write_off(session, reason, staff=staff)
    tab = Tab(session)
    written_off = tab.write_off()
    after = _anew(session, tab, session.ledger.opening, tab.currency)
    after.agent_resets += not staff
    change = ev.SessionReset(session=after, reason=reason)
    if written_off:
        change.written_off.CopyFrom(money(written_off, tab.currency))
    return ev.Event(session_reset=change)


def close(session: Session, reason: str, *, staff: bool) -> ev.Event:
    """End a session.

    Raises: PaymentOpen, TabOpen, PermissionDenied, ReasonRequired, CardNumberRefused.
    """
    reason = text.note(reason, "reason")
    _require_write_off(session, reason, staff=staff)
    change = ev.SessionClosed(reason=reason, payment=session.payment, ledger=session.ledger)
    if _tab(session):
        tab = Tab(session)
        change.written_off.CopyFrom(money(tab.write_off(), tab.currency))
        change.payment.CopyFrom(tab.state())
        change.ledger.CopyFrom(tab.ledger)
    change.written_off_lines.extend(session.written_off_lines)
    _write_off_lines(change.written_off_lines, session)
    return ev.Event(session_closed=change)


def delete(session: Session, reason: str) -> ev.Event:
    """Erase a session for ever; never one with open money.

    Raises: PaymentOpen, TabOpen, CardNumberRefused.
    """
    reason = text.why(reason, "the session is deleted")
    _refuse_open_payment(session)
    if _tab(session) or _credit(session):
        raise TabOpen(
            f"the session holds open money: a tab of {_amount(session, _tab(session))} and a credit"
            f" of {_amount(session, _credit(session))}",
            metadata={
                "tab": str(_tab(session)),
                "credit": str(_credit(session)),
                "currency": session.payment.tab_total.currency,
            },
        )
    return ev.Event(session_deleted=ev.SessionDeleted(reason=reason))


# --- time ---------------------------------------------------------------------------------------


def is_active(session: Session) -> bool:
    """Whether the session is open for commands, as far as its state says."""
    return session.status == SESSION_STATUS_ACTIVE


def require_open(session: Session) -> None:
    """Refuse a session that accepts no new commands.

    Raises: SessionExpired, SessionClosed, SessionDeleted.
    """
    match session.status:
        case s if s == SESSION_STATUS_EXPIRED:
            raise SessionExpired(f"session {session.session_id!r} has expired")
        case s if s == SESSION_STATUS_CLOSED:
            raise SessionClosed(f"session {session.session_id!r} is closed")
        case s if s == SESSION_STATUS_DELETED:
            raise SessionDeleted(f"session {session.session_id!r} was deleted")


def is_overdue(session: Session, now_ns: int) -> bool:
    """Whether the session must expire; with an open tab or payment it never does."""
    return (
        is_active(session) and now_ns >= _ns(session.expires_at) and not _holds_open_money(session)
    )


def expire() -> ev.Event:
    """End a session that is overdue."""
    return ev.Event(session_expired=ev.SessionExpired())


def tick(session: Session, now_ns: int, retention_seconds: int) -> ev.Event | None:
    """Do what the time asks for, one thing at once; None where it asks for nothing.

    A `session_deleted` is to be carried out as a deletion. An overdue session expires before
    anything else happens to it.
    """
    if is_overdue(session, now_ns):
        return expire()
    wake_ns = wake_at_ns(session, retention_seconds)
    if wake_ns is None or now_ns < wake_ns:
        return None
    if attention.has(session, ATTENTION_ABANDONED_TAB):
        return _attention(session, now_ns, returned=True)
    if is_active(session):
        return _attention(session, now_ns, returned=False)
    return ev.Event(session_deleted=ev.SessionDeleted(reason="retention"))


def wake_at_ns(session: Session, retention_seconds: int) -> int | None:
    """The earliest time at which `tick` has something to do; None where only a change can bring it.

    A retention of 0 keeps ended sessions for ever.
    """
    match session.status:
        case s if s == SESSION_STATUS_DELETED:
            return None
        case _ if _is_found_again(session):
            return _ns(session.updated_at)
        case s if s == SESSION_STATUS_ACTIVE:
            waiting = _holds_open_money(session) and attention.has(session, ATTENTION_ABANDONED_TAB)
            return None if waiting else _ns(session.expires_at)
        case _:
            kept = not retention_seconds or attention.holds_money(session) or _credit(session)
            kept = kept or _holds_open_money(session)
            return None if kept else _ns(session.updated_at) + retention_seconds * NS


def _is_found_again(session: Session) -> bool:
    """Whether an abandoned tab was paid, emptied or taken up again."""
    if not attention.has(session, ATTENTION_ABANDONED_TAB):
        return False
    return (
        not is_active(session)
        or not _holds_open_money(session)
        or _ns(session.expires_at) > _ns(session.updated_at)
    )


def _attention(session: Session, now_ns: int, *, returned: bool) -> ev.Event:
    items = attention.of_tab(session, now_ns, abandoned=not returned)
    change = ev.AttentionChanged(attention=attention.most_urgent(items), attention_items=items)
    if returned and is_active(session):
        change.next_check_at.CopyFrom(session.expires_at)
    return ev.Event(attention_changed=change)


def _anew(session: Session, tab: Tab, opening: int, currency: str) -> Session:
    """Begin anew under the same id: an empty tab and a greeting; running numbers go on."""
    after = Session()
    after.CopyFrom(session)
    for field in ("version", "updated_at", "attributes", "order", "latest_payment"):
        after.ClearField(field)
    after.last_payment_number = last_number(session)
    after.reset_count += 1
    after.conversation.CopyFrom(Conversation(phase=PHASE_GREETING))
    # Credit is the guest's money, whatever is forgotten.
    after.payment.CopyFrom(_opening_state(opening, tab.credit, currency, tab.version + 1))
    after.ledger.CopyFrom(Ledger(opening=opening))
    # Nothing is owed for any line any more, so that none of it may be given back.
    after.paid_through_line = session.last_line_number
    _write_off_lines(after.written_off_lines, session)
    attention.write(after, attention.of_tab(session, 0, abandoned=False))
    return after


# --- rules --------------------------------------------------------------------------------------


def _require_write_off(session: Session, reason: str, *, staff: bool) -> None:
    _refuse_open_payment(session)
    owed = _tab(session)
    if not owed:
        return
    metadata = {"tab": str(owed), "currency": session.payment.tab_total.currency}
    if not staff and not reason:
        raise TabOpen(
            f"the tab is {_amount(session, owed)}; staff may write it off", metadata=metadata
        )
    if not staff:
        raise PermissionDenied(
            "writing off a tab needs role STAFF", metadata={"required_role": "STAFF"} | metadata
        )
    text.why(reason, "the tab is written off", metadata)


def _refuse_open_payment(session: Session) -> None:
    if has_open_payment(session):
        raise PaymentOpen(
            "a payment is open, or its outcome is unknown",
            metadata={"payment_id": session.latest_payment.payment_id},
        )


def _write_off_lines(ranges: MutableSequence[LineRange], session: Session) -> None:
    """Add the lines that no money paid to those that were written off."""
    if not _tab(session):
        # Nobody gave anything up, and an id of many visits would keep a range for each.
        return
    known = ranges[-1].last if ranges else 0
    first, last = max(session.paid_through_line, known) + 1, session.last_line_number
    if first > last:
        return
    if ranges and ranges[-1].last == first - 1:
        ranges[-1].last = last
    else:
        ranges.append(LineRange(first=first, last=last))


def _opening_state(opening: int, credit: int, currency: str, version: int) -> PaymentState:
    nothing = money(0, currency)
    return PaymentState(
        balance=money(opening, currency),
        tab_total=nothing,
        tip_amount=nothing,
        total=nothing,
        credit=money(credit, currency),
        status=TAB_STATUS_PENDING,
        version=version,
    )


def _holds_open_money(session: Session) -> bool:
    return _tab(session) > 0 or has_open_payment(session)


def _tab(session: Session) -> int:
    return session.payment.tab_total.minor_units


def _amount(session: Session, minor_units: int) -> str:
    return format_money(minor_units, session.payment.tab_total.currency)


def _credit(session: Session) -> int:
    return session.payment.credit.minor_units


def _ns(at: Timestamp) -> int:
    return at.seconds * NS + at.nanos


def _require(holds: bool, field: str, description: str) -> None:
    if not holds:
        raise _invalid(field, description)


def _invalid(field: str, description: str) -> InvalidField:
    return InvalidField(
        f"{field}: {description}", violations=[Violation(field, f"{field}.rule", description)]
    )
