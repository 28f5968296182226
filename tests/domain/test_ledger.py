"""Whatever is done, in whatever order: money is conserved and nothing illegal is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from maitred.server.domain import balances, orders, sessions, tips
from maitred.server.domain.money import money, percentage_of
from maitred.server.domain.tab import has_open_payment
from maitred.server.errors import MaitredError
from maitred.v1.order_pb2 import AddItemRequest, RemoveItemRequest, VoidLineRequest
from maitred.v1.payment_pb2 import AdjustBalanceRequest, SetTipRequest
from maitred.v1.state_pb2 import (
    BALANCE_POLICY_BUDGET,
    BALANCE_POLICY_LIMIT,
    ORDER_STATUS_OPEN,
    TAB_STATUS_COMPLETED,
    TAB_STATUS_PENDING,
    TAB_STATUS_PROCESSING,
)

ITEMS = ["daiquiri", "martini", "tap-beer", "water", "penny", "dime", "absinthe"]
QUANTITIES = st.sampled_from([None, None, 0, 1, 1, 2, 4, -1])
PICKS = st.sampled_from([0, 0, 0, 1, 1, 2, 9])
RETENTION_S = 1000


def picked(numbers: list[int], pick: int) -> int:
    """One of the numbers, newest first, or now and then one that is not there."""
    return numbers[-1 - pick] if pick < len(numbers) else 99


class Sessions(RuleBasedStateMachine):
    """One session, to which anything may happen."""

    new_log: Callable[..., Any]
    log: Any

    @initialize(
        opening=st.sampled_from([0, 999, 9_999, 99_999]),
        policy=st.sampled_from([BALANCE_POLICY_BUDGET, BALANCE_POLICY_LIMIT]),
    )
    def create(self, opening: int, policy: Any) -> None:
        """Open a session."""
        self.log = type(self).new_log(opening_balance=money(opening, "USD"), balance_policy=policy)
        self.versions = (0, 0)

    def attempt(self, decide: Callable[[], Any]) -> None:
        """Apply what is decided; a refusal must leave everything as it is."""
        before = self.log.session.SerializeToString(deterministic=True)
        try:
            event = decide()
        except MaitredError:
            event = None
        assert before == self.log.session.SerializeToString(deterministic=True)
        if event is not None:
            self.log.apply(event)

    @rule(item=st.sampled_from(ITEMS), quantity=QUANTITIES, double=st.booleans())
    def add(self, item: str, quantity: int | None, double: bool) -> None:
        """Add an item of the menu."""
        request = AddItemRequest(
            item=item, quantity=quantity, modifiers=["double"] if double else []
        )
        log = self.log
        self.attempt(
            lambda: orders.add_item(log.session, request, log.catalog, staff=False, max_lines=6)
        )

    @rule(price=st.integers(-5, 3000), quantity=QUANTITIES)
    def add_open(self, price: int, quantity: int | None) -> None:
        """Add an open-price line."""
        request = AddItemRequest(item="x", quantity=quantity, open_price=money(price, "USD"))
        log = self.log
        self.attempt(lambda: orders.add_item(log.session, request, None, staff=True, max_lines=6))

    @precondition(lambda self: self.log.session.order.lines)
    @rule(pick=PICKS, quantity=QUANTITIES)
    def remove(self, pick: int, quantity: int | None) -> None:
        """Take a line off."""
        line = picked([each.line_number for each in self.log.session.order.lines], pick)
        request = RemoveItemRequest(line_number=line, quantity=quantity)
        self.attempt(lambda: orders.remove_item(self.log.session, request))

    @precondition(lambda self: self.log.session.HasField("order"))
    @rule()
    def place(self) -> None:
        """Place the order."""
        self.attempt(lambda: orders.place(self.log.session, self.log.now_ns))

    @precondition(lambda self: len(self.log.session.order.lines) > 1)
    @rule()
    def clear(self) -> None:
        """Clear the order."""
        self.attempt(lambda: orders.clear(self.log.session))

    @precondition(lambda self: self.log.orders)
    @rule(pick=PICKS, pick_line=PICKS, quantity=QUANTITIES)
    def void(self, pick: int, pick_line: int, quantity: int | None) -> None:
        """Void a line of a placed order."""
        order = picked(list(self.log.orders), pick)
        placed = self.log.orders.get(order)
        lines = [each.line_number for each in placed.lines] if placed else []
        request = VoidLineRequest(
            order_number=order, line_number=picked(lines, pick_line), quantity=quantity
        )
        self.attempt(lambda: orders.void_line(self.log.session, request, placed))

    @precondition(lambda self: self.log.tab)
    @rule(percentage=st.sampled_from([5, 10, 20]), toggle=st.booleans())
    def tip_percentage(self, percentage: int, toggle: bool) -> None:
        """Tip a percentage."""
        request = SetTipRequest(percentage=percentage, toggle=toggle)
        self.attempt(lambda: tips.set_tip(self.log.session, request, (10, 15, 20)))

    @precondition(lambda self: self.log.tab)
    @rule(amount=st.integers(-1, 500))
    def tip_amount(self, amount: int) -> None:
        """Tip an amount."""
        request = SetTipRequest(amount=money(amount, "USD"))
        self.attempt(lambda: tips.set_tip(self.log.session, request, (10, 15, 20)))

    @precondition(lambda self: self.log.tab)
    @rule(delta=st.integers(-3000, 3000))
    def adjust(self, delta: int) -> None:
        """Adjust the balance."""
        request = AdjustBalanceRequest(delta=money(delta, "USD"), reason="x")
        self.attempt(lambda: balances.adjust(self.log.session, request))

    @precondition(lambda self: not has_open_payment(self.log.session) and self.log.tab)
    @rule()
    def open_payment(self) -> None:
        """Ask for the money."""
        self.log.open_payment()

    @precondition(lambda self: not has_open_payment(self.log.session) and self.log.tab)
    @rule()
    def pay(self) -> None:
        """Pay at once."""
        self.log.pay()

    @precondition(lambda self: has_open_payment(self.log.session))
    @rule()
    def settle(self) -> None:
        """Pay what was asked for."""
        self.log.settle()

    @precondition(lambda self: self.log.orders)
    @rule(reason=st.sampled_from(["because", "because", ""]), staff=st.booleans())
    def reset(self, reason: str, staff: bool) -> None:
        """Reset the session."""
        self.attempt(lambda: sessions.reset(self.log.session, reason, staff=staff))

    @rule(seconds=st.integers(1, 5000))
    def tick(self, seconds: int) -> None:
        """Let time pass."""
        self.log.advance(seconds)
        wake_ns = sessions.wake_at_ns(self.log.session, RETENTION_S)
        event = sessions.tick(self.log.session, self.log.now_ns, RETENTION_S)
        due = wake_ns is not None and wake_ns <= self.log.now_ns
        assert due == (event is not None)
        overdue = sessions.is_overdue(self.log.session, self.log.now_ns)
        assert overdue == (event is not None and event.HasField("session_expired"))
        if event is not None and event.HasField("attention_changed"):
            self.log.apply(event, slides=False)

    @invariant()
    def the_ledger_explains_balance_and_tab(self) -> None:
        """The identities of the ledger hold."""
        ledger = self.log.session.ledger
        assert self.log.balance == (
            ledger.opening
            - ledger.charges
            + ledger.reversals
            + ledger.adjustments
            + ledger.returned
        )
        assert self.log.tab == (
            ledger.charges - ledger.reversals - ledger.settled - ledger.written_off
        )
        assert self.log.balance >= 0
        assert self.log.tab >= 0

    @invariant()
    def the_sums_agree(self) -> None:
        """Total, tip and order are what their parts add up to."""
        state = self.log.session.payment
        credit = state.credit.minor_units
        assert credit >= 0
        assert state.total.minor_units == max(0, self.log.tab + self.log.tip_amount - credit)
        if state.HasField("tip_percentage"):
            assert self.log.tip_amount == percentage_of(self.log.tab, state.tip_percentage)
        if not self.log.tab:
            assert self.log.tip_amount == 0
        order = self.log.session.order
        assert order.total.minor_units == sum(line.total.minor_units for line in order.lines)
        for line in order.lines:
            assert 1 <= line.quantity <= orders.MAX_QUANTITY
            assert line.total.minor_units == line.unit_price.minor_units * line.quantity

    @invariant()
    def the_order_is_one_that_can_be(self) -> None:
        """Lines ascend, and an order is open or placed, never both."""
        session = self.log.session
        numbers = [line.line_number for line in session.order.lines]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= 6
        if session.HasField("order"):
            assert session.order.status == ORDER_STATUS_OPEN
            assert session.order.number == session.last_order_number
            assert session.order.number not in self.log.orders
        if numbers:
            assert numbers[-1] <= session.last_line_number

    @invariant()
    def the_status_is_one_that_can_be(self) -> None:
        """The status follows from payment and tab."""
        state = self.log.session.payment
        assert state.status in {
            TAB_STATUS_PENDING,
            TAB_STATUS_PROCESSING,
            TAB_STATUS_COMPLETED,
        }
        assert (state.status == TAB_STATUS_PROCESSING) == has_open_payment(self.log.session)
        if state.status == TAB_STATUS_COMPLETED:
            assert self.log.tab == 0
            assert not state.needs_reconciliation

    @invariant()
    def versions_only_grow(self) -> None:
        """No version comes twice."""
        version, payment_version = self.versions
        assert self.log.session.version >= version
        assert self.log.session.payment.version >= payment_version
        self.versions = (self.log.session.version, self.log.session.payment.version)

    def teardown(self) -> None:
        """The log explains the state."""
        if hasattr(self, "log"):
            assert self.log.fold() == self.log.session


def test_money_is_conserved(new_log: Callable[..., Any]) -> None:
    """Balance, tab, tip and credit are explained after any sequence of commands."""

    class Bound(Sessions):
        pass

    Bound.new_log = new_log
    run_state_machine_as_test(
        Bound,
        settings=settings(max_examples=200, stateful_step_count=50, deadline=None),
    )
