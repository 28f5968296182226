"""What the guests of the benchmarks do: their menu, their sessions, their requests, their tabs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import grpc

from benchmarks.load import Step
from benchmarks.measure import BenchmarkError
from maitred.v1 import (
    common_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)

ITEM = "Negroni"
PRICE = 1250
LINES = 10
"""Lines of an order before it is placed, so that the open order stays of a natural size."""

OPENING = 500_000_000_000
TEXT = (
    "Something bitter and cold, please, and whatever you have with green olives for my friend "
    "here; she is driving tonight, so nothing strong for her, and could we sit outside when a "
    "table is free? Thanks!"
)
"""A message of 200 characters."""

assert len(TEXT) == 200

SESSIONS = "/maitred.v1.SessionService/"
ORDERS = "/maitred.v1.OrderService/"
CONVERSATIONS = "/maitred.v1.ConversationService/"
PAYMENTS = "/maitred.v1.PaymentService/"


class Guests:
    """A few calls to a server that are not measured."""

    def __init__(self, target: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._channel = grpc.insecure_channel(target)
        self._metadata = tuple(metadata)

    def call(self, path: str, request: Any, response: Any) -> Any:
        """Make one call. Raises: BenchmarkError."""
        method = self._channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return method(request, timeout=30, metadata=self._metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            raise BenchmarkError(f"{path}: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def put_menu(self) -> None:
        """Write the default menu: 20 items."""
        menu = state_pb2.Menu(menu_id="default", title="Bar", currency="USD")
        for number in range(20):
            name = ITEM if number == 7 else f"Drink {number}"
            menu.items.add(
                item_id=name.lower().replace(" ", "-"),
                name=name,
                section="Cocktails",
                price=common_pb2.Money(
                    minor_units=PRICE if name == ITEM else 900 + number, currency="USD"
                ),
                description="Stirred, over ice, with a slice of orange.",
            )
        request = menu_pb2.PutMenuRequest(menu=menu, request_id=os.urandom(16).hex())
        self.call("/maitred.v1.MenuService/PutMenu", request, menu_pb2.PutMenuResponse)

    def create(self, count: int, prefix: str = "") -> list[str]:
        """Open sessions that can order for a long time; without a prefix the server names them."""
        made = []
        for number in range(count):
            request = session_pb2.CreateSessionRequest(
                session_id=f"{prefix}{number}" if prefix else "",
                request_id=os.urandom(16).hex(),
                opening_balance=common_pb2.Money(minor_units=OPENING, currency="USD"),
            )
            answer = self.call(
                SESSIONS + "CreateSession", request, session_pb2.CreateSessionResponse
            )
            made.append(str(answer.session.session_id))
        return made

    def tab(self, session_id: str) -> int:
        """Read a tab."""
        request = session_pb2.GetSessionRequest(session_id=session_id)
        answer = self.call(SESSIONS + "GetSession", request, session_pb2.GetSessionResponse)
        return int(answer.session.payment.tab_total.minor_units)

    def payment(self, session_id: str) -> state_pb2.Payment:
        """Read the newest payment."""
        request = payment_pb2.GetPaymentRequest(session_id=session_id)
        answer = self.call(PAYMENTS + "GetPayment", request, payment_pb2.GetPaymentResponse)
        found: state_pb2.Payment = answer.payment
        return found

    def settled(self) -> int:
        """Count the payments that succeeded, up to a thousand of them."""
        request = payment_pb2.ListPaymentsRequest(
            statuses=[state_pb2.PAYMENT_STATUS_SUCCEEDED], page_size=1000
        )
        answer = self.call(PAYMENTS + "ListPayments", request, payment_pb2.ListPaymentsResponse)
        return len(answer.payments)

    def check_settled_once(self, session_id: str) -> str:
        """Hold one payment against log and ledger; return where the news of it came from.

        Raises: BenchmarkError.
        """
        request = session_pb2.GetSessionRequest(session_id=session_id)
        session = self.call(
            SESSIONS + "GetSession", request, session_pb2.GetSessionResponse
        ).session
        asked = session.latest_payment.amount.minor_units
        listing = session_pb2.ListEventsRequest(
            session_id=session_id, page_size=1000, changes=["payment_succeeded"]
        )
        events = self.call(SESSIONS + "ListEvents", listing, session_pb2.ListEventsResponse).events
        ledger = session.ledger
        if len(events) != 1 or (ledger.received, ledger.settled) != (asked, asked):
            raise BenchmarkError(
                f"session {session_id}: asked for {asked} minor units once, settled "
                f"{len(events)} times; received {ledger.received}, settled {ledger.settled}"
            )
        return str(events[0].payment_succeeded.source)

    def check_tabs(self, who: str, sessions: Sequence[str], acknowledged: Sequence[int]) -> int:
        """Compare every tab with the AddItem calls that were acknowledged; return their number.

        Raises: BenchmarkError.
        """
        for session_id, count in zip(sessions, acknowledged, strict=True):
            tab = self.tab(session_id)
            if tab != count * PRICE:
                raise BenchmarkError(
                    f"{who}: session {session_id} has a tab of {tab} minor units, "
                    f"but {count} acknowledged lines make {count * PRICE}"
                )
        return sum(acknowledged)


def add_item(session_id: str) -> Step:
    """Add a line."""
    request = order_pb2.AddItemRequest(session_id=session_id, item=ITEM)
    return Step("AddItem", ORDERS + "AddItem", request.SerializeToString(), request_id=True)


def place_order(session_id: str) -> Step:
    """Place the order."""
    request = order_pb2.PlaceOrderRequest(session_id=session_id)
    return Step("PlaceOrder", ORDERS + "PlaceOrder", request.SerializeToString(), request_id=True)


def order_cycle(session_id: str) -> list[Step]:
    """Add lines, then place the order."""
    return [add_item(session_id)] * LINES + [place_order(session_id)]


def lines_of(at: int) -> int:
    """Count the lines that a caller has added who is at a step of its order cycles."""
    orders, rest = divmod(at, LINES + 1)
    return orders * LINES + min(rest, LINES)


def create_payment(session_id: str) -> Step:
    """Ask for what is owed."""
    request = payment_pb2.CreatePaymentRequest(session_id=session_id)
    return Step(
        "CreatePayment", PAYMENTS + "CreatePayment", request.SerializeToString(), request_id=True
    )


def record_turn(session_id: str) -> Step:
    """Record a turn with one message."""
    request = conversation_pb2.RecordTurnRequest(session_id=session_id)
    request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=TEXT)
    path = CONVERSATIONS + "RecordTurn"
    return Step("RecordTurn", path, request.SerializeToString(), request_id=True)


def turn_cycle(session_id: str) -> list[Step]:
    """Say something, order something, place it."""
    return [record_turn(session_id), add_item(session_id), place_order(session_id)]


def get_session(session_id: str) -> Step:
    """Read a session."""
    request = session_pb2.GetSessionRequest(session_id=session_id)
    return Step("GetSession", SESSIONS + "GetSession", request.SerializeToString())


def list_sessions(page_token: str, label: str = "") -> Step:
    """Read a page of 50 sessions."""
    request = session_pb2.ListSessionsRequest(page_token=page_token)
    if label:
        request.labels["table"] = label
    return Step("ListSessions", SESSIONS + "ListSessions", request.SerializeToString())
