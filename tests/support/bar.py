"""A small bar: its menu, and requests as its guests make them."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.wire import Wire

from maitred.v1 import (
    conversation_pb2,
    menu_pb2,
    order_pb2,
    session_pb2,
    state_pb2,
)
from maitred.v1.common_pb2 import Money

ITEMS = {"negroni": ("Negroni", 1250), "beer": ("Small Beer", 400), "olives": ("Olives", 333)}
"""By id: name and price."""
MODIFIERS = {"double": ("Double", 500), "rocks": ("On the Rocks", 0)}
"""Of the whole menu."""
SOLD_OUT = "oysters"


def usd(minor_units: int) -> Money:
    """Build an amount."""
    return Money(minor_units=minor_units, currency="USD")


def menu(menu_id: str = "default") -> state_pb2.Menu:
    """Build the menu."""
    built = state_pb2.Menu(menu_id=menu_id, title="The Bar", currency="USD")
    for item_id, (name, price) in ITEMS.items():
        built.items.add(item_id=item_id, name=name, price=usd(price))
    built.items.add(item_id=SOLD_OUT, name="Oysters", price=usd(2400), sold_out=True)
    for modifier_id, (name, price) in MODIFIERS.items():
        built.modifiers.add(modifier_id=modifier_id, name=name, price=usd(price))
    return built


async def open_bar(wire: Wire) -> None:
    """Put the menu that sessions have by default."""
    await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu()))


async def new_guest(wire: Wire, balance: int | None = None, **fields: Any) -> str:
    """Create a session of its own name and answer its id."""
    session_id = f"guest-{uuid.uuid4().hex}"
    request = session_pb2.CreateSessionRequest(session_id=session_id, **fields)
    if balance is not None:
        request.opening_balance.CopyFrom(usd(balance))
    await wire("SessionService/CreateSession", request)
    return session_id


async def session(wire: Wire, session_id: str, **fields: Any) -> state_pb2.Session:
    """Read a session."""
    reply = await wire(
        "SessionService/GetSession", session_pb2.GetSessionRequest(session_id=session_id, **fields)
    )
    found: state_pb2.Session = reply.session
    return found


def add(session_id: str, item: str = "beer", **fields: Any) -> order_pb2.AddItemRequest:
    """Ask for an item."""
    return order_pb2.AddItemRequest(session_id=session_id, item=item, **fields)


def turn(session_id: str, text: str = "hello", **fields: Any) -> conversation_pb2.RecordTurnRequest:
    """Record a turn of one message."""
    request = conversation_pb2.RecordTurnRequest(session_id=session_id, **fields)
    request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=text)
    return request
