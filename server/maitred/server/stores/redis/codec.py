"""From the protocol's records to the arguments of scripts, and from their answers back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from maitred.server.stores.base import (
    Append,
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    Conflict,
    CorruptData,
    HeadFilter,
    Index,
    Loaded,
    Outcome,
    Ref,
    Replayed,
    Row,
    RowFilter,
    StoredEvent,
)

COMMITTED: Final = Committed()

_SIGN: Final = 10**19
_INT64: Final = 1 << 63
_CURSOR_BYTES: Final = 16
_END_OF_SPACE: Final = re.compile(rb"\0(?!\xff)")
_ID_BYTES: Final = 8


def sortable(time_ns: int) -> bytes:
    """Write a time as 20 digits that sort as text. Raises: OverflowError beyond 64 bits."""
    if not -_INT64 <= time_ns < _INT64:
        raise OverflowError(f"{time_ns} is no time in nanoseconds")
    return b"%020d" % (time_ns + _SIGN)


def time_of(digits: bytes) -> int:
    """Read a time that `sortable` wrote."""
    return int(digits) - _SIGN


def optional_time(digits: bytes) -> int | None:
    """Read a time that may be absent."""
    return time_of(digits) if digits else None


def name_of(ref: Ref) -> bytes:
    """Write a ref as the keys have it."""
    return b"%02d:%b" % (ref.kind, ref.id.encode())


def ref_of(name: bytes) -> Ref:
    """Read a ref that `name_of` wrote."""
    return Ref(int(name[:2]), name[3:].decode())


def label_of(name: str, value: str) -> bytes:
    """Write a label as the keys have it: no other label reads the same."""
    encoded = name.encode()
    return b"%d:%b%b" % (len(encoded), encoded, value.encode())


def claim_name(space: str, key: str) -> bytes:
    """Write the place of a claim as the keys have it: these sort as (space, key) does.

    A zero byte ends the space; one within it is followed by a byte that no text begins with.
    """
    return b"%b\0%b" % (space.encode().replace(b"\0", b"\0\xff"), key.encode())


def claim_place(name: bytes) -> tuple[str, str]:
    """Read space and key of a name that `claim_name` wrote."""
    space, key = _END_OF_SPACE.split(name, maxsplit=1)
    return space.replace(b"\0\xff", b"\0").decode(), key.decode()


# ---------------------------------------------------------------------------- arguments


def append_arguments(append: Append) -> list[bytes]:
    """Write an append. Raises: OverflowError, UnicodeError, TypeError for what cannot be kept."""
    (ref, base, commit_id, request_id, fingerprint, time_ns, change) = append[:7]
    (facts, personal, chain, body, index, wake_at_ns) = append[7:]
    arguments = [
        name_of(ref),
        b"%d" % base,
        b"%d" % (base + 1),
        commit_id,
        request_id or b"",
        fingerprint,
        b"%d" % time_ns,
        b"%d" % change,
        facts,
        _personal(personal),
        chain,
        body,
        b"" if wake_at_ns is None else sortable(wake_at_ns),
    ]
    if index is None and base == 0:
        index = Index(created_ns=time_ns)
    if index is None:
        arguments.append(b"0")
    else:
        arguments += (b"1", *_index_arguments(index))
    return arguments


def _personal(personal: bytes | None) -> bytes:
    """Write what may be absent, which is not the same as empty."""
    return b"" if personal is None else b"=" + personal


def _index_arguments(index: Index) -> list[bytes]:
    return [
        sortable(index.created_ns),
        b"%d" % index.status,
        index.owner.encode(),
        b"%d" % index.flag,
        json.dumps(index.labels, ensure_ascii=False).encode(),
    ]


def head_arguments(head: Loaded) -> list[bytes]:
    """Write a head. Raises: OverflowError, UnicodeError, TypeError for what cannot be kept."""
    return [
        name_of(head.ref),
        b"%d" % head.version,
        head.commit_id,
        b"%d" % head.time_ns,
        head.chain,
        head.body,
        b"" if head.wake_at_ns is None else sortable(head.wake_at_ns),
        b"%d" % head.tombstone,
        *_index_arguments(head.index),
    ]


def event_arguments(event: StoredEvent) -> list[bytes]:
    """Write an event of a log. Raises: TypeError for what cannot be kept."""
    return [
        b"%d" % event.version,
        event.commit_id,
        event.request_id or b"",
        event.fingerprint,
        b"%d" % event.time_ns,
        b"%d" % event.change,
        event.facts,
        _personal(event.personal),
        event.chain,
    ]


def commit_arguments(commit: Commit) -> list[bytes]:
    """Write a commit. Raises: OverflowError, UnicodeError, TypeError for what cannot be kept."""
    (appends, claims, releases, rows, drops) = commit
    arguments = [b"%d" % len(appends)]
    for append in appends:
        arguments += append_arguments(append)
    arguments.append(b"%d" % len(claims))
    for claim in claims:
        arguments += (
            claim_name(*claim[:2]),
            claim.owner.encode(),
            b"" if claim.expires_ns is None else sortable(claim.expires_ns),
        )
    arguments.append(b"%d" % len(releases))
    for claim in releases:
        arguments += (claim_name(*claim[:2]), claim.owner.encode())
    arguments.append(b"%d" % len(rows))
    for row in rows:
        arguments += (
            b"%d" % row.table,
            row.key.encode(),
            name_of(row.ref),
            sortable(row.created_ns),
            b"%d" % row.status,
            b"%d" % row.flag,
            row.body,
        )
    arguments.append(b"%d" % len(drops))
    for table, key in drops:
        arguments += (b"%d" % table, key.encode())
    return arguments


def head_filter_arguments(where: HeadFilter) -> list[bytes]:
    """Write what selects heads."""
    statuses = tuple(dict.fromkeys(where.statuses))
    return [
        b"" if where.owner is None else b"=" + where.owner.encode(),
        b"" if where.flag is None else b"=%d" % where.flag,
        *_range_arguments(where),
        b"%d" % len(statuses),
        *(b"%d" % status for status in statuses),
        b"%d" % len(where.labels),
        *(label_of(name, value) for name, value in where.labels),
    ]


def row_filter_arguments(where: RowFilter) -> list[bytes]:
    """Write what selects rows."""
    statuses, keys = tuple(dict.fromkeys(where.statuses)), tuple(dict.fromkeys(where.keys))
    return [
        b"" if where.ref is None else name_of(where.ref),
        b"" if where.flag is None else b"%d" % where.flag,
        *_range_arguments(where),
        b"%d" % len(statuses),
        *(b"%d" % status for status in statuses),
        b"%d" % len(keys),
        *(key.encode() for key in keys),
    ]


def _range_arguments(where: HeadFilter | RowFilter) -> list[bytes]:
    return [
        b"" if limit is None else sortable(limit)
        for limit in (where.created_from_ns, where.created_before_ns)
    ]


# ---------------------------------------------------------------------------- answers


def outcome_of(answer: Any) -> Outcome:
    """Read what became of a commit. Raises: CorruptData."""
    if answer == b"C":
        return COMMITTED
    match answer:
        case [b"V", name, version, commit_id]:
            return Conflict(ref_of(name), int(version), commit_id)
        case [b"R", name, version, fingerprint]:
            return Replayed(ref_of(name), int(version), fingerprint)
        case [b"T", name, owner]:
            return ClaimTaken(*claim_place(name), owner.decode())
    raise CorruptData(f"no answer of a commit: {str(answer)[:60]}")


def loaded_of(ref: Ref, head: Sequence[Any], event: StoredEvent | None = None) -> Loaded:
    """Read a head. Raises: CorruptData where a part of it is missing."""
    try:
        (version, commit_id, time, chain, body, created, status, customer, attention) = head[:9]
        (labels, wake, tombstone) = head[9:]
        index = Index(
            time_of(created),
            int(status),
            customer.decode(),
            int(attention),
            tuple((name, value) for name, value in json.loads(labels)),
        )
        return Loaded(
            ref,
            int(version),
            bytes(commit_id),
            int(time),
            bytes(chain),
            bytes(body),
            index,
            optional_time(wake),
            tombstone is not None,
            event,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptData(f"the head of {ref.id!r} of kind {ref.kind} is damaged") from error


def event_of(ref: Ref, fields: Sequence[Any]) -> StoredEvent:
    """Read an event."""
    (version, place, commit_id, request_id, fingerprint) = fields[:5]
    (time, change, facts, chain, personal) = fields[5:]
    return StoredEvent(
        ref,
        int(version),
        commit_id,
        request_id or None,
        fingerprint,
        int(time),
        int(change),
        facts,
        personal,
        chain,
        cursor_of(place),
    )


def row_of(fields: Sequence[Any]) -> Row:
    """Read a row."""
    (table, key, position, name, created, status, flag, body) = fields
    return Row(
        int(table),
        key.decode(),
        ref_of(name),
        time_of(created),
        body,
        int(status),
        int(flag),
        int(position),
    )


def claim_of(space: str, key: str, fields: Sequence[bytes]) -> Claim:
    """Read who owns a key."""
    (owner, expires) = fields
    return Claim(space, key, owner.decode(), optional_time(expires))


def cursor_of(place: bytes) -> bytes:
    """Write an id of the feed's stream as a cursor."""
    milliseconds, _, number = place.partition(b"-")
    return int(milliseconds).to_bytes(_ID_BYTES, "big") + int(number).to_bytes(_ID_BYTES, "big")


def place_of(cursor: bytes) -> bytes:
    """Read the id that a cursor names. Raises: ValueError."""
    if len(cursor) not in (0, _CURSOR_BYTES):
        raise ValueError("this is no cursor of this store")
    milliseconds, number = cursor[:_ID_BYTES], cursor[_ID_BYTES:]
    return b"%d-%d" % (int.from_bytes(milliseconds, "big"), int.from_bytes(number, "big"))
