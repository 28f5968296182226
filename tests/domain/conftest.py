"""One session's log, driven without a server: decide, complete the event, evolve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maitred.server.domain import menus, orders, sessions, tips
from maitred.server.domain.evolve import EVENT_SCHEMA, evolve_menu, evolve_session, fold_session
from maitred.server.domain.money import money
from maitred.server.domain.settlement import last_number
from maitred.server.domain.tab import Tab
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import Event, PaymentChanged
from maitred.v1.order_pb2 import AddItemRequest, RemoveItemRequest, VoidLineRequest
from maitred.v1.payment_pb2 import SetTipRequest
from maitred.v1.session_pb2 import CreateSessionRequest
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
    Menu,
    MenuItem,
    MenuModifier,
    MenuPreference,
    Order,
    Payment,
    Session,
)

SECOND = 1_000_000_000
START_NS = 1_767_225_600 * SECOND
DEFAULTS = sessions.Defaults("bar", 100_000, "USD", 3600)
PERCENTAGES = (10, 15, 20)


def bar() -> Menu:
    """A small menu of a bar, at version 1."""
    menu = Menu(
        menu_id="bar",
        title="Bar",
        currency="USD",
        items=[
            _item("daiquiri", "Daiquiri", 1000, "Cocktails", tags=["sour"]),
            _item("martini", "Martini", 1300, "Cocktails"),
            _item("tap-beer", "Tap Beer", 500, "Beer"),
            _item("water", "Water", 100, "Non-alcoholic"),
            _item("penny", "Penny Candy", 1, "Sweets"),
            _item("dime", "Dime Candy", 10, "Sweets"),
        ],
        modifiers=[
            MenuModifier(modifier_id="dry", name="Dry"),
            MenuModifier(modifier_id="double", name="Double", price=usd(250)),
        ],
        preferences=[
            MenuPreference(name="Classy", item_ids=["martini"]),
            MenuPreference(name="fruity", item_ids=["daiquiri", "martini"]),
        ],
        popular_item_ids=["martini", "daiquiri"],
    )
    event = menus.put(None, menu)
    assert event is not None
    event.version = 1
    return evolve_menu(None, event)


def _item(item_id: str, name: str, price: int, section: str, tags: Any = ()) -> MenuItem:
    return MenuItem(item_id=item_id, name=name, price=usd(price), section=section, tags=tags)


def usd(minor_units: int) -> Money:
    """An amount in US dollars."""
    return money(minor_units, "USD")


class Log:
    """A session and its events, with the part of the engine that completes an event."""

    def __init__(self, **request: Any) -> None:
        self.now_ns = START_NS
        self.events: list[Event] = []
        self.orders: dict[int, Order] = {}
        self.menu: Menu | None = bar()
        self.session: Session = Session()
        created = sessions.create(None, CreateSessionRequest(**request), "s-1_a", DEFAULTS)
        self.apply(created, first=True)

    @property
    def catalog(self) -> menus.Catalog | None:
        """The menu as the service hands it on."""
        return None if self.menu is None else menus.Catalog(self.menu)

    def apply(self, event: Event | None, *, first: bool = False, slides: bool = True) -> Event:
        """Complete an event, fold it in, and check that nothing but the fold changed the state."""
        assert event is not None
        before = None if first else self.session
        frozen = self.session.SerializeToString(deterministic=True)
        event.version = self.session.version + 1
        event.schema = EVENT_SCHEMA
        event.time.FromNanoseconds(self.now_ns)
        change = event.WhichOneof("change") or ""
        ends = change in {"session_expired", "session_closed", "session_deleted"}
        if slides and not ends and change != "attention_changed":
            idle = self.session.idle_seconds
            if first:
                idle = event.session_created.session.idle_seconds
            elif change == "session_extended":
                idle = event.session_extended.idle_seconds
            event.expires_at.FromNanoseconds(self.now_ns + idle * SECOND)
        after = evolve_session(before, event)
        assert frozen == self.session.SerializeToString(deterministic=True)
        for order in (event.order_placed.order, event.line_voided.order):
            if order.number:
                self.orders[order.number] = order
        self.events.append(event)
        self.session = after
        return event

    def fold(self) -> Session | None:
        """Fold the whole log anew."""
        return fold_session(Event.FromString(event.SerializeToString()) for event in self.events)

    def advance(self, seconds: int) -> None:
        """Let time pass."""
        self.now_ns += seconds * SECOND

    # --- commands, by their shortest names -----------------------------------------------------

    def add(self, item: str, quantity: int | None = None, **more: Any) -> Event:
        """Add an item, as staff where the price is open."""
        request = AddItemRequest(item=item, quantity=quantity, **more)
        staff = request.HasField("open_price")
        return self.apply(
            orders.add_item(self.session, request, self.catalog, staff=staff, max_lines=1000)
        )

    def remove(self, line_number: int, quantity: int | None = None) -> Event:
        """Take a line off the open order."""
        request = RemoveItemRequest(line_number=line_number, quantity=quantity)
        return self.apply(orders.remove_item(self.session, request))

    def place(self) -> Event:
        """Place the open order."""
        return self.apply(orders.place(self.session, self.now_ns))

    def clear(self) -> Event:
        """Clear the open order."""
        return self.apply(orders.clear(self.session))

    def void(self, order_number: int, line_number: int, quantity: int | None = None) -> Event:
        """Void a line of a placed order."""
        request = VoidLineRequest(
            order_number=order_number, line_number=line_number, quantity=quantity, reason="spilt"
        )
        return self.apply(orders.void_line(self.session, request, self.orders.get(order_number)))

    def tip(self, **tip: Any) -> Event:
        """Set the tip."""
        return self.apply(tips.set_tip(self.session, SetTipRequest(**tip), PERCENTAGES))

    def open_payment(self) -> Event:
        """Record a payment for what is owed now, as open."""
        tab = Tab(self.session)
        number = last_number(self.session) + 1
        payment = Payment(
            payment_id=f"p-{number}",
            number=number,
            status=PAYMENT_STATUS_OPEN,
            amount=usd(tab.total),
            tab_amount=usd(tab.tab),
            tip_amount=usd(tab.tip),
            credit_applied=usd(tab.tab + tab.tip - tab.total),
            through_line=self.session.last_line_number,
            reset_count=self.session.reset_count,
        )
        change = PaymentChanged(
            payment=payment,
            state=tab.state(payment),
            ledger=tab.ledger,
            paid_through_line=self.session.paid_through_line,
            attention=self.session.attention,
        )
        return self.apply(Event(payment_opened=change))

    def settle(self) -> Event:
        """Let the guest pay the open payment, whatever has become of the tab since."""
        payment = Payment()
        payment.CopyFrom(self.session.latest_payment)
        payment.status = PAYMENT_STATUS_SUCCEEDED
        tab = Tab(self.session)
        tab.settle(
            payment.tab_amount.minor_units,
            payment.amount.minor_units,
            payment.tip_amount.minor_units,
            payment.credit_applied.minor_units,
        )
        change = PaymentChanged(
            payment=payment,
            state=tab.state(payment),
            ledger=tab.ledger,
            paid_through_line=max(self.session.paid_through_line, payment.through_line),
            attention=self.session.attention,
        )
        return self.apply(Event(payment_succeeded=change))

    def pay(self) -> Event:
        """Pay what is owed now."""
        self.open_payment()
        return self.settle()

    # --- readings --------------------------------------------------------------------------------

    @property
    def balance(self) -> int:
        """Balance in cents."""
        return self.session.payment.balance.minor_units

    @property
    def tab(self) -> int:
        """Tab in cents."""
        return self.session.payment.tab_total.minor_units

    @property
    def tip_amount(self) -> int:
        """Tip in cents."""
        return self.session.payment.tip_amount.minor_units


@pytest.fixture(scope="session")
def new_log() -> Callable[..., Any]:
    """Make a new session; arguments are fields of CreateSessionRequest."""
    return Log


@pytest.fixture
def log() -> Any:
    """A new session with $1000.00 and a bar's menu."""
    return Log()


@pytest.fixture
def menu() -> Menu:
    """The menu of the bar."""
    return bar()
