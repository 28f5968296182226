"""Every rpc that changes something gives one result, also where there was nothing to change."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from tests.support.bar import add, menu, new_guest, open_bar, session, turn, usd
from tests.support.requests import VALID, in_cash, open_payment, with_tab
from tests.support.wire import Wire

from maitred.v1 import (
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)


class Idle(NamedTuple):
    """A request that finds everything as it asks for, and what others do afterwards."""

    request: Any
    others: tuple[tuple[str, Message], ...]


Prepare = Callable[[Wire], Awaitable[Idle]]


async def _create(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    close = session_pb2.CloseSessionRequest(session_id=guest)
    return Idle(
        session_pb2.CreateSessionRequest(session_id=guest),
        (("SessionService/CloseSession", close),),
    )


async def _update(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    request = session_pb2.UpdateSessionRequest(session_id=guest)
    request.update_mask.paths.append("labels")
    other = session_pb2.UpdateSessionRequest(session_id=guest, labels={"table": "9"})
    other.update_mask.paths.append("labels")
    return Idle(request, (("SessionService/UpdateSession", other),))


async def _update_context(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    other = conversation_pb2.UpdateContextRequest(session_id=guest, topic="drinks")
    return Idle(
        conversation_pb2.UpdateContextRequest(session_id=guest, topic=""),
        (("ConversationService/UpdateContext", other),),
    )


async def _reset_phase(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    return Idle(
        conversation_pb2.ResetPhaseRequest(session_id=guest),
        (("ConversationService/RecordTurn", turn(guest)),),
    )


async def _put_menu(wire: Wire) -> Idle:
    built = menu(f"menu-{uuid.uuid4().hex}")
    request = menu_pb2.PutMenuRequest(menu=built)
    await wire("MenuService/PutMenu", request)
    other = menu_pb2.PutMenuRequest(menu=built)
    other.menu.title = "another"
    return Idle(request, (("MenuService/PutMenu", other),))


async def _set_availability(wire: Wire) -> Idle:
    built = menu(f"menu-{uuid.uuid4().hex}")
    await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=built))
    request = menu_pb2.SetItemAvailabilityRequest(menu_id=built.menu_id, item="beer")
    other = menu_pb2.SetItemAvailabilityRequest(menu_id=built.menu_id, item="beer", sold_out=True)
    return Idle(request, (("MenuService/SetItemAvailability", other),))


async def _clear_order(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    return Idle(
        order_pb2.ClearOrderRequest(session_id=guest), (("OrderService/AddItem", add(guest)),)
    )


async def _void_line(wire: Wire) -> Idle:
    guest = await with_tab(wire)
    await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=guest))
    request = order_pb2.VoidLineRequest(
        session_id=guest, order_number=1, line_number=1, reason="spilled"
    )
    await wire("OrderService/VoidLine", request)
    return Idle(request, (("OrderService/AddItem", add(guest)),))


async def _adjust_balance(wire: Wire) -> Idle:
    guest = await new_guest(wire)
    request = payment_pb2.AdjustBalanceRequest(session_id=guest, delta=usd(0), reason="checked")
    other = payment_pb2.AdjustBalanceRequest(session_id=guest, delta=usd(100), reason="voucher")
    return Idle(request, (("PaymentService/AdjustBalance", other),))


async def _set_tip(wire: Wire) -> Idle:
    guest = await with_tab(wire)
    request = payment_pb2.SetTipRequest(session_id=guest, percentage=15)
    await wire("PaymentService/SetTip", request)
    other = payment_pb2.SetTipRequest(session_id=guest, percentage=20)
    return Idle(request, (("PaymentService/SetTip", other),))


async def _create_payment(wire: Wire) -> Idle:
    guest = await with_tab(wire)
    payment = await open_payment(wire, guest)
    cancel = payment_pb2.CancelPaymentRequest(
        session_id=guest, payment_id=payment.payment_id, reason="changed their mind"
    )
    return Idle(
        payment_pb2.CreatePaymentRequest(session_id=guest),
        (("PaymentService/CancelPayment", cancel), ("OrderService/AddItem", add(guest))),
    )


async def _cancel_payment(wire: Wire) -> Idle:
    guest = await with_tab(wire)
    payment = await open_payment(wire, guest)
    request = payment_pb2.CancelPaymentRequest(session_id=guest, payment_id=payment.payment_id)
    await wire("PaymentService/CancelPayment", request)
    other = payment_pb2.CreatePaymentRequest(session_id=guest)
    return Idle(request, (("PaymentService/CreatePayment", other),))


async def _complete_payment(wire: Wire) -> Idle:
    guest = await with_tab(wire)
    paid = (await wire("PaymentService/CompletePayment", in_cash(guest))).payment
    request = in_cash(guest, payment_id=paid.payment_id)
    return Idle(
        request,
        (
            ("OrderService/AddItem", add(guest)),
            ("PaymentService/CompletePayment", in_cash(guest)),
        ),
    )


IDLE: dict[str, Prepare] = {
    "SessionService/CreateSession": _create,
    "SessionService/UpdateSession": _update,
    "ConversationService/UpdateContext": _update_context,
    "ConversationService/ResetPhase": _reset_phase,
    "MenuService/PutMenu": _put_menu,
    "MenuService/SetItemAvailability": _set_availability,
    "OrderService/ClearOrder": _clear_order,
    "OrderService/VoidLine": _void_line,
    "PaymentService/AdjustBalance": _adjust_balance,
    "PaymentService/SetTip": _set_tip,
    "PaymentService/CreatePayment": _create_payment,
    "PaymentService/CancelPayment": _cancel_payment,
    "PaymentService/CompletePayment": _complete_payment,
}

ALWAYS_EVENTFUL = {
    "SessionService/ExtendSession",
    "SessionService/ResetSession",
    "SessionService/CloseSession",
    "SessionService/DeleteSession",
    "ConversationService/RecordTurn",
    "OrderService/AddItem",
    "OrderService/RemoveItem",
    "OrderService/PlaceOrder",
    "PaymentService/RefundPayment",
    "PaymentService/ReconcilePayment",
}
"""What has an effect of its own whenever it is accepted."""


@pytest.fixture(scope="module")
async def wire(grpc_channel: grpc.aio.Channel) -> Wire:
    """Calls as staff, to a bar that is open."""
    wire = Wire(grpc_channel)
    await open_bar(wire)
    return wire


def test_every_rpc_that_changes_something_is_here() -> None:
    """A new one is either here or always has an effect."""
    assert set(IDLE) | ALWAYS_EVENTFUL == set(VALID)
    assert not set(IDLE) & ALWAYS_EVENTFUL


@pytest.mark.parametrize("rpc", IDLE)
async def test_what_changed_nothing_is_remembered(wire: Wire, rpc: str) -> None:
    """After others have changed it, the same request still changes nothing and says so."""
    idle = await IDLE[rpc](wire)
    idle.request.request_id = uuid.uuid4().hex
    first = await wire(rpc, idle.request)
    for other, request in idle.others:
        await wire(other, request)
    before = await _state(wire, idle.request)
    again = await wire(rpc, idle.request)

    assert first.event.request_recorded.method == f"maitred.v1.{rpc}"
    assert again.replayed
    assert again.event == first.event
    assert await _state(wire, idle.request) == before
    if hasattr(first, "payment"):
        assert again.payment.payment_id == first.payment.payment_id != ""
    if hasattr(first, "order"):
        assert again.order == first.order


@pytest.mark.parametrize("rpc", IDLE)
async def test_what_changed_nothing_is_not_recorded_without_an_id(wire: Wire, rpc: str) -> None:
    """Nobody could ask for it again."""
    idle = await IDLE[rpc](wire)
    before = await _state(wire, idle.request)
    await wire(rpc, idle.request)

    assert await _state(wire, idle.request) == before


async def test_a_record_is_a_sign_of_life_and_no_money(wire: Wire) -> None:
    """The version moves on and the expiry with it; the payment state stays what it was."""
    guest = await new_guest(wire)
    before = await session(wire, guest)
    request = order_pb2.ClearOrderRequest(session_id=guest, request_id="r")
    reply = await wire("OrderService/ClearOrder", request)

    assert reply.session.version == before.version + 1
    assert reply.event.HasField("expires_at")
    assert reply.session.payment == before.payment


async def test_a_request_that_joined_a_link_never_makes_another(wire: Wire) -> None:
    """Once that link is dead or paid, it is still the answer."""
    guest = await with_tab(wire)
    payment = await open_payment(wire, guest)
    join = payment_pb2.CreatePaymentRequest(session_id=guest, request_id=uuid.uuid4().hex)
    joined = await wire("PaymentService/CreatePayment", join)
    await wire("OrderService/AddItem", add(guest))
    await wire("PaymentService/CompletePayment", in_cash(guest))
    await wire("OrderService/AddItem", add(guest))
    before = await session(wire, guest)
    again = await wire("PaymentService/CreatePayment", join)
    list_them = payment_pb2.ListPaymentsRequest(session_id=guest)
    listed = await wire("PaymentService/ListPayments", list_them)

    assert joined.payment.payment_id == payment.payment_id
    assert (again.replayed, again.payment.payment_id) == (True, payment.payment_id)
    assert await session(wire, guest) == before
    assert len(listed.payments) == 2


async def _state(wire: Wire, request: Any) -> Message:
    """What the request is about, as it is now."""
    if isinstance(request, menu_pb2.PutMenuRequest):
        menu_id = request.menu.menu_id
    elif isinstance(request, menu_pb2.SetItemAvailabilityRequest):
        menu_id = request.menu_id
    else:
        found: Message = await session(wire, request.session_id)
        return found
    reply = await wire("MenuService/GetMenu", menu_pb2.GetMenuRequest(menu_id=menu_id))
    kept: state_pb2.Menu = reply.menu
    return kept
