"""Orders: lines are charged when they are added, and given back when they are taken off."""

from __future__ import annotations

from collections.abc import Iterable

from maitred.server.domain import caps, text
from maitred.server.domain.menus import Catalog
from maitred.server.domain.money import money, write_money
from maitred.server.domain.tab import Tab
from maitred.server.errors import (
    CurrencyMismatch,
    InvalidField,
    InvalidQuantity,
    ItemSoldOut,
    LineNotFound,
    MenuNotFound,
    OrderEmpty,
    OrderFull,
    OrderLinePaid,
    OrderLineWrittenOff,
    OrderNotFound,
    PermissionDenied,
    Violation,
)
from maitred.v1.event_pb2 import (
    Event,
    LineRemoved,
    LineVoided,
    OrderCleared,
    OrderPlaced,
)
from maitred.v1.order_pb2 import AddItemRequest, RemoveItemRequest, VoidLineRequest
from maitred.v1.state_pb2 import (
    ORDER_STATUS_PLACED,
    ORDER_STATUS_VOIDED,
    Order,
    OrderLine,
    Session,
)

MAX_QUANTITY = 100
"""Pieces that one line may hold."""


def add_item(
    session: Session,
    request: AddItemRequest,
    catalog: Catalog | None,
    *,
    staff: bool,
    max_lines: int,
    most: caps.Caps | None = None,
) -> Event:
    """Add a line and charge it. The price is the menu's, unless staff names an open one.

    Raises: InvalidQuantity, OrderFull, MenuNotFound, ItemNotFound, ItemAmbiguous, ItemSoldOut,
    ModifierNotFound, ModifierAmbiguous, CurrencyMismatch, PermissionDenied, InvalidField,
    CardNumberRefused, InsufficientFunds, AmountOutOfRange.
    """
    quantity = request.quantity if request.HasField("quantity") else 1
    if not 1 <= quantity <= MAX_QUANTITY:
        raise _bad_quantity(quantity, MAX_QUANTITY)
    if len(session.order.lines) >= max_lines:
        raise OrderFull(
            f"an order holds at most {max_lines} lines", metadata={"max_lines": str(max_lines)}
        )
    caps.require_line(most, session)
    tab = Tab(session)
    # Written in place: a message that is put into another one is copied.
    event = Event()
    change = event.line_added
    line = change.line
    if request.HasField("open_price"):
        unit_price = _write_open_line(line, request, tab, staff=staff)
    else:
        unit_price = _write_menu_line(line, request, catalog, tab.currency)
    price = unit_price * quantity
    line.line_number = session.last_line_number + 1
    line.quantity = quantity
    line.note = text.note(request.note, "note")
    write_money(line.unit_price, unit_price, tab.currency)
    write_money(line.total, price, tab.currency)
    tab.charge(price)
    opened = session.HasField("order")
    change.order_number = session.order.number if opened else session.last_order_number + 1
    write_money(change.order_total, session.order.total.minor_units + price, tab.currency)
    tab.conclude(change)
    return event


def remove_item(session: Session, request: RemoveItemRequest, max_tip: int | None = None) -> Event:
    """Take a line of the open order off, or a part of it, and give its price back.

    `max_tip` is the cap of fixed tips, in percent of the tab; here and below.

    Raises: LineNotFound, OrderLinePaid, OrderLineWrittenOff, InvalidQuantity.
    """
    line = _line_of(session.order, request.line_number)
    quantity = request.quantity if request.HasField("quantity") else line.quantity
    if not 1 <= quantity <= line.quantity:
        raise _bad_quantity(quantity, line.quantity)
    price = line.unit_price.minor_units * quantity
    tab = Tab(session)
    _require_unpaid(session, line)
    caps.reverse(tab, price, max_tip)
    change = LineRemoved(
        line_number=line.line_number,
        quantity=quantity,
        order_total=money(session.order.total.minor_units - price, tab.currency),
    )
    tab.conclude(change)
    if quantity < line.quantity:
        change.line.CopyFrom(line)
        change.line.quantity -= quantity
        change.line.total.minor_units -= price
    return Event(line_removed=change)


def place(session: Session, now_ns: int) -> Event:
    """Send the open order to the kitchen.

    Raises: OrderEmpty.
    """
    if not session.order.lines:
        raise OrderEmpty("an empty order cannot be placed")
    placed = Order()
    placed.CopyFrom(session.order)
    placed.status = ORDER_STATUS_PLACED
    placed.placed_at.FromNanoseconds(now_ns)
    return Event(order_placed=OrderPlaced(order=placed))


def clear(session: Session, max_tip: int | None = None) -> Event | None:
    """Take every unpaid line off the open order and give their prices back; None without any."""
    kept = [line for line in session.order.lines if _is_closed(session, line)]
    if len(kept) == len(session.order.lines):
        return None
    tab = Tab(session)
    price = _total(session.order.lines) - _total(kept)
    caps.reverse(tab, price, max_tip)
    change = OrderCleared(
        order_number=session.order.number,
        kept=kept,
        order_total=money(_total(kept), tab.currency),
    )
    tab.conclude(change)
    return Event(order_cleared=change)


