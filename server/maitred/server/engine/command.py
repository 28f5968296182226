"""What a service asks of the engine, and what it gets back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from google.protobuf.message import Message

from maitred.server.engine import wire
from maitred.server.stores.base import Claim, Ref, Row
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Menu, Session


@dataclass(slots=True)
class Command:
    """One decision about one aggregate, or about several together.

    `decide(state, now_ns)` is pure: it returns an `Event` with only its `change` set, or None where
    nothing changes, or raises a MaitredError. The engine adds version, time, actor and expiry. It
    may be called several times, each time on a newer state. `state` is None for what does not
    exist; it is never to be changed in place.

    With `others`, `decide(states, now_ns)` takes the states of all by their refs, and returns the
    events by ref, or None. One commit makes them durable, all or nothing. What the decision leaves
    as it is has the request recorded in its log, so that no other commit comes in between. The
    request id belongs to `ref`.
    """

    ref: Ref
    decide: Callable[[Any, int], Any]
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
    others: tuple[Ref, ...] = ()
    """Further aggregates that the decision is about."""

    @property
    def refs(self) -> list[Ref]:
        """All that it is about, in the order in which they are locked."""
        return sorted({self.ref, *self.others})


class ClaimRefused(Exception):
    """A claim of the command is owned by somebody else; the service says what that means."""

    def __init__(self, space: str, key: str, owner: str) -> None:
        super().__init__(f"{space}/{key} is owned by {owner}")
        self.space = space
        self.key = key
        self.owner = owner


_WHOLE_STATE: Final = {
    change.name: field.name
    for change in Event.DESCRIPTOR.oneofs_by_name["change"].fields
    for field in (change.message_type.fields if change.message_type is not None else ())
    if field.message_type in {Session.DESCRIPTOR, Menu.DESCRIPTOR}
}
"""Changes that carry a whole session or menu, by the field that does."""


class Beside(NamedTuple):
    """Another aggregate of a command, as it is now."""

    version: int
    body: bytes


_NONE: Final[Mapping[Ref, Beside]] = MappingProxyType({})


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
    event_type: type[Any] = Event
    others: Mapping[Ref, Beside] = _NONE
    """The further aggregates of the command, as they are now; without those that are gone."""

    def reply(self, extras: Message | None = None, *, first: int = 1) -> bytes:
        """Serialise the response that every mutation has, plus the fields set in `extras`.

        No response says its state twice: an event that carries all of it is sent without. `first`
        is the number of the state where the response says something else before it.
        """
        event = self._event_beside_state()
        return wire.reply(self.body, event, replayed=self.replayed, extras=extras, first=first)

    def _event_beside_state(self) -> bytes:
        event = self.parsed_event()
        change = event.WhichOneof("change") if event is not None else None
        if event is None or change not in _WHOLE_STATE:
            return self.event
        brief = Event()
        for field, value in event.ListFields():
            if field.name == change:
                carried = getattr(brief, field.name)
                carried.SetInParent()
                for inner, part in value.ListFields():
                    if inner.name != _WHOLE_STATE[change]:
                        _set(carried, inner.name, part)
            else:
                _set(brief, field.name, value)
        return brief.SerializeToString()

    def parsed_event(self) -> Event | None:
        """The event as a message; None where nothing changed."""
        if self.message is not None:
            return self.message
        return self.event_type.FromString(self.event) if self.event else None


def _set(target: Message, field: str, value: Any) -> None:
    if isinstance(value, Message):
        getattr(target, field).CopyFrom(value)
    else:
        setattr(target, field, value)
