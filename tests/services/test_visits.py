"""An id outlives its sessions: whoever keys by table or phone begins a new visit under it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from tests.support.bar import add, new_guest, open_bar, session, usd
from tests.support.requests import in_cash, open_payment
from tests.support.wire import Failure, Wire

from maitred.server.engine.clock import ManualClock
from maitred.v1 import admin_pb2, order_pb2, payment_pb2
from maitred.v1 import session_pb2 as pb
from maitred.v1.state_pb2 import (
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_EXPIRED,
)

CREATE = "SessionService/CreateSession"


@pytest.fixture(scope="module")
async def wire(grpc_channel: grpc.aio.Channel) -> Wire:
    """Calls as staff, to a bar that is open."""
    wire = Wire(grpc_channel)
    await open_bar(wire)
    return wire


@pytest.fixture
def table() -> str:
    """An id that a house uses again and again."""
    return f"table-{uuid.uuid4().hex}"


def opening(table: str, **fields: Any) -> pb.CreateSessionRequest:
    """Ask for a session of an hour."""
    return pb.CreateSessionRequest(session_id=table, idle_seconds=3600, **fields)


async def close(wire: Wire, table: str) -> None:
    """End the session of a table."""
    await wire("SessionService/CloseSession", pb.CloseSessionRequest(session_id=table))


async def test_a_closed_id_begins_a_new_visit(wire: Wire, table: str) -> None:
    """One event, said in the answer: running numbers and the log go on, all else is as asked."""
    first = opening(table, customer_id="ada", labels={"a": "1"}, opening_balance=usd(9_000))
    await wire(CREATE, first)
    await wire("OrderService/AddItem", add(table))
    await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=table))
    await wire("PaymentService/CompletePayment", in_cash(table))
    await close(wire, table)
    before = await session(wire, table)
    reply = await wire(CREATE, opening(table, labels={"b": "2"}, opening_balance=usd(5_000)))
    begun = reply.session

    assert reply.new_visit
    assert not reply.replayed
    assert reply.event.WhichOneof("change") == "visit_started"
    assert begun.version == before.version + 1
    assert (begun.status, begun.reset_count) == (SESSION_STATUS_ACTIVE, before.reset_count + 1)
    assert (begun.payment.balance, begun.payment.tab_total) == (usd(5_000), usd(0))
    assert begun.payment.version > before.payment.version
    assert (dict(begun.labels), begun.customer_id) == ({"b": "2"}, "ada")
    assert begun.created_at == before.created_at
    assert begun.expires_at.seconds - begun.updated_at.seconds in (3600, 3601)
    ordered = await wire("OrderService/AddItem", add(table))
    assert ordered.session.order.number == 2
    assert ordered.line.line_number == 2
    audit = await wire("AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=table))
    assert audit.valid
    was = pb.GetSessionRequest(session_id=table, at_version=before.version)
    assert (await wire("SessionService/GetSession", was)).session == before


@pytest.mark.parametrize("swept", [True, False])
async def test_an_expired_id_begins_a_new_visit(
    wire: Wire, table: str, clock: ManualClock, swept: bool
) -> None:
    """Whether or not anybody noticed that it had expired; that is in the log, too."""
    await wire(CREATE, opening(table))
    clock.advance(3601)
    if swept:
        await wire("AdminService/SweepExpired", admin_pb2.SweepExpiredRequest())
    reply = await wire(CREATE, opening(table))
    log = await wire("SessionService/ListEvents", pb.ListEventsRequest(session_id=table))

    assert reply.new_visit
    assert reply.session.status == SESSION_STATUS_ACTIVE
    assert [event.WhichOneof("change") for event in log.events] == [
        "session_created",
        "session_expired",
        "visit_started",
    ]


async def test_the_first_request_is_answered_as_it_was(wire: Wire, table: str) -> None:
    """A request id that opened the first visit never opens another."""
    request = opening(table, request_id="first")
    first = await wire(CREATE, request)
    await close(wire, table)
    closed = await wire(CREATE, request)
    await wire(CREATE, opening(table, request_id="second"))
    again = await wire(CREATE, request)
    second = await wire(CREATE, opening(table, request_id="second"))

    assert (closed.replayed, closed.event) == (True, first.event)
    assert closed.session.status == SESSION_STATUS_CLOSED
    assert (again.replayed, again.new_visit, again.event) == (True, False, first.event)
    assert (second.replayed, second.new_visit) == (True, True)
    assert again.session == second.session == await session(wire, table)
    assert second.session.reset_count == 1


async def test_an_open_visit_is_joined_by_the_request_that_began_it(wire: Wire, table: str) -> None:
    """What the visit before was opened with says nothing about this one."""
    await wire(CREATE, opening(table, labels={"visit": "1"}))
    await close(wire, table)
    begun = await wire(CREATE, opening(table, labels={"visit": "2"}))
    joined = await wire(CREATE, opening(table, labels={"visit": "2"}))
    other = await wire.outcome(CREATE, opening(table, labels={"visit": "1"}))

    assert (joined.replayed, joined.new_visit) == (True, True)
    assert joined.event == begun.event
    assert joined.session == begun.session
    assert isinstance(other, Failure)
    assert other.reason == "ALREADY_EXISTS"


async def test_an_abandoned_tab_is_no_ended_session(
    wire: Wire, table: str, clock: ManualClock
) -> None:
    """Its guest still owes: the id is taken."""
    await wire(CREATE, opening(table))
    await wire("OrderService/AddItem", add(table))
    clock.advance(3601)
    other = await wire.outcome(CREATE, opening(table, customer_id="next"))
    same = await wire(CREATE, opening(table))

    assert isinstance(other, Failure)
    assert other.reason == "ALREADY_EXISTS"
    assert same.session.status == SESSION_STATUS_ACTIVE
    assert same.session.payment.tab_total.minor_units > 0


async def test_money_of_the_visit_before_can_be_given_back(wire: Wire, table: str) -> None:
    """Its payment is not the new visit's, and is refunded without touching it."""
    await wire(CREATE, opening(table))
    await wire("OrderService/AddItem", add(table))
    paid = (await wire("PaymentService/CompletePayment", in_cash(table))).payment
    await close(wire, table)
    begun = (await wire(CREATE, opening(table))).session
    refund = payment_pb2.RefundPaymentRequest(
        session_id=table, payment_id=paid.payment_id, reason="warm beer"
    )
    reply = await wire("PaymentService/RefundPayment", refund)

    assert reply.payment.refunded_amount == paid.received_amount
    assert reply.session.payment.tab_total == begun.payment.tab_total
    assert reply.session.payment.balance == begun.payment.balance


