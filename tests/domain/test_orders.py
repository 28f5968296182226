"""Orders: lines, prices, places, voids, and what settled payments cover."""

from __future__ import annotations

from typing import Any

import pytest

from maitred.server.domain import orders, sessions
from maitred.server.domain.money import money
from maitred.server.errors import (
    CardNumberRefused,
    CurrencyMismatch,
    InsufficientFunds,
    InvalidField,
    InvalidQuantity,
    ItemNotFound,
    ItemSoldOut,
    LineNotFound,
    MaitredError,
    MenuNotFound,
    ModifierNotFound,
    OrderEmpty,
    OrderFull,
    OrderLinePaid,
    OrderLineWrittenOff,
    OrderNotFound,
    PermissionDenied,
)
from maitred.v1.order_pb2 import AddItemRequest
from maitred.v1.state_pb2 import ORDER_STATUS_OPEN, ORDER_STATUS_PLACED, ORDER_STATUS_VOIDED


def usd(minor_units: int) -> Any:
    """An amount in US dollars."""
    return money(minor_units, "USD")


def refused(log: Any, error: type[MaitredError], **request: Any) -> MaitredError:
    """Try to add an item, expect a refusal and no change."""
    before = log.session.SerializeToString(deterministic=True)
    with pytest.raises(error) as caught:
        log.add(**request)
    assert before == log.session.SerializeToString(deterministic=True)
    return caught.value


def test_a_line_keeps_what_it_was_ordered_at(log: Any) -> None:
    """Id, name, menu version, modifiers in order, unit price and total."""
    event = log.add("MARTINI", 2, modifiers=["double", "Dry"], note="no\x00 ice")

    line = event.line_added.line
    assert (line.line_number, line.item_id, line.name) == (1, "martini", "Martini")
    assert (line.quantity, line.unit_price, line.total) == (2, usd(1550), usd(3100))
    assert [m.modifier_id for m in line.modifiers] == ["double", "dry"]
    assert (line.menu_version, line.note) == (1, "no ice")
    assert log.session.order.total == usd(3100)
    assert log.session.order.status == ORDER_STATUS_OPEN
    assert (log.balance, log.tab) == (96_900, 3100)


@pytest.mark.parametrize("name", ["martini", "Martini", "mArTiNi", " martini "])
def test_items_are_found_by_id_or_name_in_any_case(log: Any, name: str) -> None:
    """A name fits in any case."""
    assert log.add(name).line_added.line.item_id == "martini"


@pytest.mark.parametrize("quantity", [0, -1, -100, 101])
def test_quantities_out_of_bounds_are_refused(log: Any, quantity: int) -> None:
    """A negative quantity never raises the balance."""
    refused(log, InvalidQuantity, item="Martini", quantity=quantity)


def test_no_quantity_means_one(log: Any) -> None:
    """Zero is told from absent."""
    assert log.add("Martini").line_added.line.quantity == 1


def test_a_model_cannot_set_a_price(log: Any) -> None:
    """An open price is for staff."""
    request = AddItemRequest(item="Martini", open_price=usd(1))

    with pytest.raises(PermissionDenied) as error:
        orders.add_item(log.session, request, log.catalog, staff=False, max_lines=9)

    assert error.value.metadata == {"required_role": "STAFF"}


def test_staff_adds_an_open_price_line(log: Any) -> None:
    """An open-price line has a name and no item."""
    line = log.add("Corkage", open_price=usd(1500)).line_added.line

    assert (line.item_id, line.name, line.unit_price) == ("", "Corkage", usd(1500))


@pytest.mark.parametrize(
    ("error", "request_"),
    [
        (InvalidField, {"item": "x", "open_price": usd(-1)}),
        (InvalidField, {"item": "x", "open_price": usd(1), "modifiers": ["dry"]}),
        (InvalidField, {"item": " ", "open_price": usd(1)}),
        (CurrencyMismatch, {"item": "x", "open_price": money(1, "EUR")}),
        (ItemNotFound, {"item": "Absinthe"}),
        (ModifierNotFound, {"item": "Martini", "modifiers": ["burnt"]}),
        (InvalidField, {"item": "Mar\u202etini"}),
        (CardNumberRefused, {"item": "Martini", "note": "4242 4242 4242 4242"}),
    ],
)
def test_bad_items_are_refused(log: Any, error: type[MaitredError], request_: Any) -> None:
    """A refusal changes nothing."""
    refused(log, error, **request_)


def test_sold_out_items_are_refused_by_name(log: Any) -> None:
    """The error names the item."""
    log.menu.items[1].sold_out = True

    assert refused(log, ItemSoldOut, item="martini").metadata == {"item": "Martini"}


