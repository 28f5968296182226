"""Messages assembled by hand around serialized bytes; only this module does so.

A state or an event is serialised once, when it is decided; replies, pages and watches send these
very bytes. Tags are those of the contract, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message


def varint(value: int) -> bytes:
    """Encode a number as protobuf does."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(encoded: bytes) -> int | None:
    """Decode what `varint` made; None for anything else."""
    value, shift = 0, 0
    for at, byte in enumerate(encoded):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value if at == len(encoded) - 1 else None
        shift += 7
    return None


_REPLY_TAGS = {1: (b"\x0a", b"\x12", b"\x18\x01"), 2: (b"\x12", b"\x1a", b"\x20\x01")}
"""Of state, event and a true `replayed`, by the number of the first of these three fields."""


def reply(
    state: bytes, event: bytes, *, replayed: bool, extras: Message | None, first: int = 1
) -> bytes:
    """Serialise `{state = 1; event = 2; replayed = 3}` plus the fields set in `extras`.

    Every mutating response has this shape, so that stored bytes go out without being parsed; where
    it says something else before it, the three begin at `first`.
    """
    state_tag, event_tag, replay = _REPLY_TAGS[first]
    parts = [state_tag, varint(len(state)), state]
    if event:
        parts += (event_tag, varint(len(event)), event)
    if replayed:
        parts.append(replay)
    if extras is not None:
        parts.append(extras.SerializeToString())
    return b"".join(parts)


def bodies(serialised: Iterable[bytes], next_page_token: str = "") -> bytes:
    """Put a response together whose field 1 holds stored messages and field 2 the next token."""
    parts: list[bytes] = []
    for body in serialised:
        parts += (b"\x0a", varint(len(body)), body)
    if next_page_token:
        token = next_page_token.encode()
        parts += (b"\x12", varint(len(token)), token)
    return b"".join(parts)


def session_events(version: int, token: bytes, events: Iterable[bytes]) -> bytes:
    """Serialise `WatchSessionResponse{version, resume_token, events}`."""
    batch = b"".join([b"\x0a" + varint(len(event)) + event for event in events])
    return _session(version, token, b"\x22", batch)


def session_snapshot(version: int, token: bytes, state: bytes) -> bytes:
    """Serialise `WatchSessionResponse{version, resume_token, snapshot}`."""
    return _session(version, token, b"\x1a", state)


def _session(version: int, token: bytes, tag: bytes, update: bytes) -> bytes:
    return b"".join(
        (
            b"\x08",
            varint(version),
            b"\x12",
            varint(len(token)),
            token,
            tag,
            varint(len(update)),
            update,
        )
    )


def sourced_event(field: int, name: str, event: bytes) -> bytes:
    """Serialise one of the `events` of a WatchEventsResponse, with its tag.

    `field` is the number of the field of `SourcedEvent.source` that names the aggregate.
    """
    source = name.encode()
    inner = b"".join(
        (
            varint(field << 3 | 2),
            varint(len(source)),
            source,
            b"\x1a",
            varint(len(event)),
            event,
        )
    )
    return b"\x12" + varint(len(inner)) + inner


def feed_events(token: bytes, sourced: Iterable[bytes]) -> bytes:
    """Serialise `WatchEventsResponse{resume_token, events}` of what `sourced_event` made."""
    return b"".join((b"\x0a", varint(len(token)), token, *sourced))


def heartbeat_interval(seconds: float) -> bytes:
    """Serialise the field `heartbeat_interval`, to be put behind a message of any watch."""
    interval = Duration()
    interval.FromNanoseconds(round(seconds * 1e9))
    encoded = interval.SerializeToString()
    return b"\x7a" + varint(len(encoded)) + encoded


def payment_end(outcome: int, *, last: bool) -> bytes:
    """Serialise `outcome` and `last`, to be put behind a WatchPaymentResponse."""
    return b"\x40" + varint(outcome) + (b"\x48\x01" if last else b"")
