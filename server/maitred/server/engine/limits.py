"""How large what is kept, read and sent may be, in bytes; a client receives 4 MiB by default."""

from __future__ import annotations

from maitred.server.engine.cache import Head
from maitred.server.errors import RequestTooLarge, SessionFull
from maitred.server.stores.base import Kind

KIB, MIB = 1024, 1024 * 1024

MESSAGE_BYTES = 2 * MIB
"""No page of a listing and no message of a watch is larger; a page of the store and one more event
of the largest size fit in."""
PAGE_EVENTS = 128
"""Events read from the store, and sent in one message, at a time."""
EVENT_BYTES = MIB + 64 * KIB
"""The largest event. A menu comes as one, and with its state in the same answer."""
SESSION_BYTES = 256 * KIB
"""What the state of a session may grow to; an answer carries it beside the event."""
MENU_BYTES = MIB + 32 * KIB
"""The largest menu."""


FILLING = frozenset({"session_created", "session_updated", "context_updated", "line_added"})
"""Changes by which callers fill a session. What pays, places or ends it is small, and must always
be possible."""


def check(kind: Kind, change: str, head: Head | None, state: bytes, event: bytes) -> None:
    """Refuse what could not be answered or watched: here, and nowhere else, is it accepted.

    A state that is too large already may shrink. Raises: RequestTooLarge, SessionFull.
    """
    if len(event) > EVENT_BYTES:
        raise RequestTooLarge(
            f"this takes {len(event)} bytes to record, at most {EVENT_BYTES} are",
            metadata=_metadata(event, EVENT_BYTES),
        )
    grows = head is None or len(state) > len(head.body)
    if kind is Kind.MENU and grows and len(state) > MENU_BYTES:
        raise RequestTooLarge(
            f"the menu takes {len(state)} bytes, at most {MENU_BYTES} fit",
            metadata=_metadata(state, MENU_BYTES),
        )
    if change in FILLING and grows and len(state) > SESSION_BYTES:
        raise SessionFull(
            f"the session would take {len(state)} bytes, at most {SESSION_BYTES} fit;"
            " place the order, or remove attributes",
            metadata=_metadata(state, SESSION_BYTES),
        )


def _metadata(found: bytes, limit: int) -> dict[str, str]:
    return {"limit": str(limit), "size": str(len(found))}
