"""What a row of the log holds, and how its chain binds it to the rows before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, overload

from google.protobuf.message import Message

from maitred.server.domain import personal
from maitred.server.domain.changes import MARKS
from maitred.server.domain.evolve import upcast
from maitred.server.engine.clock import Ids
from maitred.server.stores.base import Ref, StoredEvent
from maitred.v1.event_pb2 import Event

SALT_BYTES = 16
DIGEST_BYTES = 16
CHAIN_BYTES = 32


class Encoded(NamedTuple):
    """An event as it is stored, and as it is shown."""

    facts: bytes
    personal: bytes | None
    full: bytes


def encode(event: Any, ids: Ids) -> Encoded:
    """Part an event into its hashed facts and its erasable rest.

    The facts hold a salted digest of the rest, so that the chain vouches for it too, yet tells
    nothing of it once it is erased.
    """
    facts, private = personal.split(event)
    if private is None:
        whole = facts.SerializeToString()
        return Encoded(whole, None, whole)
    rest = ids.random_bytes(SALT_BYTES) + private.SerializeToString()
    digest = hashlib.blake2b(rest, digest_size=DIGEST_BYTES).digest()
    facts.personal_digest = digest
    event.personal_digest = digest
    return Encoded(facts.SerializeToString(), rest, event.SerializeToString())


@overload
def decode(stored: StoredEvent) -> Event: ...
@overload
def decode(stored: StoredEvent, event: type[Message]) -> Any: ...
def decode(stored: StoredEvent, event: type[Message] = Event) -> Any:
    """Put an event together again, as far as it was not erased, in today's shape."""
    facts = event.FromString(stored.facts)
    if stored.personal is not None:
        personal.merge(facts, event.FromString(stored.personal[SALT_BYTES:]))
    return upcast(facts)


def decode_bytes(stored: StoredEvent, event: type[Message] = Event) -> bytes:
    """Serialise an event as it is shown; the stored bytes themselves where nothing was parted."""
    if stored.personal is None:
        return stored.facts
    whole: bytes = decode(stored, event).SerializeToString()
    return whole


def personal_fits(stored: StoredEvent) -> bool:
    """Whether the erasable part is the one that the facts vouch for, or was erased."""
    if stored.personal is None:
        return True
    digest = hashlib.blake2b(stored.personal, digest_size=DIGEST_BYTES).digest()
    return Event.FromString(stored.facts).personal_digest == digest


def chain_start(ref: Ref) -> bytes:
    """The link before version 1: it binds a log to the name of its aggregate."""
    return hashlib.blake2b(f"{int(ref.kind)}:{ref.id}".encode(), digest_size=CHAIN_BYTES).digest()


def chain_next(previous: bytes, facts: bytes) -> bytes:
    """The link after an event, over the very bytes that are stored."""
    return hashlib.blake2b(previous + facts, digest_size=CHAIN_BYTES).digest()


def change_number(change: str) -> int:
    """The number under which a change is stored: its field number in Event."""
    return MARKS.numbers[change]


def change_numbers() -> Mapping[str, int]:
    """All changes, by name."""
    return MARKS.numbers
