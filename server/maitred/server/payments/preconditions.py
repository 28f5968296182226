"""Preconditions of requests that need a provider's answer before they can be decided.

They held when the request was first judged. What was found out since of the payment in its way is
the request's own doing and must not refuse it; what anybody else has changed still does.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from maitred.server.domain import changes
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.v1 import payment_pb2 as pb
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Session

MOST_NEWS = 16
"""Changes of one payment that are looked through; a link that dies takes two or three."""

R = TypeVar(
    "R",
    bound=pb.CreatePaymentRequest | pb.CompletePaymentRequest | pb.ReconcilePaymentRequest,
)


async def carried_over(engine: Engine, request: R, payment_id: str) -> R:
    """Raise the versions that a request expects past the news of a payment.

    Only to be asked after the request's preconditions were found to hold. Answers the request as
    it is where somebody else has changed what it expects. Raises: InvalidSession, SessionDeleted.
    """
    whole = request.HasField("expected_version")
    money = request.HasField("expected_payment_version")
    if not whole and not money:
        return request
    session: Session = (await engine.session(request.session_id)).state
    carried = deepcopy(request)
    if whole:
        behind = session.version - request.expected_version
        if not await _is_news(engine, session, payment_id, behind, None):
            return request
        carried.expected_version = session.version
    if money:
        behind = session.payment.version - request.expected_payment_version
        if not await _is_news(engine, session, payment_id, behind, sorted(changes.MONEY_CHANGES)):
            return request
        carried.expected_payment_version = session.payment.version
    return carried


async def _is_news(
    engine: Engine, session: Session, payment_id: str, count: int, among: list[str] | None
) -> bool:
    """Whether the newest so many events up to a state are all of one payment."""
    if count == 0:
        return True
    if not 0 < count <= MOST_NEWS:
        return False
    ref, end = session_ref(session.session_id), session.version + 1
    found = await engine.events(ref, 0, count, among, before=end, newest_first=True)
    return all(_is_of(event, payment_id) for event in found)


def _is_of(event: Event, payment_id: str) -> bool:
    change = event.WhichOneof("change") or ""
    return (
        change in changes.PAYMENT_CHANGES
        and getattr(event, change).payment.payment_id == payment_id
    )
