"""The items that watches and pages return."""

from __future__ import annotations

from dataclasses import dataclass

from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import NextAction, PaymentOutcome
from maitred.v1.state_pb2 import Payment, PaymentState, Session


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """The whole session at a version."""

    version: int
    session: Session


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One event; it produced the version."""

    version: int
    event: Event

    @property
    def change(self) -> str:
        """Name of what changed, such as `line_added`; empty for what this client does not know."""
        return self.event.WhichOneof("change") or ""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is gone; nothing follows."""

    version: int
    deleted: bool
    unread: bool = False
    """Versions after `version` were erased before this watch had read them."""


SessionUpdate = SessionSnapshot | SessionEvent | SessionEnded


@dataclass(frozen=True, slots=True)
class PaymentUpdate:
    """What is owed and the payment, as of a version."""

    version: int
    state: PaymentState
    payment: Payment | None
    """None before the first."""
    settled: bool
    """The payment is at its end, paid or not."""
    deleted: bool
    """The session was deleted; nothing follows."""
    outcome: PaymentOutcome.ValueType = PaymentOutcome.PAYMENT_OUTCOME_UNSPECIFIED
    """What became of the payment, or of the tab where no payment is watched: switch on this."""
    unread: bool = False
    """Versions after `version` were erased before this watch had read them."""
    next_action: NextAction | None = None
    """What to do about the payment: show a link, wait, call staff; None before the first."""
