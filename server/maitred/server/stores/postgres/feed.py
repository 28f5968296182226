"""The feed: why it has no gaps, and its cursor.

Positions are given in lanes. A transaction that adds events first locks the row of its lane, takes
from it positions above all that were given there, and holds the lock until it has committed. So in
one lane positions become visible in their order: whoever writes after T has read the row that T
wrote, and no snapshot holds a transaction without what it depends on. A reader that has seen a
position of a lane has seen all below it that were ever given there. Between lanes nothing is
promised, which is why a cursor names a place in each of them; a single number would step over a
transaction that took its position early and committed late.

Within an aggregate the order is that of versions, across lanes too: a position is also above that
of the aggregate's newest event, which its locked head tells. A page is the lowest positions of all
lanes, read in one statement, hence from one snapshot: where it holds version 2, version 1 has a
lower position, is in the snapshot as well, and comes before it.

That needs no more of a database than row locks and snapshots that respect cause and effect: no
sequence (whose order is not that of commits), no transaction ids (which only PostgreSQL shows), no
serializable isolation. Each server writes in a lane of its own while there are fewer of them than
lanes, so that nobody waits for anybody; sharing one costs time and nothing else. Positions follow
the database's clock as far as the rule allows, so that lanes merge in the order of time.
"""

from __future__ import annotations

import struct
from typing import Final

LANES: Final = 64
"""A position's remainder by this is its lane; the table of lanes has a row for each."""

_PLACE = struct.Struct("!Q")

Cursor = dict[int, int]
"""For each lane in which anything was seen, the last position."""


def decode_cursor(cursor: bytes) -> Cursor:
    """Return the places that a cursor names. Raises: ValueError."""
    if len(cursor) % _PLACE.size:
        raise ValueError("this is no cursor of this store")
    places = [place for (place,) in _PLACE.iter_unpack(cursor)]
    found = {place % LANES: min(place, 2**63 - 1) for place in places}
    if len(found) != len(places):
        raise ValueError("this is no cursor of this store")
    return found


def encode_cursor(places: Cursor) -> bytes:
    """Return the cursor that names a place in each lane; lanes that hold nothing need none."""
    return b"".join(_PLACE.pack(place) for lane, place in sorted(places.items()) if place >= LANES)