async def test_an_id_with_payments_keeps_its_currency(wire: Wire, table: str) -> None:
    """A refund of the visit before would be another amount."""
    await wire(CREATE, opening(table))
    await wire("OrderService/AddItem", add(table))
    await wire("PaymentService/CompletePayment", in_cash(table))
    await close(wire, table)
    euros = opening(table)
    euros.opening_balance.minor_units = 1_000
    euros.opening_balance.currency = "EUR"
    refused = await wire.outcome(CREATE, euros)

    assert isinstance(refused, Failure)
    assert refused.reason == "CURRENCY_MISMATCH"


async def test_a_link_of_the_visit_before_is_not_the_new_ones(wire: Wire, table: str) -> None:
    """What follows is asked for by a payment of its own."""
    await wire(CREATE, opening(table))
    await wire("OrderService/AddItem", add(table))
    old = await open_payment(wire, table)
    cancel = payment_pb2.CancelPaymentRequest(session_id=table, payment_id=old.payment_id)
    await wire("PaymentService/CancelPayment", cancel)
    await wire("OrderService/ClearOrder", order_pb2.ClearOrderRequest(session_id=table))
    await close(wire, table)
    await wire(CREATE, opening(table))
    await wire("OrderService/AddItem", add(table))
    new = await open_payment(wire, table)

    assert new.payment_id != old.payment_id
    assert (new.number, new.reset_count) == (2, 1)


