"""A valid request for every rpc that changes something, with what must have happened before it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message
from tests.support.bar import add, menu, new_guest, turn, usd
from tests.support.wire import Wire

from maitred.server.kinds.menu import menu_ref
from maitred.server.kinds.session import session_ref
from maitred.server.stores.base import Ref
from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)


class Prepared(NamedTuple):
    """A request that is to succeed now, and what it changes."""

    request: Message
    target: Ref


Prepare = Callable[[Wire], Awaitable[Prepared]]


async def _create(_wire: Wire) -> Prepared:
    guest = f"guest-{uuid.uuid4().hex}"
    return _of(guest, session_pb2.CreateSessionRequest(session_id=guest))


async def _update(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    request = session_pb2.UpdateSessionRequest(session_id=guest, labels={"table": "7"})
    request.update_mask.paths.append("labels")
    return _of(guest, request)


async def _extend(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    return _of(guest, session_pb2.ExtendSessionRequest(session_id=guest, idle_seconds=7200))


async def _reset(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, session_pb2.ResetSessionRequest(session_id=guest, reason="a new party"))


async def _close(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, session_pb2.CloseSessionRequest(session_id=guest, reason="on the house"))


async def _delete(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    await wire("ConversationService/RecordTurn", turn(guest))
    return _of(guest, session_pb2.DeleteSessionRequest(session_id=guest, reason="asked for"))


async def _record_turn(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    request = turn(guest, "two beers")
    request.inbound.channel_type = "sms"
    request.inbound.channel_identifier = "+4912345"
    request.inbound.message_id = uuid.uuid4().hex
    return _of(guest, request)


async def _update_context(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    return _of(guest, conversation_pb2.UpdateContextRequest(session_id=guest, topic="drinks"))


async def _reset_phase(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    await wire("ConversationService/RecordTurn", turn(guest))
    return _of(guest, conversation_pb2.ResetPhaseRequest(session_id=guest))


async def _put_menu(_wire: Wire) -> Prepared:
    built = menu(f"menu-{uuid.uuid4().hex}")
    return Prepared(menu_pb2.PutMenuRequest(menu=built), menu_ref(built.menu_id))


async def _set_availability(wire: Wire) -> Prepared:
    built = menu(f"menu-{uuid.uuid4().hex}")
    await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=built))
    request = menu_pb2.SetItemAvailabilityRequest(menu_id=built.menu_id, item="beer", sold_out=True)
    return Prepared(request, menu_ref(built.menu_id))


async def _add_item(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    return _of(guest, add(guest, "negroni", quantity=2, modifiers=["Double"]))


async def _remove_item(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, order_pb2.RemoveItemRequest(session_id=guest, line_number=1, quantity=1))


async def _place_order(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, order_pb2.PlaceOrderRequest(session_id=guest))


async def _clear_order(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, order_pb2.ClearOrderRequest(session_id=guest))


async def _void_line(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=guest))
    request = order_pb2.VoidLineRequest(
        session_id=guest, order_number=1, line_number=1, reason="spilled"
    )
    return _of(guest, request)


async def _adjust_balance(wire: Wire) -> Prepared:
    guest = await new_guest(wire)
    request = payment_pb2.AdjustBalanceRequest(session_id=guest, delta=usd(5000), reason="voucher")
    return _of(guest, request)


async def _set_tip(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, payment_pb2.SetTipRequest(session_id=guest, percentage=15))


async def _create_payment(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, payment_pb2.CreatePaymentRequest(session_id=guest))


async def _cancel_payment(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    payment = await open_payment(wire, guest)
    request = payment_pb2.CancelPaymentRequest(
        session_id=guest, payment_id=payment.payment_id, reason="changed their mind"
    )
    return _of(guest, request)


async def _complete_payment(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    return _of(guest, in_cash(guest))


async def _refund_payment(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    paid = await wire("PaymentService/CompletePayment", in_cash(guest))
    request = payment_pb2.RefundPaymentRequest(
        session_id=guest, payment_id=paid.payment.payment_id, amount=usd(100), reason="warm beer"
    )
    return _of(guest, request)


async def _reconcile_payment(wire: Wire) -> Prepared:
    guest = await with_tab(wire)
    payment = await open_payment(wire, guest)
    request = payment_pb2.ReconcilePaymentRequest(
        session_id=guest, payment_id=payment.payment_id, reason="the guest asks"
    )
    return _of(guest, request)


VALID: dict[str, Prepare] = {
    "SessionService/CreateSession": _create,
    "SessionService/UpdateSession": _update,
    "SessionService/ExtendSession": _extend,
    "SessionService/ResetSession": _reset,
    "SessionService/CloseSession": _close,
    "SessionService/DeleteSession": _delete,
    "ConversationService/RecordTurn": _record_turn,
    "ConversationService/UpdateContext": _update_context,
    "ConversationService/ResetPhase": _reset_phase,
    "MenuService/PutMenu": _put_menu,
    "MenuService/SetItemAvailability": _set_availability,
    "OrderService/AddItem": _add_item,
    "OrderService/RemoveItem": _remove_item,
    "OrderService/PlaceOrder": _place_order,
    "OrderService/ClearOrder": _clear_order,
    "OrderService/VoidLine": _void_line,
    "PaymentService/AdjustBalance": _adjust_balance,
    "PaymentService/SetTip": _set_tip,
    "PaymentService/CreatePayment": _create_payment,
    "PaymentService/CancelPayment": _cancel_payment,
    "PaymentService/CompletePayment": _complete_payment,
    "PaymentService/RefundPayment": _refund_payment,
    "PaymentService/ReconcilePayment": _reconcile_payment,
}
"""By rpc. One that is missing here fails a test that looks the contract through."""


GUEST = "guest"
"""Whose session the requests of `READS` name."""

READS: dict[str, Message] = {
    "SessionService/GetSession": session_pb2.GetSessionRequest(session_id=GUEST, at_version=2),
    "SessionService/ListSessions": session_pb2.ListSessionsRequest(
        page_size=3,
        customer_id="c",
        labels={"a": "b"},
        created_from={"seconds": 1},  # type: ignore[arg-type]  # protobuf takes a dict
    ),
    "SessionService/ListEvents": session_pb2.ListEventsRequest(session_id=GUEST, after_version=1),
    "SessionService/WatchSession": session_pb2.WatchSessionRequest(session_id=GUEST, mode=2),  # type: ignore[arg-type]  # LATEST
    "SessionService/WatchEvents": session_pb2.WatchEventsRequest(
        from_beginning=True, session_ids=[GUEST], changes=["session_created"]
    ),
    "ConversationService/ListMessages": conversation_pb2.ListMessagesRequest(
        session_id=GUEST, newest_first=True
    ),
    "MenuService/GetMenu": menu_pb2.GetMenuRequest(menu_id="default"),
    "MenuService/ListMenus": menu_pb2.ListMenusRequest(page_size=1),
    "MenuService/FindItems": menu_pb2.FindItemsRequest(
        menu_id="default", query="beer", tags=["cold"], max_price=usd(1000)
    ),
    "MenuService/Recommend": menu_pb2.RecommendRequest(menu_id="default", preference="x", limit=2),
    "OrderService/ListOrders": order_pb2.ListOrdersRequest(session_id=GUEST, page_size=1),
    "PaymentService/GetPaymentState": payment_pb2.GetPaymentStateRequest(session_id=GUEST),
    "PaymentService/CheckFunds": payment_pb2.CheckFundsRequest(session_id=GUEST, amount=usd(5)),
    "PaymentService/GetPayment": payment_pb2.GetPaymentRequest(session_id=GUEST, payment_id="p"),
    "PaymentService/CheckPayment": payment_pb2.CheckPaymentRequest(
        session_id=GUEST,
        payment_id="p",
        wait={"nanos": 1},  # type: ignore[arg-type]  # protobuf takes a dict
    ),
    "PaymentService/ListUnmatchedPayments": payment_pb2.ListUnmatchedPaymentsRequest(page_size=5),
    "PaymentService/ListPayments": payment_pb2.ListPaymentsRequest(
        session_id=GUEST,
        page_size=1,
        statuses=[1, 4],  # type: ignore[list-item]  # CREATING, SUCCEEDED
    ),
    "PaymentService/WatchPayment": payment_pb2.WatchPaymentRequest(
        session_id=GUEST, end_when_settled=True
    ),
    "AdminService/GetServerInfo": admin_pb2.GetServerInfoRequest(),
    "AdminService/SweepExpired": admin_pb2.SweepExpiredRequest(limit=1),
    "AdminService/Backup": admin_pb2.BackupRequest(path="copy.db"),
    "AdminService/VerifyAudit": admin_pb2.VerifyAuditRequest(session_id=GUEST),
    "AdminService/GetProviderHealth": admin_pb2.GetProviderHealthRequest(),
}
"""A valid request for every rpc that has no request id."""


async def with_tab(wire: Wire) -> str:
    """Create a session whose open order has one line of two."""
    guest = await new_guest(wire)
    await wire("OrderService/AddItem", add(guest, quantity=2))
    return guest


async def open_payment(wire: Wire, guest: str) -> state_pb2.Payment:
    """Ask for the tab to be paid."""
    request = payment_pb2.CreatePaymentRequest(session_id=guest)
    reply = await wire("PaymentService/CreatePayment", request)
    payment: state_pb2.Payment = reply.payment
    return payment


def in_cash(guest: str, **fields: Any) -> payment_pb2.CompletePaymentRequest:
    """Settle the tab with cash."""
    return payment_pb2.CompletePaymentRequest(
        session_id=guest, method=state_pb2.PAYMENT_METHOD_CASH, reason="paid at the bar", **fields
    )


def _of(guest: str, request: Message) -> Prepared:
    return Prepared(request, session_ref(guest))
