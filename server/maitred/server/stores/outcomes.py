"""What comes of an append: the rules that every engine in SQL decides by, in one place."""

from __future__ import annotations

import json
from typing import Protocol

from maitred.server.stores.base import Append, Conflict, CorruptData, Replayed


class Met(Protocol):
    """A head as a commit finds it, and the event of the commit's request."""

    @property
    def version(self) -> int:
        """Its version."""

    @property
    def commit_id(self) -> bytes:
        """The commit that made it."""

    @property
    def tombstone(self) -> int:
        """Whether nothing but the tombstone is left."""

    @property
    def request_version(self) -> int | None:
        """The version that the request made; None where it was never answered."""

    @property
    def request_fingerprint(self) -> bytes | None:
        """The fingerprint of that request."""


def replay(append: Append, head: Met | None) -> Replayed | None:
    """Return the outcome of a request that the log already holds."""
    if head is None or head.request_version is None or head.request_fingerprint is None:
        return None
    if head.tombstone and head.request_version != head.version:
        return None
    return Replayed(append.ref, head.request_version, head.request_fingerprint)


def conflict(append: Append, head: Met | None) -> Conflict | None:
    """Return the outcome of an append that was decided on another version."""
    if head is None:
        return None if append.base == 0 else Conflict(append.ref, 0, b"")
    if head.version == append.base and not head.tombstone:
        return None
    return Conflict(append.ref, head.version, head.commit_id)


def encode_labels(labels: tuple[tuple[str, str], ...]) -> str | None:
    """Return the text that a head keeps of its labels."""
    return json.dumps(labels, ensure_ascii=False) if labels else None


def decode_labels(text: str | None) -> tuple[tuple[str, str], ...]:
    """Return the labels in the order in which they were given. Raises: CorruptData."""
    if text is None:
        return ()
    try:
        return tuple((name, value) for name, value in json.loads(text))
    except ValueError as error:
        raise CorruptData(f"stored labels are damaged: {text[:60]!r}") from error
