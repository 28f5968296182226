"""What is wrong is told with its status, its reason and its field; nothing of it is stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from tests.badinput.conftest import House
from tests.support.bar import add, menu, new_guest, session, turn, usd
from tests.support.requests import GUEST
from tests.support.wire import METHODS, STATUS_OF, Wire, wired

from maitred.server.app.pipeline.auth import add_token
from maitred.server.kinds.session import session_ref
from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)
from maitred.v1.common_pb2 import Money, Role

CARD = "4111 1111 1111 1111"
BIDI = "Negroni\u202e"
CONTROL = "Negroni\x07"
TOO_LONG = "x" * 20_000
NOBODY = "nobody-of-this-name"
BILLION = 10**12 + 1


class Bad(NamedTuple):
    """A request that must be refused, and how."""

    rpc: str
    request: Message
    reason: str
    field: str = ""
    """Of the field violation; empty where it is about no field."""


def _create(**fields: Any) -> Message:
    return session_pb2.CreateSessionRequest(session_id="never-created", **fields)


def _update(paths: str = "labels", **fields: Any) -> Message:
    request = session_pb2.UpdateSessionRequest(session_id=GUEST, **fields)
    request.update_mask.paths.extend(paths.split())
    return request


def _struct(**fields: Any) -> Struct:
    made = Struct()
    made.update(fields)
    return made


def _turn(**fields: Any) -> conversation_pb2.RecordTurnRequest:
    request = conversation_pb2.RecordTurnRequest(session_id=GUEST)
    request.messages.add(**{"role": state_pb2.MESSAGE_ROLE_USER, "text": "hello", **fields})
    return request


def _inbound(**fields: str) -> conversation_pb2.RecordTurnRequest:
    request = _turn()
    request.inbound.CopyFrom(
        state_pb2.InboundMessage(
            **{
                "channel_type": "sms",
                "channel_identifier": "+4912345",
                "message_id": "1",
                **fields,
            }
        )
    )
    return request


def _many_messages(count: int) -> conversation_pb2.RecordTurnRequest:
    request = conversation_pb2.RecordTurnRequest(session_id=GUEST)
    for _ in range(count):
        request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text="hello")
    return request


def _menu(item: dict[str, Any] | None = None, **fields: Any) -> Message:
    built = menu("never-stored")
    built.MergeFrom(state_pb2.Menu(**fields))
    if item is not None:
        built.items.add(**{"item_id": "new", "name": "New", "price": usd(1), **item})
    return menu_pb2.PutMenuRequest(menu=built)


def _field(number: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size & 0x7F | 0x80, size >> 7)) if size > 0x7F else bytes((size,))
    return bytes((number << 3 | 2,)) + length + content


def _deep(levels: int) -> bytes:
    """Serialise a Struct within a Struct and so on, deeper than the library would build one."""
    struct = b""
    for _ in range(levels):
        value = _field(5, struct)
        struct = _field(1, _field(1, b"x") + _field(2, value))
    return struct


SESSION, TALK, MENU = "SessionService", "ConversationService", "MenuService"
ORDER, PAY, ADMIN = "OrderService", "PaymentService", "AdminService"
NOISE = "noise"

BAD: dict[str, Bad] = {
    # --- numbers that are out of bounds
    "quantity below zero": Bad(
        f"{ORDER}/AddItem", add(GUEST, quantity=-1), "INVALID_QUANTITY", "quantity"
    ),
    "quantity 101": Bad(
        f"{ORDER}/AddItem", add(GUEST, quantity=101), "INVALID_QUANTITY", "quantity"
    ),
    "quantity zero": Bad(
        f"{ORDER}/AddItem", add(GUEST, quantity=0), "INVALID_QUANTITY", "quantity"
    ),
    "nothing to take off": Bad(
        f"{ORDER}/RemoveItem",
        order_pb2.RemoveItemRequest(session_id=GUEST, line_number=2, quantity=0),
        "INVALID_QUANTITY",
        "quantity",
    ),
    "nothing to void": Bad(
        f"{ORDER}/VoidLine",
        order_pb2.VoidLineRequest(
            session_id=GUEST, order_number=1, line_number=1, quantity=0, reason="x"
        ),
        "INVALID_QUANTITY",
        "quantity",
    ),
    "quantity absurd": Bad(
        f"{ORDER}/AddItem", add(GUEST, quantity=2**31 - 1), "INVALID_QUANTITY", "quantity"
    ),
    "more than the line has": Bad(
        f"{ORDER}/RemoveItem",
        order_pb2.RemoveItemRequest(session_id=GUEST, line_number=2, quantity=3),
        "INVALID_QUANTITY",
        "quantity",
    ),
    "line zero": Bad(
        f"{ORDER}/RemoveItem",
        order_pb2.RemoveItemRequest(session_id=GUEST, line_number=0),
        "INVALID_FIELD",
        "line_number",
    ),
    "idle for ever": Bad(
        f"{SESSION}/CreateSession", _create(idle_seconds=2**31 - 1), "INVALID_FIELD", "idle_seconds"
    ),
    "idle below zero": Bad(
        f"{SESSION}/ExtendSession",
        session_pb2.ExtendSessionRequest(session_id=GUEST, idle_seconds=-1),
        "INVALID_FIELD",
        "idle_seconds",
    ),
    "page of minus one": Bad(
        f"{SESSION}/ListSessions",
        session_pb2.ListSessionsRequest(page_size=-1),
        "INVALID_FIELD",
        "page_size",
    ),
    "page of a million": Bad(
        f"{ORDER}/ListOrders",
        order_pb2.ListOrdersRequest(session_id=GUEST, page_size=1_000_000),
        "INVALID_FIELD",
        "page_size",
    ),
    "version zero": Bad(
        f"{SESSION}/GetSession",
        session_pb2.GetSessionRequest(session_id=GUEST, at_version=0),
        "VERSION_OUT_OF_RANGE",
        "at_version",
    ),
    "percentage above all": Bad(
        f"{PAY}/SetTip",
        payment_pb2.SetTipRequest(session_id=GUEST, percentage=101),
        "INVALID_TIP_PERCENTAGE",
        "percentage",
    ),
    "wait too long": Bad(
        f"{PAY}/CheckPayment",
        payment_pb2.CheckPaymentRequest(session_id=GUEST, wait={"seconds": 31}),  # type: ignore[arg-type]  # protobuf takes a dict
        "INVALID_FIELD",
        "wait",
    ),
    "wait below zero": Bad(
        f"{PAY}/CheckPayment",
        payment_pb2.CheckPaymentRequest(session_id=GUEST, wait={"seconds": -1}),  # type: ignore[arg-type]  # protobuf takes a dict
        "INVALID_FIELD",
        "wait",
    ),
    # --- money that is negative, absurd or of another country
    "opening below zero": Bad(
        f"{SESSION}/CreateSession",
        _create(opening_balance=usd(-1)),
        "INVALID_FIELD",
        "opening_balance",
    ),
    "opening absurd": Bad(
        f"{SESSION}/CreateSession",
        _create(opening_balance=usd(BILLION)),
        "INVALID_FIELD",
        "opening_balance.minor_units",
    ),
    "opening in nothing": Bad(
        f"{SESSION}/CreateSession",
        _create(opening_balance=Money(minor_units=1)),
        "INVALID_FIELD",
        "opening_balance.currency",
    ),
    "currency in lower case": Bad(
        f"{SESSION}/CreateSession",
        _create(opening_balance=Money(minor_units=1, currency="usd")),
        "INVALID_FIELD",
        "opening_balance.currency",
    ),
    "currency that is none": Bad(
        f"{SESSION}/CreateSession",
        _create(opening_balance=Money(minor_units=1, currency="XQZ")),
        "INVALID_FIELD",
        "opening_balance.currency",
    ),
    "open price below zero": Bad(
        f"{ORDER}/AddItem",
        add(GUEST, "special", open_price=usd(-1)),
        "INVALID_FIELD",
        "open_price.minor_units",
    ),
    "open price absurd": Bad(
        f"{ORDER}/AddItem",
        add(GUEST, "special", open_price=usd(2**63 - 1)),
        "INVALID_FIELD",
        "open_price.minor_units",
    ),
    "open price beyond the balance": Bad(
        f"{ORDER}/AddItem",
        add(GUEST, "special", open_price=usd(10**12), quantity=100),
        "INSUFFICIENT_FUNDS",
    ),
    "open price in euro": Bad(
        f"{ORDER}/AddItem",
        add(GUEST, "special", open_price=Money(minor_units=1, currency="EUR")),
        "CURRENCY_MISMATCH",
        "open_price",
    ),
    "tip below zero": Bad(
        f"{PAY}/SetTip",
        payment_pb2.SetTipRequest(session_id=GUEST, amount=usd(-1)),
        "INVALID_FIELD",
        "amount.minor_units",
    ),
    "tip absurd": Bad(
        f"{PAY}/SetTip",
        payment_pb2.SetTipRequest(session_id=GUEST, amount=usd(-(2**63))),
        "INVALID_FIELD",
        "amount.minor_units",
    ),
    "tip in euro": Bad(
        f"{PAY}/SetTip",
        payment_pb2.SetTipRequest(session_id=GUEST, amount=Money(minor_units=1, currency="EUR")),
        "CURRENCY_MISMATCH",
        "amount",
    ),
    "tip that is not offered": Bad(
        f"{PAY}/SetTip",
        payment_pb2.SetTipRequest(session_id=GUEST, percentage=7),
        "INVALID_TIP_PERCENTAGE",
        "percentage",
    ),
    "no tip at all": Bad(
        f"{PAY}/SetTip", payment_pb2.SetTipRequest(session_id=GUEST), "INVALID_FIELD", "tip"
    ),
    "balance below zero": Bad(
        f"{PAY}/AdjustBalance",
        payment_pb2.AdjustBalanceRequest(session_id=GUEST, delta=usd(-(10**12)), reason="x"),
        "INSUFFICIENT_FUNDS",
    ),
    "balance absurd": Bad(
        f"{PAY}/AdjustBalance",
        payment_pb2.AdjustBalanceRequest(session_id=GUEST, delta=usd(10**12), reason="x"),
        "AMOUNT_OUT_OF_RANGE",
    ),
    "funds below zero": Bad(
        f"{PAY}/CheckFunds",
        payment_pb2.CheckFundsRequest(session_id=GUEST, amount=usd(-1)),
        "INVALID_FIELD",
        "amount.minor_units",
    ),
    "refund of nothing": Bad(
        f"{PAY}/RefundPayment",
        payment_pb2.RefundPaymentRequest(
            session_id=GUEST, payment_id="p", amount=usd(0), reason="x"
        ),
        "INVALID_FIELD",
        "amount",
    ),
    "price below zero": Bad(
        f"{MENU}/PutMenu",
        _menu({"price": usd(-1)}),
        "INVALID_FIELD",
        "menu.items[4].price.minor_units",
    ),
    "price in euro": Bad(
        f"{MENU}/PutMenu",
        _menu({"price": Money(minor_units=1, currency="EUR")}),
        "INVALID_FIELD",
        "menu.items[4].price.currency",
    ),
    # --- ids that are unknown or none
    "unknown session": Bad(
        f"{SESSION}/GetSession", session_pb2.GetSessionRequest(session_id=NOBODY), "INVALID_SESSION"
    ),
    "write to an unknown session": Bad(f"{ORDER}/AddItem", add(NOBODY), "INVALID_SESSION"),
    "log of an unknown session": Bad(
        f"{SESSION}/ListEvents", session_pb2.ListEventsRequest(session_id=NOBODY), "INVALID_SESSION"
    ),
    "watch of an unknown session": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=NOBODY),
        "INVALID_SESSION",
    ),
    "audit of an unknown session": Bad(
        f"{ADMIN}/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=NOBODY), "INVALID_SESSION"
    ),
    "empty session": Bad(
        f"{SESSION}/GetSession", session_pb2.GetSessionRequest(), "INVALID_FIELD", "session_id"
    ),
    "session with a space": Bad(
        f"{SESSION}/GetSession",
        session_pb2.GetSessionRequest(session_id="table 7"),
        "INVALID_FIELD",
        "session_id",
    ),
    "session with a line feed": Bad(
        f"{SESSION}/GetSession",
        session_pb2.GetSessionRequest(session_id="guest\n"),
        "INVALID_FIELD",
        "session_id",
    ),
    "session too long": Bad(
        f"{SESSION}/CreateSession",
        session_pb2.CreateSessionRequest(session_id="x" * 129),
        "INVALID_FIELD",
        "session_id",
    ),
    "session that is taken": Bad(
        f"{SESSION}/CreateSession",
        session_pb2.CreateSessionRequest(session_id=GUEST, customer_id="c"),
        "ALREADY_EXISTS",
    ),
    "unknown menu": Bad(
        f"{MENU}/GetMenu", menu_pb2.GetMenuRequest(menu_id=NOBODY), "MENU_NOT_FOUND"
    ),
    "unknown item": Bad(f"{ORDER}/AddItem", add(GUEST, "unicorn"), "ITEM_NOT_FOUND"),
    "item that is sold out": Bad(f"{ORDER}/AddItem", add(GUEST, "OYSTERS"), "ITEM_SOLD_OUT"),
    "no item": Bad(f"{ORDER}/AddItem", add(GUEST, ""), "INVALID_FIELD", "item"),
    "unknown modifier": Bad(
        f"{ORDER}/AddItem", add(GUEST, modifiers=["on fire"]), "MODIFIER_NOT_FOUND"
    ),
    "too many modifiers": Bad(
        f"{ORDER}/AddItem", add(GUEST, modifiers=["double"] * 33), "INVALID_FIELD", "modifiers"
    ),
    "availability of an unknown item": Bad(
        f"{MENU}/SetItemAvailability",
        menu_pb2.SetItemAvailabilityRequest(menu_id="default", item="unicorn"),
        "ITEM_NOT_FOUND",
    ),
    "unknown line": Bad(
        f"{ORDER}/RemoveItem",
        order_pb2.RemoveItemRequest(session_id=GUEST, line_number=2**31 - 1),
        "LINE_NOT_FOUND",
    ),
    "unknown order": Bad(
        f"{ORDER}/VoidLine",
        order_pb2.VoidLineRequest(session_id=GUEST, order_number=77, line_number=1, reason="x"),
        "ORDER_NOT_FOUND",
    ),
    "unknown payment": Bad(
        f"{PAY}/GetPayment",
        payment_pb2.GetPaymentRequest(session_id=GUEST, payment_id=NOBODY),
        "PAYMENT_NOT_FOUND",
    ),
    "refund of an unknown payment": Bad(
        f"{PAY}/RefundPayment",
        payment_pb2.RefundPaymentRequest(session_id=GUEST, payment_id=NOBODY, reason="x"),
        "PAYMENT_NOT_FOUND",
    ),
    "watch of an unknown payment": Bad(
        f"{PAY}/WatchPayment",
        payment_pb2.WatchPaymentRequest(session_id=GUEST, payment_id=NOBODY),
        "PAYMENT_NOT_FOUND",
    ),
    # --- versions and request ids
    "wrong version": Bad(
        f"{TALK}/RecordTurn", turn(GUEST, expected_version=99), "CONCURRENT_MODIFICATION"
    ),
    "wrong payment version": Bad(
        f"{ORDER}/AddItem", add(GUEST, expected_payment_version=99), "CONCURRENT_MODIFICATION"
    ),
    "wrong reset count": Bad(
        f"{ORDER}/AddItem", add(GUEST, expected_reset_count=1), "CONCURRENT_MODIFICATION"
    ),
    "wrong version of a menu": Bad(
        f"{MENU}/PutMenu",
        menu_pb2.PutMenuRequest(menu=menu(), expected_version=0),
        "CONCURRENT_MODIFICATION",
    ),
    "version below one": Bad(
        f"{ORDER}/AddItem", add(GUEST, expected_version=-1), "INVALID_FIELD", "expected_version"
    ),
    "version that is not there yet": Bad(
        f"{SESSION}/GetSession",
        session_pb2.GetSessionRequest(session_id=GUEST, at_version=2**63 - 1),
        "VERSION_OUT_OF_RANGE",
    ),
    "watch ahead of the log": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=GUEST, after_version=2**63 - 1),
        "VERSION_OUT_OF_RANGE",
    ),
    "watch from nowhere": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=GUEST, resume_token=b"\xff" * 64),
        "VERSION_OUT_OF_RANGE",
    ),
    "watch from too far": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=GUEST, resume_token=b"x" * 65),
        "VERSION_OUT_OF_RANGE",
        "resume_token",
    ),
    "adjustment without a reason": Bad(
        f"{PAY}/AdjustBalance",
        payment_pb2.AdjustBalanceRequest(session_id=GUEST, delta=usd(1), reason=" \n"),
        "REASON_REQUIRED",
        "reason",
    ),
    "watch from two places": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=GUEST, after_version=1, resume_token=b"x"),
        "INVALID_FIELD",
        "after_version",
    ),
    "everything from nowhere": Bad(
        f"{SESSION}/WatchEvents",
        session_pb2.WatchEventsRequest(resume_token=b"\xff" * 64),
        "VERSION_OUT_OF_RANGE",
    ),
    "everything from two places": Bad(
        f"{SESSION}/WatchEvents",
        session_pb2.WatchEventsRequest(resume_token=b"x", from_beginning=True),
        "INVALID_FIELD",
        "from_beginning",
    ),
    "request id too long": Bad(
        f"{ORDER}/AddItem", add(GUEST, request_id="x" * 129), "INVALID_FIELD", "request_id"
    ),
    "request id of another request": Bad(
        f"{SESSION}/CreateSession",
        session_pb2.CreateSessionRequest(session_id=GUEST, request_id="taken", customer_id="c"),
        "REQUEST_ID_REUSED",
    ),
    # --- pages that nobody gave out
    "page token of noise": Bad(
        f"{SESSION}/ListSessions",
        session_pb2.ListSessionsRequest(page_token=NOISE),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    "page token of another alphabet": Bad(
        f"{MENU}/ListMenus",
        menu_pb2.ListMenusRequest(page_token=f"\u00e9\u202e{NOISE}"),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    "page token too long": Bad(
        f"{PAY}/ListPayments",
        payment_pb2.ListPaymentsRequest(page_token="x" * 513),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    # --- text
    "control character in an item": Bad(
        f"{ORDER}/AddItem", add(GUEST, CONTROL), "INVALID_FIELD", "item"
    ),
    "bidi override in an item": Bad(f"{ORDER}/AddItem", add(GUEST, BIDI), "INVALID_FIELD", "item"),
    "bidi override in a modifier": Bad(
        f"{ORDER}/AddItem", add(GUEST, modifiers=[BIDI]), "INVALID_FIELD", "modifiers[0]"
    ),
    "bidi override in a label": Bad(
        f"{SESSION}/UpdateSession",
        _update(labels={"table": BIDI}),
        "INVALID_FIELD",
        "labels['table']",
    ),
    "control character in a label's key": Bad(
        f"{SESSION}/UpdateSession",
        _update(labels={"ta\x00ble": "7"}),
        "INVALID_FIELD",
        "labels['ta\\x00ble']",
    ),
    "control character in a key": Bad(
        f"{SESSION}/UpdateSession",
        _update("attributes", attributes=_struct(**{"a\x1bb": 1})),
        "INVALID_FIELD",
        "attributes",
    ),
    "joiner in an address": Bad(
        f"{TALK}/RecordTurn",
        _inbound(channel_identifier="+49\u200d123"),
        "INVALID_FIELD",
        "inbound.channel_identifier",
    ),
    "name of a menu item with a line feed": Bad(
        f"{MENU}/PutMenu", _menu({"name": "Two\nLines"}), "INVALID_FIELD", "menu.items[4].name"
    ),
    "message too long": Bad(
        f"{TALK}/RecordTurn", _turn(text=TOO_LONG), "INVALID_FIELD", "messages[0].text"
    ),
    "note too long": Bad(f"{ORDER}/AddItem", add(GUEST, note=TOO_LONG), "INVALID_FIELD", "note"),
    "33 messages": Bad(f"{TALK}/RecordTurn", _many_messages(33), "INVALID_FIELD", "messages"),
    "no messages": Bad(f"{TALK}/RecordTurn", _many_messages(0), "INVALID_FIELD", "messages"),
    "channel in upper case": Bad(
        f"{TALK}/RecordTurn", _inbound(channel_type="SMS"), "INVALID_FIELD", "inbound.channel_type"
    ),
    "no reason": Bad(
        f"{ORDER}/VoidLine",
        order_pb2.VoidLineRequest(session_id=GUEST, order_number=1, line_number=1),
        "REASON_REQUIRED",
        "reason",
    ),
    "no reason to write off": Bad(
        f"{SESSION}/CloseSession",
        session_pb2.CloseSessionRequest(session_id=GUEST),
        "REASON_REQUIRED",
        "reason",
    ),
    "deletion with money open": Bad(
        f"{SESSION}/DeleteSession",
        session_pb2.DeleteSessionRequest(session_id=GUEST, reason="x"),
        "TAB_OPEN",
    ),
    # --- card numbers
    "card in an item": Bad(f"{ORDER}/AddItem", add(GUEST, CARD), "CARD_NUMBER_REFUSED", "item"),
    "card in a note": Bad(f"{ORDER}/AddItem", add(GUEST, note=CARD), "CARD_NUMBER_REFUSED", "note"),
    "card in a label": Bad(
        f"{SESSION}/UpdateSession",
        _update(labels={"pay": CARD}),
        "CARD_NUMBER_REFUSED",
        "labels['pay']",
    ),
    "card in an attribute": Bad(
        f"{SESSION}/UpdateSession",
        _update("attributes", attributes=_struct(card={"number": CARD})),
        "CARD_NUMBER_REFUSED",
        "attributes.card.number",
    ),
    "card as a number": Bad(
        f"{SESSION}/UpdateSession",
        _update("attributes", attributes=_struct(card=4111111111111111)),
        "CARD_NUMBER_REFUSED",
        "attributes.card",
    ),
    "card in a list": Bad(
        f"{SESSION}/CreateSession",
        _create(attributes=_struct(cards=["x", CARD])),
        "CARD_NUMBER_REFUSED",
        "attributes.cards[1]",
    ),
    # --- what cannot be seen
    "unseen customer": Bad(
        f"{SESSION}/CreateSession", _create(customer_id="\u3164"), "INVALID_FIELD", "customer_id"
    ),
    "unseen label": Bad(
        f"{SESSION}/UpdateSession",
        _update(labels={"pay": "\u2800"}),
        "INVALID_FIELD",
        "labels['pay']",
    ),
    "unseen speaker": Bad(
        f"{TALK}/RecordTurn", _turn(name="\u200d\ufe0f"), "INVALID_FIELD", "messages[0].name"
    ),
    "unseen item": Bad(f"{ORDER}/AddItem", add(GUEST, "\u115f"), "INVALID_FIELD", "item"),
    "card in a reason": Bad(
        f"{SESSION}/CloseSession",
        session_pb2.CloseSessionRequest(session_id=GUEST, reason=f"paid with {CARD}"),
        "CARD_NUMBER_REFUSED",
        "reason",
    ),
    "card in a context": Bad(
        f"{TALK}/UpdateContext",
        conversation_pb2.UpdateContextRequest(session_id=GUEST, entities=_struct(card=CARD)),
        "CARD_NUMBER_REFUSED",
        "entities.card",
    ),
    "card as a speaker": Bad(
        f"{TALK}/RecordTurn", _turn(name=CARD), "CARD_NUMBER_REFUSED", "messages[0].name"
    ),
    # --- structures
    "huge attributes": Bad(
        f"{SESSION}/UpdateSession",
        _update("attributes", attributes=_struct(x=TOO_LONG)),
        "INVALID_FIELD",
        "attributes",
    ),
    "huge context": Bad(
        f"{TALK}/UpdateContext",
        conversation_pb2.UpdateContextRequest(session_id=GUEST, entities=_struct(x=TOO_LONG)),
        "INVALID_FIELD",
        "entities",
    ),
    "too many entities": Bad(
        f"{TALK}/UpdateContext",
        conversation_pb2.UpdateContextRequest(
            session_id=GUEST, entities=_struct(**{f"e{at}": 1 for at in range(65)})
        ),
        "INVALID_FIELD",
        "entities",
    ),
    "no number": Bad(
        f"{SESSION}/UpdateSession",
        _update("attributes", attributes=_struct(x=float("nan"))),
        "INVALID_FIELD",
        "attributes.x",
    ),
    "33 labels": Bad(
        f"{SESSION}/UpdateSession",
        _update(labels={f"k{at}": "v" for at in range(33)}),
        "INVALID_FIELD",
        "labels",
    ),
    "nothing to update": Bad(
        f"{SESSION}/UpdateSession", _update(""), "INVALID_FIELD", "update_mask"
    ),
    "path that cannot be updated": Bad(
        f"{SESSION}/UpdateSession", _update("payment.balance"), "INVALID_FIELD", "update_mask"
    ),
    "menu without a name": Bad(
        f"{MENU}/PutMenu", menu_pb2.PutMenuRequest(), "INVALID_FIELD", "menu"
    ),
    # --- enums
    "unknown role": Bad(f"{TALK}/RecordTurn", _turn(role=99), "INVALID_FIELD", "messages[0].role"),
    "no role": Bad(f"{TALK}/RecordTurn", _turn(role=0), "INVALID_FIELD", "messages[0].role"),
    "unknown policy": Bad(
        f"{SESSION}/CreateSession", _create(balance_policy=42), "INVALID_FIELD", "balance_policy"
    ),
    "unknown mode": Bad(
        f"{SESSION}/WatchSession",
        session_pb2.WatchSessionRequest(session_id=GUEST, mode=-1),  # type: ignore[arg-type]  # no such mode
        "INVALID_FIELD",
        "mode",
    ),
    "unknown status": Bad(
        f"{SESSION}/ListSessions",
        session_pb2.ListSessionsRequest(statuses=[99]),  # type: ignore[list-item]  # no such status
        "INVALID_FIELD",
        "statuses[0]",
    ),
    "unknown method": Bad(
        f"{PAY}/CompletePayment",
        payment_pb2.CompletePaymentRequest(session_id=GUEST, method=99, reason="x"),  # type: ignore[arg-type]  # no such method
        "INVALID_FIELD",
        "method",
    ),
    "provider's method by hand": Bad(
        f"{PAY}/CompletePayment",
        payment_pb2.CompletePaymentRequest(
            session_id=GUEST, method=state_pb2.PAYMENT_METHOD_PROVIDER, reason="x"
        ),
        "INVALID_FIELD",
        "method",
    ),
    "unknown change": Bad(
        f"{SESSION}/ListEvents",
        session_pb2.ListEventsRequest(session_id=GUEST, changes=["session_created", "rained"]),
        "INVALID_FIELD",
        "changes[1]",
    ),
    "unknown change to watch": Bad(
        f"{SESSION}/WatchEvents",
        session_pb2.WatchEventsRequest(changes=["rained"]),
        "INVALID_FIELD",
        "changes",
    ),
    # --- paths on the server's machine
    "backup elsewhere": Bad(
        f"{ADMIN}/Backup", admin_pb2.BackupRequest(path="../elsewhere.db"), "INVALID_FIELD", "path"
    ),
    "backup at the root": Bad(
        f"{ADMIN}/Backup", admin_pb2.BackupRequest(path="/elsewhere.db"), "INVALID_FIELD", "path"
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_refused_with_status_reason_and_field(house: House, name: str) -> None:
    """Every refusal says why, and where it is about a field, which; nothing changes."""
    bad = BAD[name]
    before = await house.seen()
    failure = await house.wire.fails(bad.rpc, bad.request)

    assert (failure.reason, failure.status) == (bad.reason, STATUS_OF[bad.reason])
    assert failure.fields[:1] == ((bad.field,) if bad.field else ())
    assert await house.seen() == before
    assert CARD not in failure.message
    assert "4111" not in failure.message


@pytest.mark.parametrize("rpc", METHODS)
@pytest.mark.parametrize(
    "raw", [b"\xff\xff\xff", b"\x0a\x7fshort", b"\x0a\x02\xff\xfe", b"\x0b" * 200]
)
async def test_bytes_that_are_no_message(house: House, rpc: str, raw: bytes) -> None:
    """Bytes that cannot be read are the caller's fault, on every rpc alike."""
    before = await house.seen()
    failure = await house.wire.outcome(rpc, raw)
    fields = METHODS[rpc].input_type.fields_by_number
    is_text = 1 in fields and fields[1].type == fields[1].TYPE_STRING
    if raw == b"\x0a\x02\xff\xfe" and not is_text:
        return  # There these bytes may mean something, as a message or as an unknown field.

    assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert await house.seen() == before


