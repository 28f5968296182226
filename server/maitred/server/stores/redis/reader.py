"""Reads of many: pages put together from scripts that are bounded each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from maitred.server.stores.base import Claim, Record, Ref, StoredEvent
from maitred.server.stores.redis.codec import (
    claim_name,
    claim_of,
    claim_place,
    event_of,
    loaded_of,
    name_of,
    place_of,
    ref_of,
    row_of,
)
from maitred.server.stores.values import PAGE_BYTES, event_size

PIECE: Final = 500
"""What one script may read or delete, so that the commits of others do not wait for it."""

_WALK: Final = 1000
"""Events that one script looks through for those of some changes."""

_FIRST_TABLES: Final = (1, 2, 3)
"""Projections whose rows were written before rows noted their table."""

_ALL: Final = 2**53
"""No version is as high."""

Read = Callable[..., Awaitable[Any]]
"""Runs a script by its name, with its arguments."""


async def read_versions(read: Read, refs: Iterable[Ref]) -> dict[Ref, int]:
    """Read the versions of those that exist."""
    wanted = tuple(refs)
    found: dict[Ref, int] = {}
    for start in range(0, len(wanted), PIECE):
        some = wanted[start : start + PIECE]
        versions = await read("versions", *map(name_of, some))
        pairs = zip(some, versions, strict=True)
        found.update((ref, int(version)) for ref, version in pairs if version is not None)
    return found


async def read_events(
    read: Read,
    ref: Ref,
    after: int,
    limit: int,
    changes: Sequence[int] | None,
    before: int | None,
    *,
    newest_first: bool,
) -> list[StoredEvent]:
    """Read a page of one log."""
    chosen = [b"%d" % change for change in changes or ()]
    count = b"-1" if changes is None else b"%d" % len(chosen)
    low, high = after, _ALL if before is None else before
    found: list[StoredEvent] = []
    while len(found) < limit and sum(map(event_size, found)) < PAGE_BYTES:
        go_on, *events = await read(
            "events",
            name_of(ref),
            b"%d" % low,
            b"%d" % high,
            b"%d" % min(limit - len(found), PIECE),
            b"%d" % _WALK,
            b"1" if newest_first else b"0",
            count,
            *chosen,
        )
        found += [event_of(ref, event) for event in events]
        if go_on is None:
            break
        if newest_first:
            high = int(go_on) + 1
        else:
            low = int(go_on) - 1
    return found


async def read_lines(
    read: Read,
    name: str,
    first: list[bytes],
    after: int | None,
    limit: int,
    rest: list[bytes],
    *,
    body: int,
) -> list[Any]:
    """Read a page of a listing; `body` is the place of the body in a line."""
    place = b"" if after is None else b"%d" % after
    found: list[Any] = []
    while len(found) < limit and sum(len(line[body]) for line in found) < PAGE_BYTES:
        asked = min(limit - len(found), PIECE)
        go_on, *lines = await read(name, *first, place, b"%d" % asked, *rest)
        found += lines
        if go_on is None:
            break
        place = go_on
    return found


async def read_feed(read: Read, after: bytes, limit: int) -> list[StoredEvent]:
    """Read a page of the log of all aggregates. Raises: ValueError for what is no cursor."""
    place = place_of(after)
    found: list[StoredEvent] = []
    while len(found) < limit and sum(map(event_size, found)) < PAGE_BYTES:
        asked = b"%d" % min(limit - len(found), PIECE)
        last, *lines = await read("feed", place, asked)
        if last is None:
            break
        place = last
        pairs = zip(*[iter(lines)] * 2, strict=True)
        found += [event_of(ref_of(name), event) for name, event in pairs]
    return found


async def read_claims(read: Read, after: tuple[str, str] | None, limit: int) -> list[Claim]:
    """Read a page of all claims."""
    place = b"" if after is None else claim_name(*after)
    found: list[Claim] = []
    while len(found) < limit:
        asked = min(limit - len(found), PIECE)
        lines = list(zip(*[iter(await read("list_claims", place, b"%d" % asked))] * 3, strict=True))
        found += [claim_of(*claim_place(name), held) for name, *held in lines]
        if len(lines) < asked:
            break
        place = lines[-1][0]
    return found


async def read_tables(read: Read) -> list[int]:
    """Read which projections have ever been written."""
    return sorted({*_FIRST_TABLES, *map(int, await read("tables"))})


async def read_records(read: Read, after: Ref | None) -> AsyncIterator[Record]:
    """Read all aggregates with everything of them, each page of one from one snapshot."""
    tables = [b"%d" % table for table in await read_tables(read)]
    place = b"" if after is None else name_of(after)
    while names := await read("refs", place, b"%d" % PIECE):
        for name in names:
            ref, seen, more = ref_of(name), 0, True
            while more:
                head, *rest = await read("record", name, b"%d" % seen, b"%d" % PIECE, *tables)
                if head is None:
                    break
                loaded = loaded_of(ref, head)
                events = tuple(event_of(ref, event) for event in rest[0])
                rows = sorted(map(row_of, rest[1]), key=lambda row: row.position)
                seen = events[-1].version if events else loaded.version
                more = seen < loaded.version
                yield Record(loaded, events, tuple(rows), more)
        place = names[-1]
