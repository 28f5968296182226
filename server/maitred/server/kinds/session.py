"""The kind `session`: a guest's visit, from the greeting to the paid tab."""

from __future__ import annotations

from typing import Final

from maitred.server.domain import attention, evolve, sessions
from maitred.server.errors import (
    InvalidSession,
    MaitredError,
    SessionDeleted,
    SessionExpired,
    SessionFull,
)
from maitred.server.kinds import projections
from maitred.server.kinds.aggregate import Aggregate, Life
from maitred.server.kinds.tables import Table
from maitred.server.stores.values import Index, Keep, Kind, Ref
from maitred.server.units import NS
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    ATTENTION_ABANDONED_TAB,
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_EXPIRED,
    Session,
)

SESSION: Final = Kind(1)

SESSION_BYTES: Final = 256 * 1024
"""What the state of a session may grow to; an answer carries it beside the event."""

PROVIDER: Final = "provider"
"""Claims of this space tell whose a provider's payment is, also after the session was erased."""


def session_ref(session_id: str) -> Ref:
    """Name a session."""
    return Ref(SESSION, session_id)


def attention_label(kind: int) -> tuple[str, str]:
    """Name a kind of attention as a label of the index; no label of a caller's looks like it."""
    return "!attention", str(kind)


def _index(session: Session) -> Index:
    created = session.created_at
    return Index(
        created_ns=created.seconds * NS + created.nanos,
        status=session.status,
        owner=session.customer_id,
        flag=session.attention,
        labels=_labels(session) if session.labels or session.attention else (),
    )


def _labels(session: Session) -> tuple[tuple[str, str], ...]:
    """Index labels, and with them every kind of attention that the session needs."""
    calls = [attention_label(kind) for kind in attention.kinds_of(session)]
    return (*calls, *sorted(session.labels.items()))


def _expires_at_s(session: Session | None, event: Event, now_ns: int) -> int | None:
    match event.WhichOneof("change"):
        case "session_created":
            idle = event.session_created.session.idle_seconds
        case "visit_started":
            idle = event.visit_started.session.idle_seconds
        case "session_reset":
            idle = event.session_reset.session.idle_seconds
        case "session_extended":
            idle = event.session_extended.idle_seconds
        case _ if session is None or not sessions.is_active(session):
            return None
        case _:
            idle = session.idle_seconds
    return -(-now_ns // NS) + idle


def _as_expired(session: Session) -> Session:
    state = Session()
    state.CopyFrom(session)
    state.status = SESSION_STATUS_EXPIRED
    return state


def _swept(event: Event) -> str:
    items = event.attention_changed.attention_items
    if any(item.kind == ATTENTION_ABANDONED_TAB for item in items):
        return "abandoned"
    counted = {"session_expired": "expired", "session_deleted": "deleted"}
    return counted.get(event.WhichOneof("change") or "", "")


def _full(size: int, limit: int) -> MaitredError:
    return SessionFull(
        f"the session would take {size} bytes, at most {limit} fit;"
        " place the order, or remove attributes",
        metadata={"limit": str(limit), "size": str(size)},
    )


def kind(retention_s: int) -> Aggregate:
    """Describe sessions; ended ones are kept for `retention_s`, or for ever where that is 0."""
    return Aggregate(
        number=SESSION,
        name="session",
        state=Session,
        fold=evolve.evolve_session,
        absent=InvalidSession,
        gone=SessionDeleted,
        source=1,
        index=_index,
        rows=projections.rows,
        tables=(Table.PAYMENTS, Table.ORDERS),
        counters={
            "expected_payment_version": lambda session: int(session.payment.version),
            "expected_reset_count": lambda session: int(session.reset_count),
        },
        life=Life(
            require_open=sessions.require_open,
            is_overdue=sessions.is_overdue,
            expire=lambda _session: sessions.expire(),
            expired=SessionExpired,
            as_expired=_as_expired,
            active_status=SESSION_STATUS_ACTIVE,
            expired_status=SESSION_STATUS_EXPIRED,
            expires_at_s=_expires_at_s,
            wake_at_ns=lambda session: sessions.wake_at_ns(session, retention_s),
            tick=lambda session, now_ns: sessions.tick(session, now_ns, retention_s),
            swept=_swept,
        ),
        most_bytes=SESSION_BYTES,
        too_large=_full,
        keeps=Keep(tables=(Table.PAYMENTS,), spaces=(PROVIDER,)),
    )
