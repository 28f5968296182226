"""Who was shown a version is never shown an older one, whichever rpcs it reads with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.support.wire import Wire, wired

from maitred.server.stores import create_store
from maitred.server.stores.base import Commit, Done, Outcome, StoreError
from maitred.server.testing.faulty import FaultyStore
from maitred.v1 import conversation_pb2, order_pb2, payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money

DELAY_S = 0.15
"""How long a commit is durable before it is published; reads meanwhile would be done in 0.01 s."""


class Tardy(FaultyStore):
    """A store whose commits are durable, and readable, well before it says so."""

    delay_s = 0.0

    def submit(self, commit: Commit, done: Done) -> None:
        """Commit, and tell of it late."""
        loop = asyncio.get_running_loop()

        def later(outcome: Outcome | StoreError) -> None:
            self.durable.set()
            loop.call_later(self.delay_s, done, outcome)

        super().submit(commit, later if self.delay_s else done)

    durable: asyncio.Event


@pytest.fixture
async def tardy(tmp_path: Path) -> AsyncIterator[tuple[Tardy, Wire]]:
    """A server on SQLite, and the way to it."""
    store = Tardy(create_store(f"sqlite:{tmp_path / 'maitred.db'}"))
    store.durable = asyncio.Event()
    async with wired(store=store, simulated_dir=str(tmp_path)) as (_, wire):
        await wire("SessionService/CreateSession", session_pb2.CreateSessionRequest(session_id="s"))
        await wire("OrderService/AddItem", line())
        yield store, wire


def line() -> order_pb2.AddItemRequest:
    """Something for five dollars."""
    price = Money(minor_units=500, currency="USD")
    return order_pb2.AddItemRequest(session_id="s", item="Corkage", open_price=price)


def turn() -> conversation_pb2.RecordTurnRequest:
    """A turn of one message."""
    request = conversation_pb2.RecordTurnRequest(session_id="s")
    request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text="hello")
    return request


LIST_SESSIONS = session_pb2.ListSessionsRequest()
FEED = session_pb2.WatchEventsRequest(from_beginning=True)

READS: dict[str, tuple[str, Message, str, Message]] = {
    "events": (
        "SessionService/ListEvents",
        session_pb2.ListEventsRequest(session_id="s"),
        "OrderService/AddItem",
        line(),
    ),
    "sessions": ("SessionService/ListSessions", LIST_SESSIONS, "OrderService/AddItem", line()),
    "orders": (
        "OrderService/ListOrders",
        order_pb2.ListOrdersRequest(session_id="s"),
        "OrderService/PlaceOrder",
        order_pb2.PlaceOrderRequest(session_id="s"),
    ),
    "messages": (
        "ConversationService/ListMessages",
        conversation_pb2.ListMessagesRequest(session_id="s"),
        "ConversationService/RecordTurn",
        turn(),
    ),
    "payments": (
        "PaymentService/ListPayments",
        payment_pb2.ListPaymentsRequest(session_id="s"),
        "PaymentService/CreatePayment",
        payment_pb2.CreatePaymentRequest(session_id="s"),
    ),
    "feed": ("SessionService/WatchEvents", FEED, "OrderService/AddItem", line()),
}


@pytest.mark.parametrize("name", READS)
async def test_no_read_is_ahead_of_the_next(tardy: tuple[Tardy, Wire], name: str) -> None:
    """What a listing shows of a commit that is being published, the session shows as well."""
    store, wire = tardy
    rpc, request, change, content = READS[name]
    before: Any = await wire(rpc, request)
    store.delay_s = DELAY_S
    store.durable.clear()
    writing = asyncio.ensure_future(wire(change, content))
    await store.durable.wait()
    listed: Any = await wire(rpc, request)
    session: Any = await wire(
        "SessionService/GetSession", session_pb2.GetSessionRequest(session_id="s")
    )
    store.delay_s = 0.0
    await writing

    assert listed != before
    assert session.session.version >= 3
