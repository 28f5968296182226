"""What the engine must know of each kind of aggregate; adding a kind adds one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from maitred.server.domain import attention, evolve, sessions
from maitred.server.errors import (
    InvalidSession,
    MaitredError,
    MenuNotFound,
    SessionDeleted,
)
from maitred.server.stores.base import Index, Kind
from maitred.v1 import event_pb2 as ev
from maitred.v1.state_pb2 import Menu, Session

NS = 1_000_000_000

KEEPS_EXPIRY = frozenset(
    {"session_expired", "session_closed", "session_deleted", "attention_changed"}
)
"""Changes that do not count as a sign of life."""


UNLISTED = frozenset(
    {
        "turn_recorded",
        "context_updated",
        "phase_reset",
        "line_added",
        "line_removed",
        "order_cleared",
        "order_placed",
        "line_voided",
        "balance_adjusted",
        "tip_set",
        "session_extended",
        "request_recorded",
    }
)
"""Changes that touch no column that listings filter on."""


class Aggregate(NamedTuple):
    """The rules of one kind, as data."""

    parse: Callable[[bytes], Any]
    evolve: Callable[[Any, ev.Event], Any]
    index_of: Callable[[Any], Index]
    wake_at_ns: Callable[[Any], int | None]
    expires_at_s: Callable[[Any, ev.Event, int], int | None]
    """Whole seconds for the event's expires_at; None leaves it."""
    absent: Callable[[str], MaitredError]
    gone: Callable[[str], MaitredError]


def _session_index(session: Session) -> Index:
    created = session.created_at
    return Index(
        created_ns=created.seconds * NS + created.nanos,
        status=session.status,
        customer_id=session.customer_id,
        attention=session.attention,
        labels=_labels(session) if session.labels or session.attention else (),
    )


def _labels(session: Session) -> tuple[tuple[str, str], ...]:
    """Index labels, and with them every kind of attention that the session needs."""
    calls = [attention_label(kind) for kind in attention.kinds_of(session)]
    return (*calls, *sorted(session.labels.items()))


def attention_label(kind: int) -> tuple[str, str]:
    """Name a kind of attention as a label of the index; no label of a caller's looks like it."""
    return "!attention", str(kind)


def _session_expires_at(session: Session | None, event: ev.Event, now_ns: int) -> int | None:
    match event.WhichOneof("change"):
        case "session_created":
            idle = event.session_created.session.idle_seconds
        case "visit_started":
            idle = event.visit_started.session.idle_seconds
        case "session_reset":
            idle = event.session_reset.session.idle_seconds
        case "session_extended":
            idle = event.session_extended.idle_seconds
        case change if change in KEEPS_EXPIRY or session is None:
            return None
        case _:
            if not sessions.is_active(session):
                return None
            idle = session.idle_seconds
    return -(-now_ns // NS) + idle


def _menu_index(menu: Menu) -> Index:
    updated = menu.updated_at
    return Index(created_ns=updated.seconds * NS + updated.nanos)


def aggregates(retention_s: int) -> dict[Kind, Aggregate]:
    """Build the table for the settings of this server."""
    return {
        Kind.SESSION: Aggregate(
            parse=Session.FromString,
            evolve=evolve.evolve_session,
            index_of=_session_index,
            wake_at_ns=lambda session: sessions.wake_at_ns(session, retention_s),
            expires_at_s=_session_expires_at,
            absent=lambda name: InvalidSession(f"there is no session {name!r}"),
            gone=lambda name: SessionDeleted(f"session {name!r} was deleted"),
        ),
        Kind.MENU: Aggregate(
            parse=Menu.FromString,
            evolve=evolve.evolve_menu,
            index_of=_menu_index,
            wake_at_ns=lambda _menu: None,
            expires_at_s=lambda _menu, _event, _now: None,
            absent=lambda name: MenuNotFound(f"there is no menu {name!r}"),
            gone=lambda name: MenuNotFound(f"menu {name!r} was deleted"),
        ),
    }
