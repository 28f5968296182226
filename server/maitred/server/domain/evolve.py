"""The fold: the only way state changes.

Events state results, so `evolve` assigns and decides nothing. It never changes its argument, and
tolerates that personal fields were erased. `fold(evolve, log) == stored state`, for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

from maitred.server.domain.personal import EventT
from maitred.server.errors import SchemaTooNew
from maitred.v1 import event_pb2 as ev
from maitred.v1.state_pb2 import (
    ORDER_STATUS_OPEN,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_DELETED,
    SESSION_STATUS_EXPIRED,
    Ledger,
    Menu,
    Payment,
    PaymentState,
    Session,
)

EVENT_SCHEMA = 1
"""Shape of the changes that this version writes; `upcast` brings older ones up to it."""


def upcast(event: EventT) -> EventT:
    """Bring an event of an older schema up to date; the stored bytes stay as they are.

    Raises: SchemaTooNew, where a newer server wrote it or its change is not known.
    """
    head: Any = event
    if head.schema > EVENT_SCHEMA or event.WhichOneof("change") is None:
        raise SchemaTooNew(
            f"event {head.version} has schema {head.schema}; this server knows {EVENT_SCHEMA}"
        )
    return event


def evolve_session(session: Session | None, event: ev.Event) -> Session:
    """Apply one event to a session; None is the session before its first event."""
    name = event.WhichOneof("change")
    after = Session()
    if session is not None:
        after.CopyFrom(session)
    try:
        apply = _SESSION_CHANGES[name or ""]
    except KeyError:
        raise SchemaTooNew(f"event {event.version} has an unknown change") from None
    apply(after, getattr(event, name or ""), event)
    after.version = event.version
    after.updated_at.CopyFrom(event.time)
    if event.HasField("expires_at"):
        after.expires_at.CopyFrom(event.expires_at)
    return after


def evolve_menu(menu: Menu | None, event: ev.Event) -> Menu:
    """Apply one event to a menu; None is the menu before its first event."""
    after = Menu()
    match event.WhichOneof("change"):
        case "menu_put":
            after.CopyFrom(event.menu_put.menu)
        case "item_availability_changed" if menu is not None:
            after.CopyFrom(menu)
            change = event.item_availability_changed
            for item in after.items:
                if item.item_id == change.item_id:
                    item.sold_out = change.sold_out
                    item.sold_out_marked = change.sold_out_marked
        case "request_recorded" if menu is not None:
            after.CopyFrom(menu)
        case _:
            raise SchemaTooNew(f"event {event.version} is no change of a menu")
    after.version = event.version
    after.updated_at.CopyFrom(event.time)
    return after


def fold_session(events: Iterable[ev.Event]) -> Session | None:
    """Fold a whole log of a session, oldest event first."""
    session: Session | None = None
    for event in events:
        session = evolve_session(session, upcast(event))
    return session


def _created(after: Session, change: ev.SessionCreated, event: ev.Event) -> None:
    after.CopyFrom(change.session)
    after.created_at.CopyFrom(event.time)


def _updated(after: Session, change: ev.SessionUpdated, _event: ev.Event) -> None:
    after.customer_id = change.session.customer_id
    after.labels.clear()
    after.labels.update(change.session.labels)
    _assign(after, "attributes", change.session, "attributes")


def _extended(after: Session, change: ev.SessionExtended, _event: ev.Event) -> None:
    after.idle_seconds = change.idle_seconds


def _recorded(_after: Session, _change: ev.RequestRecorded, _event: ev.Event) -> None:
    """Nothing changed but the version."""


def _begun_anew(
    after: Session, change: ev.SessionReset | ev.VisitStarted, _event: ev.Event
) -> None:
    created_at = type(after.created_at)()
    created_at.CopyFrom(after.created_at)
    after.CopyFrom(change.session)
    after.created_at.CopyFrom(created_at)


def _expired(after: Session, _change: ev.SessionExpired, _event: ev.Event) -> None:
    after.status = SESSION_STATUS_EXPIRED


def _closed(after: Session, change: ev.SessionClosed, _event: ev.Event) -> None:
    after.status = SESSION_STATUS_CLOSED
    after.close_reason = change.reason
    if change.written_off_lines:
        del after.written_off_lines[:]
        after.written_off_lines.extend(change.written_off_lines)
    _money(after, change.payment, change.ledger, None)


def _deleted(after: Session, _change: ev.SessionDeleted, _event: ev.Event) -> None:
    session_id = after.session_id
    after.Clear()
    after.session_id = session_id
    after.status = SESSION_STATUS_DELETED


def _attention(after: Session, change: ev.AttentionChanged, _event: ev.Event) -> None:
    _attention_items(after, change)


def _turn(after: Session, change: ev.TurnRecorded, _event: ev.Event) -> None:
    conversation = after.conversation
    conversation.phase = change.phase_to
    conversation.turn_count = change.turn_count
    conversation.small_talk_count = change.small_talk_count_to
    conversation.last_order_turn = change.last_order_turn
    conversation.order_placed_since_turn = False


def _context(after: Session, change: ev.ContextUpdated, _event: ev.Event) -> None:
    after.conversation.context.CopyFrom(change.context)


def _phase_reset(after: Session, change: ev.PhaseReset, _event: ev.Event) -> None:
    context = type(after.conversation.context)()
    context.CopyFrom(after.conversation.context)
    had_context = after.conversation.HasField("context")
    after.conversation.CopyFrom(change.conversation)
    if had_context:
        after.conversation.context.CopyFrom(context)


def _line_added(after: Session, change: ev.LineAdded, _event: ev.Event) -> None:
    after.order.number = change.order_number
    after.order.status = ORDER_STATUS_OPEN
    after.order.lines.append(change.line)
    after.order.total.CopyFrom(change.order_total)
    after.last_order_number = change.order_number
    after.last_line_number = change.line.line_number
    _money(after, change.payment, change.ledger, _superseded(change))


def _line_removed(after: Session, change: ev.LineRemoved, _event: ev.Event) -> None:
    lines = after.order.lines
    for at, line in enumerate(lines):
        if line.line_number == change.line_number:
            if change.HasField("line"):
                line.CopyFrom(change.line)
            else:
                del lines[at]
            break
    after.order.total.CopyFrom(change.order_total)
    _money(after, change.payment, change.ledger, _superseded(change))


def _order_cleared(after: Session, change: ev.OrderCleared, _event: ev.Event) -> None:
    if change.kept:
        del after.order.lines[:]
        after.order.lines.extend(change.kept)
        after.order.total.CopyFrom(change.order_total)
    else:
        after.ClearField("order")
    _money(after, change.payment, change.ledger, _superseded(change))


def _order_placed(after: Session, _change: ev.OrderPlaced, _event: ev.Event) -> None:
    after.ClearField("order")
    after.conversation.order_placed_since_turn = True


def _line_voided(after: Session, change: ev.LineVoided, _event: ev.Event) -> None:
    _money(after, change.payment, change.ledger, _superseded(change))


def _balance(after: Session, change: ev.BalanceAdjusted, _event: ev.Event) -> None:
    _money(after, change.payment, change.ledger, None)


def _tip(after: Session, change: ev.TipSet, _event: ev.Event) -> None:
    _money(after, change.payment, None, _superseded(change))


def _payment(after: Session, change: ev.PaymentChanged, _event: ev.Event) -> None:
    # The event says which payment is the newest after it: it need not be the one that changed.
    if change.payment.payment_id == change.state.payment_id:
        after.latest_payment.CopyFrom(change.payment)
    elif change.HasField("latest"):
        after.latest_payment.CopyFrom(change.latest)
    if change.last_payment_number:
        after.last_payment_number = change.last_payment_number
    after.payment.CopyFrom(change.state)
    after.ledger.CopyFrom(change.ledger)
    after.paid_through_line = change.paid_through_line
    _attention_items(after, change)


def _attention_items(after: Session, change: ev.AttentionChanged | ev.PaymentChanged) -> None:
    after.attention = change.attention
    del after.attention_items[:]
    after.attention_items.extend(change.attention_items)


def _superseded(
    change: ev.LineAdded | ev.LineRemoved | ev.OrderCleared | ev.LineVoided | ev.TipSet,
) -> Payment | None:
    return change.superseded if change.HasField("superseded") else None


def _money(
    after: Session, payment: PaymentState, ledger: Ledger | None, superseded: Payment | None
) -> None:
    after.payment.CopyFrom(payment)
    if ledger is not None:
        after.ledger.CopyFrom(ledger)
    if superseded is not None:
        after.latest_payment.CopyFrom(superseded)


def _assign(target: Message, field: str, source: Message, source_field: str) -> None:
    if source.HasField(source_field):
        getattr(target, field).CopyFrom(getattr(source, source_field))
    else:
        target.ClearField(field)


_SESSION_CHANGES: dict[str, Callable[..., None]] = {
    "session_created": _created,
    "session_updated": _updated,
    "session_extended": _extended,
    "session_reset": _begun_anew,
    "visit_started": _begun_anew,
    "request_recorded": _recorded,
    "session_expired": _expired,
    "session_closed": _closed,
    "session_deleted": _deleted,
    "attention_changed": _attention,
    "turn_recorded": _turn,
    "context_updated": _context,
    "phase_reset": _phase_reset,
    "line_added": _line_added,
    "line_removed": _line_removed,
    "order_cleared": _order_cleared,
    "order_placed": _order_placed,
    "line_voided": _line_voided,
    "balance_adjusted": _balance,
    "tip_set": _tip,
    **dict.fromkeys(
        (
            "payment_requested",
            "payment_opened",
            "payment_processing",
            "payment_succeeded",
            "payment_failed",
            "payment_expired",
            "payment_canceled",
            "payment_outcome_unknown",
            "payment_cancel_requested",
            "payment_refunded",
            "payment_flagged",
        ),
        _payment,
    ),
}
