"""`Aggregate`: all that the server must know of a kind, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from maitred.server.domain import changes
from maitred.server.errors import MaitredError
from maitred.server.stores.values import KEEP_NOTHING, Index, Keep, Kind, Ref, Row
from maitred.v1.event_pb2 import Event

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How a kind ends by itself; one without it lives until somebody deletes it."""

    require_open: Callable[[Any], None]
    """Raises where the state accepts no new commands."""
    is_overdue: Callable[[Any, int], bool]
    """Whether the state must expire before anybody is shown it, or builds on it."""
    expire: Callable[[Any], Any]
    expired: type[MaitredError]
    """What a command is told that finds it overdue."""
    as_expired: Callable[[Any], Message]
    """The state as it will be: shown where the expiry cannot be stored just now."""
    active_status: int
    expired_status: int
    """Values of `Index.status`, by which listings know what may be overdue."""
    expires_at_s: Callable[[Any, Any, int], int | None]
    """Whole seconds for the `expires_at` of an event; None leaves it as it is."""
    wake_at_ns: Callable[[Any], int | None]
    """The earliest time at which `tick` has something to do."""
    tick: Callable[[Any, int], Any]
    """What the time asks for, one thing at once; a change that ends the log is a deletion."""
    swept: Callable[[Any], str]
    """Which count of a sweep an event of `tick` belongs to; "" where to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """One kind of aggregate: what it is, how it changes, ends, is listed, sent and erased."""

    number: Kind
    """Stored; append, never renumber."""
    name: str
    state: type[Any]
    fold: Callable[[Any, Any], Any]
    """`evolve`: applies one event to a state, None before the first."""
    absent: type[MaitredError]
    gone: type[MaitredError]
    source: int
    """Number of the field of `SourcedEvent.source` that names an aggregate of this kind."""
    event: type[Any] = Event
    """Has the fields of `Event` outside of `change`; a kind may bring changes of its own."""
    index: Callable[[Any], Index]
    """The columns that listings select by."""
    rows: Callable[[Ref, str, Any, int], tuple[Row, ...]] = lambda _ref, _change, _event, _ns: ()
    """Projections: the rows that (ref, change, event, time_ns) writes."""
    tables: tuple[int, ...] = ()
    """The numbers of the projections that `rows` writes."""
    counters: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    """What a request's `expected_…` fields are compared with, beside the version."""
    life: Life | None = None
    most_bytes: int = MIB
    """What the state may grow to by changes that fill it; an answer carries it whole."""
    too_large: Callable[[int, int], MaitredError]
    """Makes the refusal of a state of so many bytes, by the limit."""
    keeps: Keep = KEEP_NOTHING
    """What `forget` leaves behind beside the tombstone."""
    changes: changes.Marks = changes.MARKS
    """What the contract says of the changes of `event`."""

    def ref(self, name: str) -> Ref:
        """Name an aggregate of this kind."""
        return Ref(self.number, name)

    def parse(self, body: bytes) -> Any:
        """Parse a stored state."""
        return self.state.FromString(body)

    def id_of(self, state: Any) -> str:
        """Read the id that a state says it has: its field `<name>_id`."""
        named: str = getattr(state, f"{self.name}_id")
        return named

    def no_such(self, name: str) -> MaitredError:
        """Make the error of an id that was never used."""
        return self.absent(f"there is no {self.name} {name!r}")

    def deleted(self, name: str) -> MaitredError:
        """Make the error of an id whose aggregate was erased."""
        return self.gone(f"{self.name} {name!r} was deleted")

    def wake_at_ns(self, state: Any) -> int | None:
        """Return when a state wants attention."""
        return None if self.life is None else self.life.wake_at_ns(state)