async def test_a_deleted_id_stays_gone(wire: Wire, table: str) -> None:
    """Erased is for ever."""
    await wire(CREATE, opening(table))
    await close(wire, table)
    delete = pb.DeleteSessionRequest(session_id=table, reason="asked for")
    await wire("SessionService/DeleteSession", delete)
    refused = await wire.outcome(CREATE, opening(table))

    assert isinstance(refused, Failure)
    assert refused.reason == "SESSION_DELETED"


# --- overdue sessions are never shown as active -----------------------------------------------


async def test_no_read_shows_an_overdue_session_as_active(
    wire: Wire, table: str, clock: ManualClock
) -> None:
    """Whatever way it is read, it has expired first, in the log as well."""
    request = opening(table, request_id="r", labels={"overdue": table})
    await wire(CREATE, request)
    clock.advance(3601)
    reads: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": lambda: wire("SessionService/GetSession", pb.GetSessionRequest(session_id=table)),
        "replay": lambda: wire(CREATE, request),
    }
    for name, read in reads.items():
        found = await read()
        assert found.session.status == SESSION_STATUS_EXPIRED, name
        assert found.session.version == 2
    was = pb.GetSessionRequest(session_id=table, at_version=1)
    assert (await wire("SessionService/GetSession", was)).session.status == SESSION_STATUS_ACTIVE


@pytest.mark.parametrize("read", ["replay", "watch", "events", "list"])
async def test_the_first_read_expires(
    wire: Wire, table: str, clock: ManualClock, read: str
) -> None:
    """Each way by itself."""
    request = opening(table, request_id="r", labels={"overdue": table})
    await wire(CREATE, request)
    clock.advance(3601)
    match read:
        case "replay":
            found = (await wire(CREATE, request)).session
        case "watch":
            watch = wire.call(
                "SessionService/WatchSession", pb.WatchSessionRequest(session_id=table)
            )
            found = (await anext(aiter(watch))).snapshot
            watch.cancel()
        case "events":
            log = await wire("SessionService/ListEvents", pb.ListEventsRequest(session_id=table))
            assert log.events[-1].WhichOneof("change") == "session_expired"
            found = await session(wire, table)
        case _:
            listed = pb.ListSessionsRequest(labels={"overdue": table})
            found = (await wire("SessionService/ListSessions", listed)).sessions[0]

    assert (found.status, found.version) == (SESSION_STATUS_EXPIRED, 2)


@pytest.mark.parametrize(
    ("status", "count"), [(SESSION_STATUS_ACTIVE, 3), (SESSION_STATUS_EXPIRED, 5)]
)
async def test_a_listing_by_status_counts_overdue_sessions_as_expired(
    wire: Wire, table: str, clock: ManualClock, status: Any, count: int
) -> None:
    """On every page, and without leaving any out."""
    label = {"listing": table}
    for number in range(8):
        idle = 10 if number % 2 or number == 0 else 7200
        await wire(CREATE, pb.CreateSessionRequest(labels=label, idle_seconds=idle))
    clock.advance(11)
    request = pb.ListSessionsRequest(labels=label, statuses=[status], page_size=2)
    found: list[Any] = []
    while not found or request.page_token:
        page = await wire("SessionService/ListSessions", request)
        found += page.sessions
        request.page_token = page.next_page_token

    assert {each.status for each in found} == {status}
    assert len({each.session_id for each in found}) == len(found) == count


async def test_what_is_allowed_on_ended_sessions_does_not_revive_an_overdue_one(
    wire: Wire, clock: ManualClock
) -> None:
    """A refund finds it expired, as it would have been a moment after a sweep."""
    guest = await new_guest(wire)
    await wire("OrderService/AddItem", add(guest))
    paid = (await wire("PaymentService/CompletePayment", in_cash(guest))).payment
    clock.advance(3601)
    refund = payment_pb2.RefundPaymentRequest(
        session_id=guest, payment_id=paid.payment_id, reason="warm beer"
    )
    reply = await wire("PaymentService/RefundPayment", refund)

    assert reply.session.status == SESSION_STATUS_EXPIRED
