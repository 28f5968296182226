"""A page token is good for the listing and the filter that it was made for, and nothing else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.support.wire import Failure, Wire, wired

from maitred.v1 import conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money

LISTINGS: dict[str, Message] = {
    "SessionService/ListSessions": session_pb2.ListSessionsRequest(),
    "SessionService/ListEvents": session_pb2.ListEventsRequest(session_id="s1"),
    "ConversationService/ListMessages": conversation_pb2.ListMessagesRequest(session_id="s1"),
    "OrderService/ListOrders": order_pb2.ListOrdersRequest(session_id="s1"),
    "MenuService/ListMenus": menu_pb2.ListMenusRequest(),
    "PaymentService/ListPayments": payment_pb2.ListPaymentsRequest(),
}

OTHERS: dict[str, Message] = {
    "SessionService/ListSessions": session_pb2.ListSessionsRequest(labels={"table": "1"}),
    "SessionService/ListEvents": session_pb2.ListEventsRequest(session_id="s2"),
    "ConversationService/ListMessages": conversation_pb2.ListMessagesRequest(
        session_id="s1", newest_first=True
    ),
    "OrderService/ListOrders": order_pb2.ListOrdersRequest(session_id="s2"),
    "PaymentService/ListPayments": payment_pb2.ListPaymentsRequest(needs_reconciliation=True),
}
"""The same listings with another selection."""


@pytest.fixture
async def wires(tmp_path: Path) -> AsyncIterator[tuple[Wire, str]]:
    """A server with two of everything, and its data."""
    data = f"sqlite:{tmp_path / 'maitred.db'}"
    async with wired(data=data, simulated_dir=str(tmp_path)) as (_, wire):
        for name in ("s1", "s2"):
            await wire(
                "SessionService/CreateSession", session_pb2.CreateSessionRequest(session_id=name)
            )
            menu = state_pb2.Menu(menu_id=name, title=name, currency="USD")
            await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu))
            await wire("PaymentService/CreatePayment", await _with_tab(wire, name))
            for _ in range(2):
                turn = conversation_pb2.RecordTurnRequest(session_id=name)
                turn.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text="hello")
                await wire("ConversationService/RecordTurn", turn)
                await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=name))
                await _with_tab(wire, name)
        yield wire, data


async def _with_tab(wire: Wire, name: str) -> payment_pb2.CreatePaymentRequest:
    price = Money(minor_units=500, currency="USD")
    request = order_pb2.AddItemRequest(session_id=name, item="Special", open_price=price)
    await wire("OrderService/AddItem", request)
    return payment_pb2.CreatePaymentRequest(session_id=name)


async def page(wire: Wire, rpc: str, request: Message, token: str = "") -> Any:
    """Ask for one entry of a listing."""
    asked: Any = type(request)()
    asked.CopyFrom(request)
    asked.page_size, asked.page_token = 1, token
    return await wire.outcome(rpc, asked)


@pytest.mark.parametrize("rpc", LISTINGS)
async def test_a_changed_token_is_refused(wires: tuple[Wire, str], rpc: str) -> None:
    """Not one bit of a token can be changed, and none is made up."""
    wire, _ = wires
    token = (await page(wire, rpc, LISTINGS[rpc])).next_page_token
    raw = base64.urlsafe_b64decode(token)
    changed = [raw[:at] + bytes([byte ^ 1]) + raw[at + 1 :] for at, byte in enumerate(raw)]
    made_up = [raw[:-1], raw + b"\0", raw[:16], b"noise", bytes(len(raw))]
    wrong = [base64.urlsafe_b64encode(each).decode() for each in (*changed, *made_up)]
    for each in (*wrong, token + "=", token + "====", token + "\n", " " + token):
        outcome = await page(wire, rpc, LISTINGS[rpc], each)
        assert isinstance(outcome, Failure), each
        assert outcome.reason == "INVALID_PAGE_TOKEN"
    assert not isinstance(await page(wire, rpc, LISTINGS[rpc], token), Failure)


@pytest.mark.parametrize("rpc", OTHERS)
async def test_a_token_of_another_selection_is_refused(wires: tuple[Wire, str], rpc: str) -> None:
    """A token continues the listing that it came from and no other."""
    wire, _ = wires
    token = (await page(wire, rpc, LISTINGS[rpc])).next_page_token
    outcome = await page(wire, rpc, OTHERS[rpc], token)

    assert isinstance(outcome, Failure)
    assert outcome.reason == "INVALID_PAGE_TOKEN"