async def test_a_message_that_is_too_large(house: House) -> None:
    """More than the server receives is refused before it is read, and the connection goes on."""
    before = await house.seen()
    request = turn(GUEST, "x" * (5 * 1024 * 1024))
    failure = await house.wire.fails("ConversationService/RecordTurn", request)

    assert failure.status == "RESOURCE_EXHAUSTED"
    assert await house.seen() == before


async def test_metadata_that_is_too_large(house: House) -> None:
    """Metadata beyond the bound ends its call and no other."""
    before = await house.seen()
    request = session_pb2.GetSessionRequest(session_id=GUEST)
    failure = await house.wire.fails(
        "SessionService/GetSession", request, metadata=(("x-large", "x" * 100_000),)
    )

    assert failure.status in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert await house.seen() == before


@pytest.mark.parametrize("levels", [*range(8, 36), 60, 200])
async def test_nesting_without_end(house: House, levels: int) -> None:
    """Data within data is kept as far as it can be read back, and refused beyond."""
    guest = await new_guest(house.wire)
    request = session_pb2.UpdateSessionRequest(session_id=guest)
    request.update_mask.paths.append("attributes")
    raw = request.SerializeToString() + _field(11, _deep(levels))
    outcome = await house.wire.outcome("SessionService/UpdateSession", raw)
    house.server.engine.cache.drop(session_ref(guest))
    found = await session(house.wire, guest)
    audit = await house.wire(
        "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=guest)
    )
    listed = await house.wire(
        "SessionService/ListEvents", session_pb2.ListEventsRequest(session_id=guest)
    )
    watched = await house.wire(
        "SessionService/WatchSession",
        session_pb2.WatchSessionRequest(session_id=guest, after_version=0),
    )
    seen = await house.wire(
        "SessionService/WatchEvents",
        session_pb2.WatchEventsRequest(from_beginning=True, session_ids=[guest]),
    )

    assert audit.valid, audit
    assert len(listed.events) == len(watched.events.events) == len(seen.events) == found.version
    if isinstance(outcome, session_pb2.UpdateSessionResponse):
        assert found.attributes.SerializeToString() == _deep(levels)
    else:
        assert outcome.status == "INVALID_ARGUMENT"
        assert found.version == 1