def test_a_session_orders_from_a_menu_in_its_currency(log: Any) -> None:
    """A price is never taken for another currency, and none is invented."""
    log.menu.currency = "EUR"
    refused(log, CurrencyMismatch, item="Martini")
    log.menu = None
    refused(log, MenuNotFound, item="Martini")


def test_the_lines_of_an_order_are_bounded(log: Any) -> None:
    """An order is full at its bound."""
    log.add("Water")

    with pytest.raises(OrderFull):
        orders.add_item(
            log.session, AddItemRequest(item="Water"), log.catalog, staff=False, max_lines=1
        )


def test_exactly_enough_is_enough(new_log: Any) -> None:
    """A budget of 0.30 buys three items of 0.10, and not a fourth."""
    log = new_log(opening_balance=usd(30))
    for _ in range(3):
        log.add("Dime Candy")

    assert (log.balance, log.tab) == (0, 30)
    error = refused(log, InsufficientFunds, item="Penny Candy")
    assert (error.metadata["balance"], error.metadata["price"]) == ("0", "1")


def test_a_thousand_pennies_make_ten_dollars(log: Any) -> None:
    """Money is exact."""
    for _ in range(1000):
        log.add("Penny Candy")

    assert (log.balance, log.tab) == (99_000, 1000)


def test_removing_gives_back(log: Any) -> None:
    """Whole lines and parts of them; line numbers are never used twice."""
    log.add("Martini", 3)
    log.add("Water")
    part = log.remove(1, 2).line_removed
    assert (part.quantity, part.line.quantity, part.line.total) == (2, 1, usd(1300))
    assert (log.tab, log.balance, log.session.order.total) == (1400, 98_600, usd(1400))
    assert not log.remove(1).line_removed.HasField("line")
    log.remove(2)
    assert (log.tab, log.balance, log.session.order.total) == (0, 100_000, usd(0))
    added = log.add("Water").line_added

    assert (added.line.line_number, added.order_number) == (3, 1)


@pytest.mark.parametrize(
    ("error", "line", "quantity"),
    [
        (LineNotFound, 2, None),
        (InvalidQuantity, 1, 4),
        (InvalidQuantity, 1, 0),
        (InvalidQuantity, 1, -1),
    ],
)
def test_what_is_not_there_cannot_be_removed(
    log: Any, error: type[MaitredError], line: int, quantity: int | None
) -> None:
    """Neither another line nor more than there is."""
    log.add("Martini", 3)

    with pytest.raises(error):
        log.remove(line, quantity)


def test_an_empty_order_cannot_be_placed(log: Any) -> None:
    """Neither before the first line nor after the last one was removed."""
    with pytest.raises(OrderEmpty):
        log.place()
    log.add("Water")
    log.remove(1)
    with pytest.raises(OrderEmpty):
        log.place()


def test_every_order_has_a_number_and_keeps_its_lines(log: Any) -> None:
    """Adding after placing starts a new order."""
    log.add("Water")
    log.add("Martini")
    first = log.place().order_placed.order
    assert not log.session.HasField("order")
    log.add("Tap Beer")
    second = log.place().order_placed.order

    assert (first.number, first.status, first.total) == (1, ORDER_STATUS_PLACED, usd(1400))
    assert [line.line_number for line in first.lines] == [1, 2]
    assert first.placed_at.ToNanoseconds() == log.now_ns
    assert (second.number, [line.line_number for line in second.lines]) == (2, [3])
    assert log.tab == 1900


def test_clearing_gives_back(log: Any) -> None:
    """Clearing an order refunds it; again, it is no event."""
    log.add("Martini", 2)
    log.add("Water")
    event = log.clear().order_cleared

    assert (log.tab, log.balance, log.session.HasField("order")) == (0, 100_000, False)
    assert (event.order_number, event.order_total) == (1, usd(0))
    assert orders.clear(log.session) is None


def test_a_placed_line_is_voided(log: Any) -> None:
    """In parts and whole; the order is voided when nothing of it is left."""
    log.add("Martini", 3)
    log.add("Water")
    log.place()
    part = log.void(1, 1, 2).line_voided
    assert (part.order.lines[0].voided_quantity, part.order.total) == (2, usd(1400))
    assert part.order.status == ORDER_STATUS_PLACED
    assert (log.tab, log.balance) == (1400, 98_600)
    log.void(1, 1)
    last = log.void(1, 2).line_voided

    assert (last.order.status, last.order.total) == (ORDER_STATUS_VOIDED, usd(0))
    assert (last.reason, log.tab, log.balance) == ("spilt", 0, 100_000)