def void_line(
    session: Session, request: VoidLineRequest, order: Order | None, max_tip: int | None = None
) -> Event | None:
    """Take a line off a placed order, or a part of it; None where all of it is voided already.

    Raises: OrderNotFound, ReasonRequired, LineNotFound, OrderLinePaid, OrderLineWrittenOff,
    InvalidQuantity,
    CardNumberRefused.
    """
    if order is None:
        raise OrderNotFound(
            f"no order {request.order_number} was placed",
            metadata={"order_number": str(request.order_number)},
        )
    reason = text.why(request.reason, "the line is voided")
    line = _line_of(order, request.line_number)
    left = line.quantity - line.voided_quantity
    quantity = request.quantity if request.HasField("quantity") else left
    if not left and not request.HasField("quantity"):
        return None
    if not 1 <= quantity <= left:
        raise _bad_quantity(quantity, left)
    price = line.unit_price.minor_units * quantity
    tab = Tab(session)
    _require_unpaid(session, line)
    caps.reverse(tab, price, max_tip)
    change = LineVoided(
        order=_voided(order, line.line_number, quantity),
        line_number=line.line_number,
        quantity=quantity,
        reason=reason,
    )
    tab.conclude(change)
    return Event(line_voided=change)


def is_paid(session: Session, order: Order) -> bool:
    """Whether money paid for all that was served of an order."""
    lines = _served(order)
    return bool(lines) and all(
        _is_closed(session, line) and not _is_written_off(session, line) for line in lines
    )


def is_written_off(session: Session, order: Order) -> bool:
    """Whether staff gave up what was not paid of an order."""
    return any(_is_written_off(session, line) for line in _served(order))


def _write_open_line(line: OrderLine, request: AddItemRequest, tab: Tab, *, staff: bool) -> int:
    """Fill in what staff asks for; answers the price of one piece."""
    if not staff:
        raise PermissionDenied(
            "an open price needs role STAFF", metadata={"required_role": "STAFF"}
        )
    price = tab.require(request.open_price, "open_price")
    if price < 0:
        raise _invalid("open_price.minor_units", "open_price.range", "must not be negative")
    if request.modifiers:
        raise _invalid("modifiers", "open_price.modifiers", "belong into the open price")
    line.name = text.name(request.item, "item")
    return price


def _write_menu_line(
    line: OrderLine, request: AddItemRequest, catalog: Catalog | None, currency: str
) -> int:
    """Fill in what the menu says; answers the price of one piece, modifiers included."""
    # Whether a card or not: it is looked up and not kept, and an id may be any number.
    wanted = text.line(request.item, "item")
    if catalog is None:
        raise MenuNotFound("the session has no menu")
    menu = catalog.menu
    if menu.currency != currency:
        raise CurrencyMismatch(
            f"the menu is in {menu.currency}, the session in {currency}",
            metadata={"expected": currency, "got": menu.currency},
        )
    item = catalog.find_item(wanted)
    if item.sold_out:
        raise ItemSoldOut(f"{item.name!r} is sold out", metadata={"item": item.name})
    modifiers = [
        catalog.find_modifier(item, text.line(name, f"modifiers[{at}]"))
        for at, name in enumerate(request.modifiers)
    ]
    line.item_id = item.item_id
    line.name = item.name
    line.menu_version = menu.version
    for each in modifiers:
        added = line.modifiers.add(modifier_id=each.modifier_id, name=each.name)
        write_money(added.price, each.price.minor_units, currency)
    return item.price.minor_units + sum(each.price.minor_units for each in modifiers)


def _voided(order: Order, line_number: int, quantity: int) -> Order:
    after = Order()
    after.CopyFrom(order)
    for line in after.lines:
        if line.line_number == line_number:
            line.voided_quantity += quantity
    after.total.minor_units = _total(after.lines)
    if all(line.quantity == line.voided_quantity for line in after.lines):
        after.status = ORDER_STATUS_VOIDED
    return after


def _total(lines: Iterable[OrderLine]) -> int:
    return sum(
        line.unit_price.minor_units * (line.quantity - line.voided_quantity) for line in lines
    )


def _line_of(order: Order, line_number: int) -> OrderLine:
    for line in order.lines:
        if line.line_number == line_number:
            return line
    raise LineNotFound(
        f"the order has no line {line_number}", metadata={"line_number": str(line_number)}
    )


def _served(order: Order) -> list[OrderLine]:
    return [line for line in order.lines if line.quantity > line.voided_quantity]


def _is_closed(session: Session, line: OrderLine) -> bool:
    """Whether nothing of a line is owed any more: it was paid, or written off."""
    return line.line_number <= session.paid_through_line or _is_written_off(session, line)


def _is_written_off(session: Session, line: OrderLine) -> bool:
    return any(lines.first <= line.line_number <= lines.last for lines in session.written_off_lines)


def _require_unpaid(session: Session, line: OrderLine) -> None:
    if _is_written_off(session, line):
        raise OrderLineWrittenOff(
            f"line {line.line_number} was written off with its tab: nothing of it is owed",
            metadata={"line_number": str(line.line_number)},
        )
    if _is_closed(session, line):
        raise OrderLinePaid(
            f"line {line.line_number} is paid: refund it instead",
            metadata={"line_number": str(line.line_number)},
        )


def _bad_quantity(quantity: int, most: int) -> InvalidQuantity:
    return InvalidQuantity(
        f"the quantity is {quantity}; it must be 1 to {most}",
        metadata={"quantity": str(quantity), "maximum": str(most)},
        violations=[Violation("quantity", "quantity.range", f"must be 1 to {most}")],
    )


def _invalid(field: str, rule: str, description: str) -> InvalidField:
    return InvalidField(f"{field}: {description}", violations=[Violation(field, rule, description)])
