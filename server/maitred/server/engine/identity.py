"""What makes a request the same request, and what a request expects of the state."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from maitred.server.engine.cache import Latest
from maitred.server.errors import ConcurrentModification, RequestIdReused
from maitred.server.kinds.aggregate import Aggregate

REQUEST_ID_BYTES = 16
FINGERPRINT_BYTES = 16


class Identity(NamedTuple):
    """What a retry has in common with the request that it repeats."""

    request_id: bytes | None
    fingerprint: bytes


NOBODY = Identity(None, b"")
"""Of what the server does by itself."""


def identify(request: Message | None, rpc: str) -> Identity:
    """Digest a request's id (None where it has none) and its content."""
    if request is None:
        return NOBODY
    request_id = getattr(request, "request_id", "")
    digest = digest_request_id(request_id) if request_id else None
    return Identity(digest, fingerprint(rpc, request))


def require_same(recorded: bytes, who: Identity) -> None:
    """Refuse an id that came with another request. Raises: RequestIdReused."""
    if recorded != who.fingerprint:
        raise RequestIdReused("this request id was used for another request")


def digest_request_id(request_id: str) -> bytes:
    """Shorten a caller's request id to the 16 bytes that are stored."""
    return hashlib.blake2b(request_id.encode(), digest_size=REQUEST_ID_BYTES).digest()


def fingerprint(rpc: str, request: Message) -> bytes:
    """Digest the rpc and the request without its id and preconditions."""
    content = request
    given = [name for name in _fields(request.DESCRIPTOR) if _is_given(request, name)]
    if given:
        content = type(request)()
        content.CopyFrom(request)
        for name in given:
            content.ClearField(name)
    serialised = content.SerializeToString(deterministic=True)
    return hashlib.blake2b(rpc.encode() + serialised, digest_size=FINGERPRINT_BYTES).digest()


def _is_given(request: Message, name: str) -> bool:
    # A request id has no presence of its own: it is a plain string.
    return bool(request.request_id) if name == "request_id" else request.HasField(name)  # type: ignore[attr-defined]


def check_preconditions(request: Message, kind: Aggregate, head: Latest | None) -> None:
    """Refuse unless the state is what the request expects.

    Raises: ConcurrentModification.
    """
    for name in _fields(request.DESCRIPTOR):
        if name == "request_id" or not request.HasField(name):
            continue
        expected = getattr(request, name)
        found = _found(name, kind, head)
        if expected != found:
            raise ConcurrentModification(
                f"{name} is {expected}, found {found}",
                metadata={
                    "current_version": str(0 if head is None else head.version),
                    name.replace("expected", "current"): str(found),
                },
            )


def _found(name: str, kind: Aggregate, head: Latest | None) -> int:
    if head is None:
        return 0
    return head.version if name == "expected_version" else kind.counters[name](head.state)


@cache
def _fields(descriptor: Descriptor) -> tuple[str, ...]:
    """Fields that say how to apply a request, not what it asks for."""
    names = descriptor.fields_by_name
    return tuple(name for name in names if name == "request_id" or name.startswith("expected_"))