@pytest.mark.parametrize(
    ("error", "order", "line", "quantity"),
    [
        (OrderNotFound, 2, 1, None),
        (LineNotFound, 1, 9, None),
        (InvalidQuantity, 1, 1, 2),
        (InvalidQuantity, 1, 1, 0),
    ],
)
def test_what_was_not_placed_cannot_be_voided(
    log: Any, error: type[MaitredError], order: int, line: int, quantity: int | None
) -> None:
    """Neither another order, nor another line, nor more than is left."""
    log.add("Water")
    log.place()
    log.add("Water")

    with pytest.raises(error):
        log.void(order, line, quantity)


def test_voiding_what_is_voided_changes_nothing(log: Any) -> None:
    """A line is given back once."""
    log.add("Water", 2)
    log.place()
    log.void(1, 1)

    with pytest.raises(AssertionError):
        log.void(1, 1)
    with pytest.raises(InvalidQuantity):
        log.void(1, 1, 1)
    assert log.balance == 100_000


def test_a_paid_line_is_refunded_not_removed(log: Any) -> None:
    """Removing, clearing and voiding leave what a settled payment covers."""
    log.add("Martini")
    log.pay()
    log.add("Water")

    with pytest.raises(OrderLinePaid):
        log.remove(1)
    cleared = log.clear().order_cleared
    assert [line.line_number for line in cleared.kept] == [1]
    assert (log.session.order.total, log.tab) == (usd(1300), 0)
    assert orders.clear(log.session) is None
    log.place()
    with pytest.raises(OrderLinePaid):
        log.void(1, 1)


def test_an_order_is_paid_when_nothing_of_it_is_left_to_pay(log: Any) -> None:
    """Voided lines do not count; an order of nothing but them is not paid."""
    log.add("Martini")
    log.pay()
    log.add("Water")
    log.place()
    assert not orders.is_paid(log.session, log.orders[1])
    log.void(1, 2)
    log.add("Water")
    log.place()
    log.void(2, 3)

    assert orders.is_paid(log.session, log.orders[1])
    assert not orders.is_paid(log.session, log.orders[2])


def test_what_is_added_after_the_link_stays_on_the_tab(log: Any) -> None:
    """Settling takes only what the payment was for, and the guest pays again."""
    log.add("Martini")
    log.open_payment()
    added = log.add("Water").line_added
    assert added.superseded.superseded
    assert log.session.latest_payment.superseded
    log.settle()
    assert (log.tab, log.session.payment.credit.minor_units) == (100, 0)
    log.pay()

    assert (log.tab, log.session.latest_payment.number) == (0, 2)
    assert log.session.ledger.received == 1400


def test_a_change_supersedes_once(log: Any) -> None:
    """A payment that is superseded already is not carried again."""
    log.add("Martini")
    log.open_payment()
    log.add("Water")

    assert not log.add("Water").line_added.HasField("superseded")


def test_what_a_payment_covered_beyond_its_lines_becomes_credit(log: Any) -> None:
    """A line removed while the guest paid is money of the guest's, and the tab never negative."""
    log.add("Martini")
    log.open_payment()
    log.add("Tap Beer")
    log.remove(1)
    log.settle()
    assert (log.tab, log.session.payment.credit) == (0, usd(800))
    log.remove(2)

    assert (log.tab, log.session.payment.credit, log.balance) == (0, usd(1300), 100_000)


def test_a_written_off_line_cannot_be_voided(log: Any) -> None:
    """After a reset nothing of before is on the tab."""
    log.add("Martini")
    log.place()
    log.apply(sessions.reset(log.session, "walked out", staff=True))
    log.add("Daiquiri", 2)

    with pytest.raises(OrderLineWrittenOff):
        log.void(1, 1)
    assert log.tab == 2000


def test_paid_is_what_money_paid(log: Any) -> None:
    """A tab that was written off is not paid, however it ended; what was paid before is."""
    log.add("Martini")
    log.place()
    log.pay()
    log.add("Daiquiri")
    log.place()
    log.apply(sessions.reset(log.session, "walked out", staff=True))
    log.add("Tap Beer")
    log.place()
    log.pay()
    log.add("Water")
    log.place()
    log.apply(sessions.close(log.session, "walked out", staff=True))
    told = {
        number: (orders.is_paid(log.session, order), orders.is_written_off(log.session, order))
        for number, order in log.orders.items()
    }

    assert told == {1: (True, False), 2: (False, True), 3: (True, False), 4: (False, True)}
    assert log.fold() == log.session


def test_a_line_that_was_written_off_is_not_called_paid(log: Any) -> None:
    """Staff must not be told to refund money that nobody gave."""
    log.add("Martini")
    log.place()
    log.apply(sessions.reset(log.session, "walked out", staff=True))

    with pytest.raises(OrderLineWrittenOff, match="written off"):
        log.void(1, 1)
