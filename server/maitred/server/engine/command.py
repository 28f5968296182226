"""What a service asks of the engine, and what it gets back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import Message

from maitred.server.engine import wire
from maitred.server.stores.base import Claim, Ref, Row
from maitred.v1.event_pb2 import Event


@dataclass(slots=True)
class Command:
    """One decision about one aggregate.

    `decide(state, now_ns)` is pure: it returns an `Event` with only its `change` set, or None where
    nothing changes, or raises a MaitredError. The engine adds version, time, actor and expiry. It
    may be called several times, each time on a newer state. `state` is None for what does not
    exist; it is never to be changed in place.
    """

    ref: Ref
    decide: Callable[[Any, int], Event | None]
    request: Message | None = None
    """Carries request_id and preconditions; None for what the server does by itself."""
    prepare: Callable[[Any], Awaitable[None]] | None = None
    """Reads, under the lock, what the decision needs beside the state; never a provider."""
    claims: Callable[[Event], tuple[Claim, ...]] | None = None
    """Unique keys taken in the same commit; owners may use `event.version`."""
    rows: tuple[Row, ...] = ()
    """Rows written in the same commit, beside those that the event leads to."""
    ended: bool = False
    """Allowed on an expired or closed session: provider facts, refunds, staff resolution."""
    overdue: bool = False
    """Offered an overdue session as it is, for what ends it by itself; for all else it expires
    first."""
    about: Callable[[Any], str] | None = None
    """Names the payment that was found as wished, for the record of a request without effect."""
    create: bool = False
    """Creates the aggregate; one that exists is offered to `decide` as any other state."""


class ClaimRefused(Exception):
    """A claim of the command is owned by somebody else; the service says what that means."""

    def __init__(self, space: str, key: str, owner: str) -> None:
        super().__init__(f"{space}/{key} is owned by {owner}")
        self.space = space
        self.key = key
        self.owner = owner


class Result(NamedTuple):
    """What a command led to: the state as it is now and the event that its request produced."""

    version: int
    body: bytes
    """The state, serialised."""
    event: bytes
    """The event, serialised with its personal fields; empty where nothing changed."""
    replayed: bool
    message: Event | None = None
    """The event itself, where it was made just now; never to be changed."""

    def reply(self, extras: Message | None = None) -> bytes:
        """Serialise the response that every mutation has, plus the fields set in `extras`."""
        return wire.reply(self.body, self.event, replayed=self.replayed, extras=extras)

    def parsed_event(self) -> Event | None:
        """The event as a message; None where nothing changed."""
        if self.message is not None:
            return self.message
        return Event.FromString(self.event) if self.event else None
