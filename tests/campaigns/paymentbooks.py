"""Stripe's books against a server's: every link, every payment and every refund, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from tests.campaigns.killing import KillFailure

from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1 import payment_pb2, session_pb2
from maitred.v1.state_pb2 import PAYMENT_STATUS_SUCCEEDED, REFUND_STATUS_SUCCEEDED, Payment

Ask = Callable[[str, Message, type[Message]], Awaitable[Any]]
"""Calls `Service/Method` of the server until it is answered."""


class Lost(KillFailure):
    """Stripe holds something that the server does not know."""


class Doubled(KillFailure):
    """Something that was asked for once was done twice."""


async def difference(ask: Ask, fake: FakeStripe, session_ids: Sequence[str]) -> str:
    """Say where the books differ that may still come to agree; empty where they do agree.

    Raises: Lost, Doubled, where they never will.
    """
    ours: dict[str, Payment] = {}
    for session_id in session_ids:
        ours.update({each.payment_id: each for each in await _payments(ask, session_id)})
    tables = fake.account.tables
    links = Counter(each["client_reference_id"] for each in tables["cs"].values())
    refunds = Counter(each["metadata"]["refund_id"] for each in tables["re"].values())
    for name, count in (links + refunds).items():
        if count != 1:
            raise Doubled(f"{name}: made {count} times at Stripe")
    for theirs in tables["cs"].values():
        payment = ours.get(theirs["client_reference_id"])
        if payment is None or payment.provider_payment_id != theirs["id"]:
            raise Lost(f"{theirs['id']} is not in our books: {payment}")
        is_paid = theirs["payment_status"] == "paid"
        if is_paid != (payment.status == PAYMENT_STATUS_SUCCEEDED):
            return f"{theirs['id']}: paid {is_paid}, but here {payment.status}"
    for session_id in session_ids:
        mine = {name: each for name, each in ours.items() if each.session_id == session_id}
        problem = await _difference_of(ask, fake, session_id, mine)
        if problem:
            return problem
    return ""


async def _difference_of(
    ask: Ask, fake: FakeStripe, session_id: str, mine: dict[str, Payment]
) -> str:
    """Compare the sums of one session. Raises: Doubled."""
    tables = fake.account.tables
    paid = sum(
        each["amount_total"]
        for each in tables["cs"].values()
        if each["client_reference_id"] in mine and each["payment_status"] == "paid"
    )
    given_back = {
        each["metadata"]["refund_id"]: each["amount"]
        for each in tables["re"].values()
        if each["metadata"]["payment_id"] in mine
    }
    recorded = {
        each.refund_id: each.amount.minor_units
        for payment in mine.values()
        for each in payment.refunds
        if each.status == REFUND_STATUS_SUCCEEDED
    }
    if recorded != given_back:
        return f"{session_id}: given back {given_back}, recorded {recorded}"
    request = session_pb2.GetSessionRequest(session_id=session_id)
    reply = await ask("SessionService/GetSession", request, session_pb2.GetSessionResponse)
    ledger, tab = reply.session.ledger, reply.session.payment.tab_total.minor_units
    found = ledger.received, ledger.settled, ledger.refunded, tab
    problem = f"{session_id}: received, settled, refunded and tab are {found}; paid were {paid}"
    if ledger.received > paid:
        raise Doubled(problem)
    return "" if found == (paid, paid, sum(given_back.values()), 0) else problem


async def _payments(ask: Ask, session_id: str) -> list[Payment]:
    request = payment_pb2.ListPaymentsRequest(session_id=session_id, page_size=1000)
    found: list[Payment] = []
    while True:
        reply = await ask("PaymentService/ListPayments", request, payment_pb2.ListPaymentsResponse)
        found += reply.payments
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token
