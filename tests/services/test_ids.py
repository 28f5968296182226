"""Ids as channels have them, on every road that an id takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.bar import add, open_bar
from tests.support.requests import in_cash
from tests.support.wire import Failure, Wire, wired

from maitred.v1 import conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2, state_pb2

IDS = [
    "wa:+4915112345678",
    "-1001234567890",
    "fb:4532015112830366",
    "4242424242424242",
    "user@host.example",
    "#table/7/1",
    "a{b}c%20[d]*?",
    'it\'s;--"x"\\n',
    "桌7",
    "стол\u00b77",
    "x" * 128,
]
UNSEEN = ["\u3164", "\u2800", "a\u200db", "a b", "a\u202eb", "\ufe0f"]


@pytest.fixture(scope="module", params=["memory", "sqlite"])
async def wire(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Wire]:
    """A server with a menu, on an engine."""
    folder: Path = tmp_path_factory.mktemp("ids")
    data = "memory://" if request.param == "memory" else f"sqlite:{folder / 'm.db'}"
    async with wired(data=data) as (_, wire):
        await open_bar(wire)
        yield wire


@pytest.mark.parametrize("given", IDS)
async def test_an_id_of_a_channel_works_everywhere(wire: Wire, given: str) -> None:
    """Created, listed, filtered by, ordered and paid under, watched, paged and deleted."""
    created = await wire(
        "SessionService/CreateSession",
        session_pb2.CreateSessionRequest(
            session_id=given, customer_id=given, labels={"at": str(IDS.index(given))}
        ),
    )
    labels = dict(created.session.labels)
    turn = conversation_pb2.RecordTurnRequest(
        session_id=given,
        messages=[conversation_pb2.NewMessage(role=state_pb2.MESSAGE_ROLE_USER, text="hello")],
        inbound=state_pb2.InboundMessage(
            channel_type="chat", channel_identifier=given, message_id=given
        ),
    )
    assert not (await wire("ConversationService/RecordTurn", turn)).replayed
    assert (await wire("ConversationService/RecordTurn", turn)).replayed
    line = (await wire("OrderService/AddItem", add(given))).line
    await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=given))
    await wire("OrderService/AddItem", add(given))
    void = order_pb2.VoidLineRequest(
        session_id=given, order_number=1, line_number=line.line_number, reason="cold"
    )
    assert (await wire("OrderService/VoidLine", void)).order.number == 1
    orders = order_pb2.ListOrdersRequest(session_id=given, page_size=1)
    first = await wire("OrderService/ListOrders", orders)
    orders.page_token = first.next_page_token
    second = await wire("OrderService/ListOrders", orders)
    assert [each.orders[0].number for each in (first, second)] == [2, 1]
    paid = await wire("PaymentService/CompletePayment", in_cash(given))
    read = payment_pb2.GetPaymentRequest(session_id=given, payment_id=paid.payment.payment_id)
    assert (await wire("PaymentService/GetPayment", read)).payment.session_id == given
    for where in ({"customer_id": given}, {"labels": labels}):
        listing: Any = session_pb2.ListSessionsRequest(**where)
        listed = await wire("SessionService/ListSessions", listing)
        assert [each.session_id for each in listed.sessions] == [given]
    watch = session_pb2.WatchEventsRequest(from_beginning=True, session_ids=[given])
    assert (await wire("SessionService/WatchEvents", watch)).resume_token
    erase = session_pb2.DeleteSessionRequest(session_id=given, reason="asked for")
    assert (await wire("SessionService/DeleteSession", erase)).session.session_id == given
    gone = await wire.fails(
        "SessionService/GetSession", session_pb2.GetSessionRequest(session_id=given)
    )
    assert (gone.status, gone.reason) == ("NOT_FOUND", "SESSION_DELETED")


@pytest.mark.parametrize("given", IDS)
async def test_a_menu_and_its_items_have_such_ids(wire: Wire, given: str) -> None:
    """They are found by them, and errors name them."""
    menu = state_pb2.Menu(menu_id=given, currency="USD")
    menu.items.add(item_id=given, name="Tea", price={"minor_units": 1, "currency": "USD"})
    await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu))
    sold_out = menu_pb2.SetItemAvailabilityRequest(menu_id=given, item=given, sold_out=True)
    assert (await wire("MenuService/SetItemAvailability", sold_out)).menu.items[0].sold_out
    unknown = menu_pb2.SetItemAvailabilityRequest(menu_id=given, item="None", sold_out=True)
    failure: Failure = await wire.fails("MenuService/SetItemAvailability", unknown)

    assert failure.reason == "ITEM_NOT_FOUND"


@pytest.mark.parametrize("unseen", UNSEEN)
async def test_an_id_can_be_seen(wire: Wire, unseen: str) -> None:
    """Blank, joined, turned around or with nothing to it: refused."""
    for fields in ({"session_id": unseen}, {"customer_id": unseen}):
        request = session_pb2.CreateSessionRequest(**fields)  # type: ignore[arg-type]
        failure = await wire.fails("SessionService/CreateSession", request)
        assert failure.reason == "INVALID_FIELD", fields
