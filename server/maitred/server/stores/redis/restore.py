"""Aggregates as another store kept them: each by one script, its log in pieces before it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from maitred.server.stores.base import Record, StoredEvent, StoreError
from maitred.server.stores.redis.codec import event_arguments, head_arguments

PIECE_EVENTS: Final = 500
PIECE_BYTES: Final = 1024 * 1024
"""What one script is given of a log at most, unless a single event is larger."""

STAGED_S: Final = 600
"""How long pieces are kept after the newest of them, so that an interrupted copy leaves nothing."""

_TOKEN_BYTES = 12

Write = Callable[..., Awaitable[Any]]
"""Runs a script by its name, with its arguments."""


async def restore(write: Write, record: Record) -> bool:
    """Write an aggregate, unless its ref exists; tells whether it was written.

    All but the last piece of a log are put aside, where nobody finds them, and become the log when
    the head is written.

    Raises: StoreError.
    """
    try:
        head = head_arguments(record.loaded)
        *pieces, last = _pieces(record.events)
    except (OverflowError, UnicodeError, TypeError) as error:
        ref = record.loaded.ref
        raise StoreError(f"{ref.id!r} of kind {ref.kind}: refused: {error}") from error
    token = os.urandom(_TOKEN_BYTES).hex().encode()
    staged = 0
    for count, arguments in pieces:
        await write("stage", token, b"%d" % STAGED_S, b"%d" % count, *arguments)
        staged += count
    count, arguments = last
    return bool(await write("restore", token, b"%d" % staged, *head, b"%d" % count, *arguments))


def _pieces(events: Sequence[StoredEvent]) -> Iterator[tuple[int, list[bytes]]]:
    """Part a log into bounded pieces, at least one: how many events, and their arguments."""
    count, size = 0, 0
    piece: list[bytes] = []
    for event in events:
        arguments = event_arguments(event)
        length = sum(map(len, arguments))
        if count and (count == PIECE_EVENTS or size + length > PIECE_BYTES):
            yield count, piece
            count, size, piece = 0, 0, []
        count, size = count + 1, size + length
        piece += arguments
    yield count, piece
