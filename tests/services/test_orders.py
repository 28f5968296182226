"""OrderService over the wire."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from tests.support.wire import failure_of

from maitred.v1 import menu_pb2, menu_pb2_grpc, order_pb2_grpc, session_pb2, session_pb2_grpc
from maitred.v1 import order_pb2 as pb
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import (
    ORDER_STATUS_OPEN,
    ORDER_STATUS_PLACED,
    ORDER_STATUS_VOIDED,
    Menu,
)


async def refusal(call: Awaitable[Any]) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure_of(error.value).reason


class Guest:
    """A session with a menu of its own, and the service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.id = uuid.uuid4().hex
        self.channel = channel
        self.orders: Any = order_pb2_grpc.OrderServiceStub(channel)

    async def open(self) -> Guest:
        """Put the menu and create the session."""
        menu = Menu(menu_id=self.id, currency="USD")
        for item_id, name, price in (("martini", "Martini", 1300), ("water", "Water", 100)):
            menu.items.add(
                item_id=item_id, name=name, price=Money(minor_units=price, currency="USD")
            )
        await menu_pb2_grpc.MenuServiceStub(self.channel).PutMenu(
            menu_pb2.PutMenuRequest(menu=menu)
        )
        await session_pb2_grpc.SessionServiceStub(self.channel).CreateSession(
            session_pb2.CreateSessionRequest(session_id=self.id, menu_id=self.id)
        )
        return self

    def add(self, item: str, **fields: Any) -> Any:
        """Add an item."""
        return self.orders.AddItem(pb.AddItemRequest(session_id=self.id, item=item, **fields))

    def place(self) -> Any:
        """Place the order."""
        return self.orders.PlaceOrder(pb.PlaceOrderRequest(session_id=self.id))

    def void(self, order: int, line: int, **fields: Any) -> Any:
        """Void a line."""
        request = pb.VoidLineRequest(
            session_id=self.id, order_number=order, line_number=line, reason="spilt", **fields
        )
        return self.orders.VoidLine(request)

    def list(self, **fields: Any) -> Any:
        """List orders."""
        return self.orders.ListOrders(pb.ListOrdersRequest(session_id=self.id, **fields))


@pytest.fixture
async def guest(grpc_channel: grpc.aio.Channel) -> Guest:
    """A guest with a new session."""
    return await Guest(grpc_channel).open()


async def test_a_line_is_added_at_the_price_of_the_menu(guest: Guest) -> None:
    """The answer holds the line, the session and the event."""
    reply = await guest.add("MARTINI", quantity=2)

    assert (reply.line.line_number, reply.line.total.minor_units) == (1, 2600)
    assert reply.session.payment.tab_total.minor_units == 2600
    assert reply.event.line_added.line == reply.line


async def test_a_retry_adds_one_line(guest: Guest) -> None:
    """The original line is answered again, also concurrently."""
    replies = await asyncio.gather(*(guest.add("water", request_id="r") for _ in range(5)))

    assert sorted(reply.replayed for reply in replies) == [False] + [True] * 4
    assert {reply.line.line_number for reply in replies} == {1}
    assert await refusal(guest.add("martini", request_id="r")) == "REQUEST_ID_REUSED"


async def test_concurrent_lines_are_all_charged(guest: Guest) -> None:
    """No charge is lost."""
    await asyncio.gather(*(guest.add("water") for _ in range(30)))
    reply = await guest.add("water")

    assert reply.session.payment.tab_total.minor_units == 3100
    assert [line.line_number for line in reply.session.order.lines] == list(range(1, 32))


async def test_what_cannot_be_ordered_is_refused(guest: Guest) -> None:
    """Each with its own reason."""
    assert await refusal(guest.add("absinthe")) == "ITEM_NOT_FOUND"
    assert await refusal(guest.add("martini", modifiers=["burnt"])) == "MODIFIER_NOT_FOUND"
    assert await refusal(guest.add("martini", quantity=100)) == "INSUFFICIENT_FUNDS"
    assert await refusal(guest.place()) == "ORDER_EMPTY"


async def test_lines_are_removed_and_orders_cleared(guest: Guest) -> None:
    """The answer holds what is left of the line; clearing nothing changes nothing."""
    await guest.add("martini", quantity=3)
    part = await guest.orders.RemoveItem(
        pb.RemoveItemRequest(session_id=guest.id, line_number=1, quantity=1)
    )
    assert (part.line.quantity, part.line.total.minor_units) == (2, 2600)
    whole = await guest.orders.RemoveItem(pb.RemoveItemRequest(session_id=guest.id, line_number=1))
    assert not whole.HasField("line")
    await guest.add("water")
    cleared = await guest.orders.ClearOrder(pb.ClearOrderRequest(session_id=guest.id))
    again = await guest.orders.ClearOrder(pb.ClearOrderRequest(session_id=guest.id))

    assert cleared.session.payment.balance.minor_units == 100_000
    assert not again.HasField("event")
    assert again.session.version == cleared.session.version


async def test_orders_are_listed_newest_first_with_the_open_one(guest: Guest) -> None:
    """In pages, each once."""
    for item in ("water", "martini"):
        await guest.add(item)
        placed = await guest.place()
        assert placed.order.status == ORDER_STATUS_PLACED
    await guest.add("water")
    pages: list[list[tuple[int, int]]] = []
    token = ""
    while token or not pages:
        page = await guest.list(page_size=1, page_token=token)
        pages.append([(order.number, order.status) for order in page.orders])
        token = page.next_page_token

    assert pages == [
        [(3, ORDER_STATUS_OPEN)],
        [(2, ORDER_STATUS_PLACED)],
        [(1, ORDER_STATUS_PLACED)],
    ]
    whole = await guest.list()
    assert [order.number for order in whole.orders] == [3, 2, 1]
    assert not any(order.paid for order in whole.orders)


async def test_a_placed_line_is_voided(guest: Guest) -> None:
    """The answer and the list show the order after it; the money is back."""
    await guest.add("martini", quantity=2)
    await guest.place()
    part = await guest.void(1, 1, quantity=1)
    assert (part.order.lines[0].voided_quantity, part.order.total.minor_units) == (1, 1300)
    whole = await guest.void(1, 1)
    again = await guest.void(1, 1)

    assert whole.order.status == again.order.status == ORDER_STATUS_VOIDED
    assert not again.HasField("event")
    assert again.session.payment.balance.minor_units == 100_000
    assert (await guest.list()).orders[0] == whole.order
    assert await refusal(guest.void(2, 1)) == "ORDER_NOT_FOUND"