@pytest.mark.parametrize("bound", ["created_from", "created_before"])
@pytest.mark.parametrize(
    ("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (0, 2**31 - 1), (253402300800, 0)]
)
async def test_times_beyond_the_calendar(
    house: House, bound: str, seconds: int, nanos: int
) -> None:
    """A time that no clock shows is refused or finds what it must, and breaks nothing."""
    request = session_pb2.ListSessionsRequest()
    getattr(request, bound).seconds = seconds
    getattr(request, bound).nanos = nanos
    outcome = await house.wire.outcome("SessionService/ListSessions", request)

    if not isinstance(outcome, session_pb2.ListSessionsResponse):
        assert (outcome.status, outcome.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_resume_token_with_a_wrong_end(house: House) -> None:
    """The right history with a position that was never given out is refused, not misread."""
    tokens, cursor = house.server.engine.tokens, b"\0" * 8
    mac = tokens.seal("everything").token(cursor)[:-8]
    for rest in (b"", b"\xff", b"\xff" * 40, b"\x00" * 48, b"\x7f" * 8, b"noise"):
        for rpc, request in (
            (
                "SessionService/WatchEvents",
                session_pb2.WatchEventsRequest(resume_token=mac + rest),
            ),
            (
                "SessionService/WatchSession",
                session_pb2.WatchSessionRequest(session_id=GUEST, resume_token=mac + rest),
            ),
            (
                "PaymentService/WatchPayment",
                payment_pb2.WatchPaymentRequest(session_id=GUEST, resume_token=mac + rest),
            ),
        ):
            outcome = await house.wire.outcome(rpc, request, timeout=0.2)
            status = getattr(outcome, "status", "OK")
            assert status in {"OK", "OUT_OF_RANGE", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"}, (
                rpc,
                rest,
                outcome,
            )


async def test_a_page_token_belongs_to_its_listing(house: House) -> None:
    """A token of another listing, or of the same with another filter, is refused."""
    await new_guest(house.wire)
    page = await house.wire(
        "SessionService/ListSessions", session_pb2.ListSessionsRequest(page_size=1)
    )
    for rpc, request in (
        (
            "SessionService/ListSessions",
            session_pb2.ListSessionsRequest(page_token=page.next_page_token, customer_id="c"),
        ),
        (
            "PaymentService/ListPayments",
            payment_pb2.ListPaymentsRequest(page_token=page.next_page_token),
        ),
    ):
        failure = await house.wire.fails(rpc, request)
        assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
        assert failure.fields == ("page_token",)


async def test_a_card_number_in_a_message_is_masked(house: House) -> None:
    """What a guest says is kept, but for all digits of a card except the last four."""
    guest = await new_guest(house.wire)
    reply = await house.wire("ConversationService/RecordTurn", turn(guest, f"here: {CARD}, thanks"))
    listed = await house.wire(
        "ConversationService/ListMessages", conversation_pb2.ListMessagesRequest(session_id=guest)
    )
    stored = await house.store.events(house.store.submitted[-1].appends[0].ref, 0, 100)

    assert reply.event.turn_recorded.messages[0].text == "here: **** **** **** 1111, thanks"
    assert reply.event.turn_recorded.messages[0].card_masked
    assert listed.messages[0].text == "here: **** **** **** 1111, thanks"
    assert not any(b"4111 1111" in (row.personal or b"") + row.facts for row in stored)


async def test_control_and_bidi_characters_of_a_message_go(house: House) -> None:
    """Messages keep their text without what would make it read otherwise than it is stored."""
    guest = await new_guest(house.wire)
    said = "a\x00b\x1b[31m\u202ec\u2066d\tand\n\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    reply = await house.wire("ConversationService/RecordTurn", turn(guest, said))

    assert reply.event.turn_recorded.messages[0].text == (
        "ab[31mcd\tand\n\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


@pytest.mark.parametrize(
    "name",
    [
        "guest-8a4111111111111111cd0123456789ab",
        "41111111-1111-1111-8111-111111111111",
        "order-5e5105105105105100ffab12cd34ef56",
    ],
)
async def test_digests_are_no_card_numbers(house: House, name: str) -> None:
    """Ids that programs make of random hex are taken, whatever their digits add up to."""
    request = session_pb2.CreateSessionRequest(
        session_id=name, labels={"trace": name}, attributes=_struct(trace=name)
    )
    reply = await house.wire("SessionService/CreateSession", request)

    assert reply.session.attributes["trace"] == name


async def test_no_menu_for_the_session(house: House) -> None:
    """A session of a menu that nobody has put is served, but for its items."""
    guest = await new_guest(house.wire, menu_id="no-such-menu")
    failure = await house.wire.fails("OrderService/AddItem", add(guest))

    assert (failure.status, failure.reason) == ("NOT_FOUND", "MENU_NOT_FOUND")


async def test_an_unknown_rpc(house: House) -> None:
    """What is not in the contract is UNIMPLEMENTED."""
    call: Any = house.wire.channel.unary_unary("/maitred.v1.OrderService/DrinkEverything")
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        await call(b"")


def test_every_refusal_is_of_the_table() -> None:
    """The contract names a status for every reason that is expected here."""
    assert not {bad.reason for bad in BAD.values()} - set(STATUS_OF)


async def test_the_tokens_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No token and a wrong one are UNAUTHENTICATED, one that may not is told what it lacks."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    agent = add_token(path, "agent", Role.ROLE_AGENT)
    staff = add_token(path, "staff", Role.ROLE_STAFF)
    viewer = add_token(path, "viewer", Role.ROLE_VIEWER, GUEST)
    request = session_pb2.CreateSessionRequest(session_id=GUEST)
    void = order_pb2.VoidLineRequest(session_id=GUEST, order_number=1, line_number=1, reason="x")
    async with wired(tokens=str(path)) as (_server, wire):
        await wire("SessionService/CreateSession", request, token=agent)
        for token in ("", "nonsense", agent[:-1], agent + "x", "x" * 5000):
            failure = await wire.fails("OrderService/AddItem", add(GUEST), token=token)
            assert (failure.status, failure.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        malformed = await wire.fails("OrderService/AddItem", b"\xff\xff", token=NOISE)
        too_low = await wire.fails("OrderService/VoidLine", void, token=agent)
        open_price = await wire.fails(
            "OrderService/AddItem", add(GUEST, "special", open_price=usd(1)), token=agent
        )
        elsewhere = await wire.fails(
            "SessionService/GetSession",
            session_pb2.GetSessionRequest(session_id=NOBODY),
            token=viewer,
        )
        found = await session(Wire(wire.channel, staff), GUEST)

    assert malformed.reason == "UNAUTHENTICATED"
    assert (too_low.status, too_low.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert too_low.metadata["required_role"] == "STAFF"
    assert open_price.metadata["required_role"] == "STAFF"
    assert (elsewhere.status, elsewhere.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert found.version == 1
