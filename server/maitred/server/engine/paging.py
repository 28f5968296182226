"""Pages: authenticated tokens bound to their listing, and how much one page holds."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from maitred.server.engine.call import Call
from maitred.server.engine.limits import MESSAGE_BYTES
from maitred.server.engine.tokens import Tokens
from maitred.server.errors import InvalidPageToken, Violation
from maitred.server.stores.values import PAGE_BYTES
from maitred.v1.common_pb2 import Binding, Role

DEFAULT_PAGE_SIZE = 50
"""Entries of a page where the caller names no size."""

CHUNK = 128
"""Entries read from the store at a time."""

_PLACE = struct.Struct(">q")

T = TypeVar("T")


class Listing:
    """One listing as its request describes it: how long its pages are and where this one begins."""

    def __init__(self, request: Message, tokens: Tokens, call: Call) -> None:
        """Read page_size and page_token of a request.

        Raises: InvalidPageToken, for any token but one of this listing, made by a server of this
        store for somebody who may see as much as this caller.
        """
        self.size: int = getattr(request, "page_size", 0) or DEFAULT_PAGE_SIZE
        actor = call.actor
        self._seal = tokens.seal(
            "page",
            request.DESCRIPTOR.full_name,
            _selection(request),
            Role.Name(actor.role),
            Binding.Name(actor.binding),
            actor.bound_to,
        )
        self.start = self._decode(getattr(request, "page_token", ""))
        """The position to continue from; None for the first page."""

    def token(self, position: int | None) -> str:
        """Make the token that continues after a position; empty at the end."""
        return "" if position is None else _written(self._seal.token(_PLACE.pack(position)))

    def _decode(self, token: str) -> int | None:
        if not token:
            return None
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        place = self._seal.place(raw)
        # Base64 can be written in more ways than one.
        if place is None or len(place) != _PLACE.size or _written(raw) != token:
            raise InvalidPageToken(
                "the page token is not of this listing",
                violations=[
                    Violation("page_token", "page_token.scope", "must come from the page before")
                ],
            )
        return int(_PLACE.unpack(place)[0])


async def fill(
    listing: Listing,
    read: Callable[[int | None, int], Awaitable[Sequence[T]]],
    position: Callable[[T], int],
    size_bytes: Callable[[T], int],
    entries: Callable[[T], int] = lambda _item: 1,
) -> tuple[list[T], int | None]:
    """Read one page, and where the next one begins; None at the end of the listing.

    `read(after, limit)` answers what follows a position. A page ends where it holds enough entries
    or enough bytes, yet never before its first item.
    """
    items: list[T] = []
    after, held, held_bytes = listing.start, 0, 0
    while True:
        wanted = min(CHUNK, max(1, listing.size - held + 1))
        chunk = await read(after, wanted)
        for item in chunk:
            held_bytes += size_bytes(item)
            if items and (held >= listing.size or held_bytes > MESSAGE_BYTES):
                return items, after
            items.append(item)
            held += entries(item)
            after = position(item)
        # A store ends its pages early in bytes; of what was read these are not counted exactly.
        if len(chunk) < wanted and sum(map(size_bytes, chunk)) < PAGE_BYTES // 2:
            return items, None
        if not chunk:
            return items, None


def _written(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).decode()


def _selection(request: Message) -> bytes:
    """Serialise what a listing selects."""
    selection = type(request)()
    selection.CopyFrom(request)
    for field in ("page_size", "page_token"):
        selection.ClearField(field)
    return selection.SerializeToString(deterministic=True)
