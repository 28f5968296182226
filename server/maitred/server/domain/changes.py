"""The money part of an event, by the name of its change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import Message

from maitred.server.domain.tab import UNSETTLED
from maitred.server.errors import PaymentNotFound
from maitred.v1 import common_pb2
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import TAB_STATUS_COMPLETED, Payment, Session

PAYMENT_CHANGES = frozenset(
    name
    for name, field in Event.DESCRIPTOR.fields_by_name.items()
    if field.message_type is not None and field.message_type.name == "PaymentChanged"
)
"""Changes of a payment itself."""


class Marks(NamedTuple):
    """What the contract says of changes (`ChangeRules`): the names of those that it marks."""

    numbers: Mapping[str, int]
    """Under which each is stored: the number of its field in the event."""
    keeps_expiry: frozenset[str]
    unlisted: frozenset[str]
    money: frozenset[str]
    supersedes: frozenset[str]
    fills: frozenset[str]
    ends_log: frozenset[str]
    begins: frozenset[str]


def marks(event: type[Message]) -> Marks:
    """Read the rules of the changes that an event may carry."""
    fields = event.DESCRIPTOR.oneofs_by_name["change"].fields
    rules = {each.name: each.GetOptions().Extensions[common_pb2.field].change for each in fields}
    marked = (
        frozenset(name for name, said in rules.items() if getattr(said, rule))
        for rule in Marks._fields[1:]
    )
    return Marks({each.name: each.number for each in fields}, *marked)


MARKS = marks(Event)

SUPERSEDING = MARKS.supersedes
"""Changes that may carry the open payment as superseded."""

MONEY_CHANGES = MARKS.money
"""Changes that carry a new PaymentState."""


def changed_payment(change: str, event: Event) -> Payment | None:
    """The payment as an event left it; None where the event changed none."""
    if change in PAYMENT_CHANGES:
        payment: Payment = getattr(event, change).payment
        return payment
    if change in SUPERSEDING:
        carrier = getattr(event, change)
        if carrier.HasField("superseded"):
            superseded: Payment = carrier.superseded
            return superseded
    return None


def is_settled(payment: Payment) -> bool:
    """Whether a payment has come to its end; late money may still turn the end into success."""
    return payment.status not in UNSETTLED


def shown_payment(change: str, event: Event, session: Session) -> Payment | None:
    """The payment to show beside the state after an event: the changed one, else the newest."""
    payment = changed_payment(change, event)
    return newest_payment(session) if payment is None else payment


def newest_payment(session: Session) -> Payment | None:
    """The newest payment since the last reset; what came before is of another visit."""
    if not session.HasField("latest_payment"):
        return None
    payment = session.latest_payment
    return payment if payment.reset_count == session.reset_count else None


def find_payment(session: Session, payment_id: str, *, ended: bool = False) -> Payment | None:
    """Take a payment from the session's state; None where only the store knows it.

    Without an id, the newest of this visit if it is open, or paid for all that was ordered: one
    that is over says nothing about a tab that is open. `ended` takes the newest of this visit
    anyway. Raises: PaymentNotFound, where there is no such payment.
    """
    if payment_id:
        latest = session.latest_payment
        return latest if latest.payment_id == payment_id else None
    newest = newest_payment(session)
    if newest is None:
        raise PaymentNotFound("there is no payment since the session began or was reset")
    paid_up = session.payment.status == TAB_STATUS_COMPLETED
    if not ended and is_settled(newest) and not paid_up:
        raise PaymentNotFound(
            "no payment is open; name one by its payment_id, or ask for one with CreatePayment"
        )
    return newest
