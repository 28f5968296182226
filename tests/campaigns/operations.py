"""A guest's evening: the mix of requests that fault campaigns send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from maitred.v1 import conversation_pb2, order_pb2, payment_pb2, state_pb2
from maitred.v1.common_pb2 import Money

CHANGES = {
    "RecordTurn": "turn_recorded",
    "AddItem": "line_added",
    "PlaceOrder": "order_placed",
    "SetTip": "tip_set",
    "CreatePayment": "payment_requested",
}
"""The change that each method records."""


@dataclass(slots=True)
class Operation:
    """One request of a guest's and what was answered."""

    method: str
    request: Message
    response_type: type[Message]
    version: int = 0
    """The version of its event; 0 until acknowledged."""


def operation_at(session_id: str, at: int) -> Operation:
    """Think of the request number `at` of a guest; an order has a line before it is placed."""
    common: dict[str, Any] = {"session_id": session_id, "request_id": f"op-{at}"}
    # An order must have a line before it is placed or paid, so the mix has a rhythm.
    match at % 6:
        case 0 | 2:
            return Operation(
                "OrderService/AddItem",
                order_pb2.AddItemRequest(item="tea", quantity=1 + at % 3, **common),
                order_pb2.AddItemResponse,
            )
        case 1:
            return Operation(
                "PaymentService/SetTip",
                payment_pb2.SetTipRequest(
                    amount=Money(minor_units=at + 1, currency="USD"), **common
                ),
                payment_pb2.SetTipResponse,
            )
        case 3:
            return Operation(
                "OrderService/PlaceOrder",
                order_pb2.PlaceOrderRequest(**common),
                order_pb2.PlaceOrderResponse,
            )
        case 4 if at % 4 == 0:
            return Operation(
                "PaymentService/CreatePayment",
                payment_pb2.CreatePaymentRequest(**common),
                payment_pb2.CreatePaymentResponse,
            )
        case _:
            request = conversation_pb2.RecordTurnRequest(**common)
            request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=f"turn {at}")
            return Operation(
                "ConversationService/RecordTurn", request, conversation_pb2.RecordTurnResponse
            )
