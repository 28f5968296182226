"""How large what is kept, read and sent may be, in bytes; a client receives 4 MiB by default."""

from __future__ import annotations

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
MENU_BYTES = MIB
"""The largest menu."""
