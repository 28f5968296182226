"""How large what is kept, read and sent may be, in bytes; a client receives 4 MiB by default."""

from __future__ import annotations

from maitred.server.engine.cache import Latest
from maitred.server.errors import RequestTooLarge
from maitred.server.kinds.aggregate import Aggregate

KIB, MIB = 1024, 1024 * 1024

MESSAGE_BYTES = 2 * MIB
"""No page of a listing and no message of a watch is larger; a page of the store and one more event
of the largest size fit in."""
PAGE_EVENTS = 128
"""Events read from the store, and sent in one message, at a time."""
EVENT_BYTES = MIB + 64 * KIB
"""The largest event. A menu comes as one, and with its state in the same answer."""


def check(kind: Aggregate, change: str, head: Latest | None, state: bytes, event: bytes) -> None:
    """Refuse what could not be answered or watched: here, and nowhere else, is it accepted.

    A state that is too large already may shrink. Raises: RequestTooLarge, or the kind's own.
    """
    if len(event) > EVENT_BYTES:
        raise RequestTooLarge(
            f"this takes {len(event)} bytes to record, at most {EVENT_BYTES} are",
            metadata={"limit": str(EVENT_BYTES), "size": str(len(event))},
        )
    if len(state) <= kind.most_bytes or change not in kind.changes.fills:
        return
    if head is None or len(state) > len(head.body):
        raise kind.too_large(len(state), kind.most_bytes)
