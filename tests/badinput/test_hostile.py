"""No request, accepted or refused, holds the server up: made from the descriptors, and by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from tests.support.bar import open_bar
from tests.support.wire import METHODS, Wire, wired

from maitred.server.app.pipeline.methods import DEFAULT_MAX_REQUEST_BYTES
from maitred.server.engine.wire import varint
from maitred.v1 import _rules_descriptors as validate_pb2
from maitred.v1 import (
    common_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    session_pb2,
    state_pb2,
)

GUEST = "hostile-guest"
NASTY = {
    "digits": "5 6 ",
    "cards": "4242 4242 4242 4242 ",
    "pairs": "50 ",
    "wide": "\uff14\uff12",
    "marks": "e\u0301\u0316\u0301",
    "ideographs": "東",
    "ligatures": "\ufdfa",
    "other digits": "\u0664\u0662\u0664\u0662 ",
    "digits of two kinds": "5\u0666 ",
    "marked digits": "4\u0301",
    "unseen between digits": "4\ufe0f",
    "unwanted": "\x01",
    "letters": "a",
}
"""Texts that are dear to look at, each repeated up to what fits."""

AGENT_S = 0.05
STAFF_S = 0.25
"""What a request may hold the loop up for, by the least role that may make it."""
BY_ROLE_S = {common_pb2.ROLE_VIEWER: AGENT_S, common_pb2.ROLE_AGENT: AGENT_S}


class Held(NamedTuple):
    """The longest time for which one step held the loop."""

    seconds: list[float]


@pytest.fixture(scope="module")
async def wire() -> AsyncIterator[Wire]:
    """Run a server with a guest."""
    async with wired(heartbeat_s=3600.0) as (_server, wire):
        await open_bar(wire)
        await wire("SessionService/CreateSession", _create())
        yield wire


def _create() -> session_pb2.CreateSessionRequest:
    return session_pb2.CreateSessionRequest(session_id=GUEST)


@contextmanager
def _watched() -> Iterator[Held]:
    """Measure every step of the loop in the processor time of its thread."""
    held = Held([0.0])
    run = asyncio.Handle._run

    def measured(handle: Any) -> Any:
        started = time.thread_time()
        try:
            return run(handle)
        finally:
            held.seconds[0] = max(held.seconds[0], time.thread_time() - started)

    asyncio.Handle._run = measured  # type: ignore[assignment, method-assign]
    try:
        yield held
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


async def _hold(wire: Wire, rpc: str, request: Message | bytes, limit_s: float) -> float:
    """The least of several times that a request holds the loop, as machines are busy."""
    least = 1e9
    for _ in range(5):
        with _watched() as held:
            await wire.outcome(rpc, request)
        least = min(least, held.seconds[0])
        if least < limit_s / 2:
            break
    return least


def _limit_s(rpc: str) -> float:
    role = METHODS[rpc].GetOptions().Extensions[common_pb2.method].minimum_role
    return BY_ROLE_S.get(role, STAFF_S)


# --- from the descriptors -------------------------------------------------------------------------


def _prefix(number: int, content: bytes) -> bytes:
    return bytes(varint(number << 3 | 2)) + bytes(varint(len(content))) + content


def _fill(unit: str, size: int) -> bytes:
    data = unit.encode()
    return data * (size // len(data))


def _structs(size: int) -> Iterator[tuple[str, bytes]]:
    """Free data of about a size, each dear in its own way."""
    leaf = _prefix(1, b"k") + _prefix(2, _prefix(3, b"5 6 5 6 5 6 5 6"))
    yield (
        "many keys",
        b"".join(
            _prefix(1, _prefix(1, f"{at:x}".encode()) + _prefix(2, _prefix(3, b"5 6 ")))
            for at in range(size // 20)
        ),
    )
    yield "long text", _prefix(1, _prefix(1, b"k") + _prefix(2, _prefix(3, _fill("5 6 ", size))))
    yield (
        "numbers",
        _prefix(
            1,
            _prefix(1, b"k")
            + _prefix(2, _prefix(6, _prefix(1, b"\x11" + b"\0" * 6 + b"\x14\x40") * (size // 12))),
        ),
    )
    deep = _prefix(1, leaf)
    for _ in range(28):
        deep = _prefix(1, _prefix(1, b"k") + _prefix(2, _prefix(5, deep)))
    yield "deep", deep * max(1, size // len(deep))


def _texts(field: Any, rules: Any, size: int) -> Iterator[tuple[str, bytes]]:
    """Texts that are dear to look at: as long as they may be, and as long as fits."""
    units = NASTY.items() if field.type == field.TYPE_STRING else [("bytes", "a")]
    if field.is_repeated:
        most, length = rules.repeated.max_items, rules.repeated.items.string.max_len
        yield "empty ones", _prefix(field.number, b"") * (size // 2)
        for name, unit in units:
            one = (unit * length)[:length].encode()
            yield f"as many {name}", _prefix(field.number, one) * min(most, size // (len(one) + 4))
    else:
        length = rules.string.max_len or rules.bytes.max_len
        for name, unit in units:
            yield f"long {name}", _prefix(field.number, _fill(unit, size))
            yield f"as long {name}", _prefix(field.number, (unit * length)[:length].encode()[:size])


def _pairs(number: int, most: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Entries of a map: as many as it may have, and as many as fit."""
    for count in {most, size // 12}:
        room = min(size // max(count, 1) - 10, 100)
        yield (
            f"{count} pairs",
            b"".join(
                _prefix(number, _prefix(1, f"{at}".encode()) + _prefix(2, _fill("5 6 ", room)))
                for at in range(count)
            ),
        )


def _values(field: Any, size: int, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Everything nasty that one field can be sent with, in about so many bytes."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    inner = field.message_type
    number = field.number
    if inner is not None and inner.GetOptions().map_entry:
        yield from _pairs(number, rules.map.max_pairs, size)
    elif inner is not None and inner.name == "Struct":
        for bound in (16_000, size):
            for kind, data in _structs(bound):
                yield f"{kind} in {bound}", _prefix(number, data)
    elif inner is not None and inner.name == "FieldMask":
        yield "paths", _prefix(number, _prefix(1, b"a") * min(size // 3, 2700))
        yield "path", _prefix(number, _prefix(1, _fill("a.", min(size, 8000))))
    elif inner is not None:
        if field.is_repeated:
            most = rules.repeated.max_items
            yield "nothing", _prefix(number, b"") * (size // 2)
            yield "as many", _prefix(number, b"") * most
        if depth < 3:
            for each in inner.fields:
                for kind, data in _values(each, size - 16, depth + 1):
                    yield f"{each.name}: {kind}", _prefix(number, data)
    elif field.type in {field.TYPE_STRING, field.TYPE_BYTES}:
        yield from _texts(field, rules, size)
    elif field.is_repeated:
        yield "numbers", bytes(varint(number << 3)) * 1 + b"\x01"
        yield "packed", _prefix(number, b"\x01" * size)


UNTOUCHED = {"Backup", "CloseSession", "DeleteSession", "ResetSession", "SweepExpired"}
"""Rpcs that would end the guest, or work for minutes; their fields are like those of others."""


def _base(rpc: str) -> bytes:
    request: Any = GetMessageClass(METHODS[rpc].input_type)()
    for name, value in {"session_id": GUEST, "menu_id": "default", "reason": "x"}.items():
        if name in request.DESCRIPTOR.fields_by_name:
            setattr(request, name, value)
    if rpc == "MenuService/PutMenu":
        request.menu.menu_id, request.menu.currency = "hostile", "USD"
    data: bytes = request.SerializeToString()
    return data


@pytest.mark.parametrize("rpc", sorted(METHODS))
async def test_no_field_holds_the_loop(wire: Wire, rpc: str) -> None:
    """Each field of each request, filled with what is dear to look at, costs a bounded time."""
    method = METHODS[rpc]
    if method.name in UNTOUCHED:
        pytest.skip("would end the guest or back up")
    base = _base(rpc)
    rules = method.GetOptions().Extensions[common_pb2.method]
    size = (rules.max_request_bytes or DEFAULT_MAX_REQUEST_BYTES) - len(base) - 32
    limit_s = _limit_s(rpc)
    slow = {}
    for field in method.input_type.fields:
        for kind, data in _values(field, size):
            held_s = await _hold(wire, rpc, base + data, limit_s)
            if held_s > limit_s:
                slow[f"{field.name}: {kind}"] = round(held_s, 3)

    assert slow == {}


# --- what is accepted -----------------------------------------------------------------------------


def _turn(unit: str) -> conversation_pb2.RecordTurnRequest:
    """The longest turn of a text."""
    text = (unit * 16_384)[:16_384]
    rules = METHODS["ConversationService/RecordTurn"].GetOptions().Extensions[common_pb2.method]
    count = min(32, (rules.max_request_bytes - 1024) // len(text.encode()))
    return conversation_pb2.RecordTurnRequest(
        session_id=GUEST,
        messages=[conversation_pb2.NewMessage(role=1, text=text)] * count,  # type: ignore[arg-type]  # USER
    )


@pytest.mark.parametrize("kind", NASTY)
async def test_no_turn_holds_the_loop(wire: Wire, kind: str) -> None:
    """The longest turn that may be recorded, of whatever text, costs a bounded time."""
    assert (
        await _hold(wire, "ConversationService/RecordTurn", _turn(NASTY[kind]), AGENT_S) < AGENT_S
    )


def _menu(unit: str, **shape: int) -> state_pb2.Menu:
    """A menu that fills its bytes with a text, in items of a shape."""
    menu = state_pb2.Menu(menu_id="hostile", currency="USD")
    price = common_pb2.Money(minor_units=100, currency="USD")
    room = 1_000_000
    for at in range(shape.get("items", 2000)):
        item = menu.items.add(item_id=f"i{at}", name=f"{at} {unit * 20}"[:100], price=price)
        item.description = (unit * 1024)[: shape.get("description", 0)]
        item.section = (unit * 30)[: shape.get("section", 0)]
        item.tags.extend((f"{tag}{unit * 9}")[:10] for tag in range(shape.get("tags", 0)))
        for number in range(shape.get("modifiers", 0)):
            item.modifiers.add(modifier_id=f"{number}", name=f"{unit}{number}")
        room -= item.ByteSize() + 4
        if room < 0:
            del menu.items[-1]
            break
    return menu


MENUS: dict[str, Callable[[str], state_pb2.Menu]] = {
    "items": lambda unit: _menu(unit, section=30),
    "descriptions": lambda unit: _menu(unit, description=1024),
    "tags": lambda unit: _menu(unit, tags=32),
    "modifiers": lambda unit: _menu(unit, items=40, modifiers=200),
    "far too many modifiers": lambda unit: _menu(unit, modifiers=200),
}


@pytest.mark.parametrize("shape", MENUS)
@pytest.mark.parametrize("kind", ["digits", "marks", "ideographs", "letters"])
async def test_no_menu_holds_the_loop(wire: Wire, shape: str, kind: str) -> None:
    """The largest menus cost a bounded time: to put, to search and to order from."""
    unit = NASTY[kind]
    menu = MENUS[shape](unit)
    await wire("SessionService/CreateSession", _create())
    session_id = f"at-{shape}-{kind}".replace(" ", "-")
    await wire(
        "SessionService/CreateSession",
        session_pb2.CreateSessionRequest(session_id=session_id, menu_id="hostile"),
    )
    put = await _hold(wire, "MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu), STAFF_S)
    find = menu_pb2.FindItemsRequest(
        menu_id="hostile", query=(unit * 128)[:128], tags=[unit * 9] * 16, include_sold_out=True
    )
    found = await _hold(wire, "MenuService/FindItems", find, AGENT_S)
    every = menu_pb2.FindItemsRequest(menu_id="hostile")
    all_of_it = await _hold(wire, "MenuService/FindItems", every, AGENT_S)
    add = order_pb2.AddItemRequest(session_id=session_id, item="no such item " + unit * 20)
    added = await _hold(wire, "OrderService/AddItem", add, AGENT_S)

    assert put < STAFF_S
    assert max(found, all_of_it, added) < AGENT_S, (found, all_of_it, added)


async def test_no_free_data_holds_the_loop(wire: Wire) -> None:
    """As much free data as a session may have costs a bounded time, whatever it is."""
    for kind, data in _structs(15_000):
        attributes = Struct.FromString(data)
        request = session_pb2.UpdateSessionRequest(session_id=GUEST, attributes=attributes)
        assert await _hold(wire, "SessionService/UpdateSession", request, AGENT_S) < AGENT_S, kind
