"""Request ids: what makes a retry, of a call or of a whole turn, have one effect."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import Counter
from typing import Protocol

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

_NOT_ARGUMENTS = frozenset(
    {"request_id", "expected_version", "expected_payment_version", "expected_reset_count"}
)


class RequestIds(Protocol):
    """Names requests that have no id yet."""

    def next_for(self, request: Message) -> str:
        """Make the id of a request."""


class RandomIds:
    """A new id for each request: safe to retry by the transport, not to run again."""

    def next_for(self, request: Message) -> str:
        """Make an id that never was."""
        return uuid.uuid4().hex


class TurnIds:
    """Ids that follow from the turn, the method, its arguments and how often they came before.

    A turn that is run again from its start asks for the same ids, and so repeats nothing.
    """

    def __init__(self, turn_id: str) -> None:
        self._turn_id = turn_id
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def next_for(self, request: Message) -> str:
        """Make the id of the n-th such call of this turn."""
        call = _canonical(request)
        with self._lock:
            self._calls[call] += 1
            count = self._calls[call]
        digest = hashlib.blake2b(digest_size=16)
        for part in (self._turn_id, call, str(count)):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.hexdigest()


def _canonical(request: Message) -> str:
    # JSON, since the serialised bytes of a message may differ between releases of protobuf.
    fields = MessageToDict(request, preserving_proto_field_name=True)
    arguments = {name: value for name, value in fields.items() if name not in _NOT_ARGUMENTS}
    return request.DESCRIPTOR.full_name + json.dumps(
        arguments, sort_keys=True, separators=(",", ":")
    )
