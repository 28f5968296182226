"""Arithmetic of balance, tab, tip and credit: every change of PaymentState goes through here.

A `Tab` is a working copy of the numbers of one session. Commands move money on it and then take the
messages that their event carries, so that the ledger always explains the balance and the tab.
"""

from __future__ import annotations

from maitred.server.domain.money import (
    MAX_MINOR_UNITS,
    format_money,
    out_of_range,
    percentage_of,
    require_currency,
    step_of,
)
from maitred.server.errors import InsufficientFunds
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import LineAdded, LineRemoved, LineVoided, OrderCleared
from maitred.v1.state_pb2 import (
    BALANCE_POLICY_LIMIT,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    TAB_STATUS_COMPLETED,
    TAB_STATUS_PENDING,
    TAB_STATUS_PROCESSING,
    Ledger,
    Payment,
    PaymentState,
    Session,
    TabStatus,
)

Concluded = LineAdded | LineRemoved | OrderCleared | LineVoided
"""Changes that carry the money after them, and the payment that they supersede."""

UNSETTLED = frozenset(
    {
        PAYMENT_STATUS_CREATING,
        PAYMENT_STATUS_OPEN,
        PAYMENT_STATUS_PROCESSING,
        PAYMENT_STATUS_OUTCOME_UNKNOWN,
    }
)
"""Statuses in which a payment may still take money, or may have taken it unknown to us."""


def has_open_payment(session: Session) -> bool:
    """Whether the newest payment is not settled."""
    return session.HasField("latest_payment") and session.latest_payment.status in UNSETTLED


def asks_for(payment: Payment, tab: Tab) -> bool:
    """Whether a payment asks for the tab and the tip as they are."""
    return (payment.tab_amount.minor_units, payment.tip_amount.minor_units) == (tab.tab, tab.tip)


class Tab:
    """The numbers of one session while a command works on them; all in minor units."""

    __slots__ = (
        "_before",
        "_booked",
        "balance",
        "credit",
        "currency",
        "ledger",
        "operation",
        "payment",
        "reset_count",
        "returns_on_settlement",
        "tab",
        "tip",
        "tip_percentage",
        "version",
    )

    def __init__(self, session: Session) -> None:
        state = self._before = session.payment
        self.currency = state.balance.currency
        self.balance = state.balance.minor_units
        self.tab = state.tab_total.minor_units
        self.tip = state.tip_amount.minor_units
        self.tip_percentage = state.tip_percentage if state.HasField("tip_percentage") else None
        self.credit = state.credit.minor_units
        self.version = state.version
        self.reset_count = session.reset_count
        self.returns_on_settlement = session.balance_policy == BALANCE_POLICY_LIMIT
        self._booked = session.ledger
        self.ledger = Ledger()
        self.ledger.CopyFrom(session.ledger)
        self.operation = ""
        """What was done last, for the refusal of what it would lead to."""
        # A payment from before the last reset says nothing about the tab since.
        newest = session.HasField("latest_payment") and (
            session.latest_payment.reset_count == session.reset_count
        )
        self.payment: Payment | None = session.latest_payment if newest else None

    @property
    def total(self) -> int:
        """What is still to be paid, tip included; never below zero."""
        return max(0, self.tab + self.tip - self.credit)

    def require(self, amount: Money, field: str) -> int:
        """Take the minor units of an amount in the session's currency.

        Raises: CurrencyMismatch.
        """
        require_currency(amount, self.currency, field)
        return amount.minor_units

    def charge(self, price: int) -> None:
        """Move a price from the balance to the tab; exactly enough is enough.

        Raises: InsufficientFunds.
        """
        if price > self.balance:
            raise InsufficientFunds(
                f"the balance of {format_money(self.balance, self.currency)} does not cover"
                f" {format_money(price, self.currency)}",
                metadata={
                    "balance": str(self.balance),
                    "price": str(price),
                    "currency": self.currency,
                },
            )
        self.operation = "charge"
        self.balance -= price
        self.tab += price
        self.ledger.charges += price
        self._follow_tab()

    def reverse(self, price: int) -> None:
        """Give a price back: the inverse of `charge`.

        What a payment has settled of it already becomes credit: a payment applies to the tab as a
        whole, so that it may have paid for a line that came after it.
        """
        self.operation = "reverse"
        self.balance += price
        self.tab -= price
        self.ledger.reversals += price
        paid = max(0, -self.tab)
        self.tab += paid
        self.credit += paid
        self.ledger.settled -= paid
        if self.returns_on_settlement:
            self.balance -= paid
            self.ledger.returned -= paid
        self._follow_tab()

    def adjust(self, delta: int) -> None:
        """Change the balance by hand."""
        self.operation = "adjust"
        self.balance += delta
        self.ledger.adjustments += delta

    def write_off(self) -> int:
        """Forgive the whole tab and its tip; answers what the tab was."""
        self.operation = "write_off"
        forgiven = self.tab
        self.tab = 0
        self.ledger.written_off += forgiven
        if self.returns_on_settlement:
            self.balance += forgiven
            self.ledger.returned += forgiven
        self._follow_tab()
        return forgiven

    def set_tip(self, amount: int, percentage: int | None) -> None:
        """Set the tip; with a percentage it follows the tab from now on."""
        self.operation = "set_tip"
        self.tip_percentage = percentage
        self.tip = amount if percentage is None else self._percentage(percentage)

    def settle(self, tab_part: int, received: int, tip_part: int, credit_used: int) -> int:
        """Apply money that came for `tab_part` + `tip_part` - `credit_used`.

        Lowers the tab by its part and never below zero, clears the tip, and keeps what the tab did
        not ask for as credit. Answers that excess.
        """
        self.operation = "settle"
        used = min(self.credit, credit_used)
        available = received + used
        paid = min(self.tab, tab_part, available)
        tip_paid = min(tip_part, available - paid)
        excess = available - paid - tip_paid
        self.tab -= paid
        self.credit += excess - used
        self.tip, self.tip_percentage = 0, None
        self.ledger.settled += paid
        self.ledger.received += received
        self.ledger.tips += tip_paid
        if self.returns_on_settlement:
            self.balance += paid
            self.ledger.returned += paid
        return excess

    def receive_credit(self, received: int) -> None:
        """Keep money that nothing on the tab asked for."""
        self.credit += received
        self.ledger.received += received

    def give_back(self, amount: int, *, takes_credit: bool) -> int:
        """Book money that goes back; answers what of it was taken out of the credit."""
        self.operation = "refund"
        taken = min(self.credit, amount) if takes_credit else 0
        self.credit -= taken
        self.ledger.refunded += amount
        return taken

    def take_again(self, amount: int, credit_taken: int) -> None:
        """Book that money did not go back after all: the inverse of `give_back`."""
        self.ledger.refunded -= amount
        self.credit += credit_taken

    def can_receive(self, amount: int) -> bool:
        """Whether money can be booked without leaving the bound of amounts."""
        return max(self.ledger.received, self.credit) + amount <= MAX_MINOR_UNITS

    def can_give_back(self, amount: int) -> bool:
        """Whether money that went back can be booked without leaving the bound of amounts."""
        return self.ledger.refunded + amount <= MAX_MINOR_UNITS

    def can_take_again(self, amount: int, credit_taken: int) -> bool:
        """Whether money that did not go back can be booked without leaving the bound of amounts."""
        return (
            self.ledger.refunded - amount >= -MAX_MINOR_UNITS
            and self.credit + credit_taken <= MAX_MINOR_UNITS
        )

    def conclude(self, change: Concluded) -> None:
        """Write into a change what it did to the money, and which payment it supersedes."""
        superseded = self.superseded()
        if superseded is not None:
            change.superseded.CopyFrom(superseded)
        self._write_state(change.payment, superseded)
        change.ledger.CopyFrom(self.ledger)

    def state(
        self, payment: Payment | None = None, *, needs_reconciliation: bool | None = None
    ) -> PaymentState:
        """Build the message after the change; `payment` is the newest payment after it."""
        state = PaymentState()
        self._write_state(state, payment, needs_reconciliation=needs_reconciliation)
        return state

    def _write_state(
        self,
        state: PaymentState,
        payment: Payment | None,
        *,
        needs_reconciliation: bool | None = None,
    ) -> None:
        newest = payment if payment is not None else self.payment
        self._require_bounds()
        # Copied and then corrected: building every amount anew takes three times as long.
        state.CopyFrom(self._before)
        state.balance.minor_units = self.balance
        state.tab_total.minor_units = self.tab
        state.tip_amount.minor_units = self.tip
        state.total.minor_units = self.total
        state.credit.minor_units = self.credit
        state.status = self._status(newest)
        state.version = self.version + 1
        state.ClearField("tip_percentage")
        if self.tip_percentage is not None:
            state.tip_percentage = self.tip_percentage
        if newest is None:
            state.ClearField("payment_id")
            state.ClearField("needs_reconciliation")
        else:
            state.payment_id = newest.payment_id
            state.needs_reconciliation = (
                newest.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
                if needs_reconciliation is None
                else needs_reconciliation
            )

    def _require_bounds(self) -> None:
        """Refuse what would bring a sum out of its bounds: no numbers enter state but through here.

        Balance and tab are bounded together, so that what is on the tab can be given back; tab and
        tip as well, without the credit that a bank may take away again. What providers say is never
        refused: whoever books it asks `can_receive` and its like before.
        Raises: AmountOutOfRange.
        """
        book, most = self.ledger, MAX_MINOR_UNITS
        # Hardly any session is worth so much, and then none of the sums can be.
        together = self.balance + self.tab + self.tip + self.credit
        together += book.charges + book.received + abs(book.adjustments) + abs(book.refunded)
        if together <= most:
            return
        before, booked = self._before, self._booked
        balance = before.balance.minor_units + before.tab_total.minor_units
        owed = before.tab_total.minor_units + before.tip_amount.minor_units
        for of, now, then in (
            ("the charges since the last reset", book.charges, booked.charges),
            ("balance and tab", self.balance + self.tab, balance),
            ("tab and tip", self.tab + self.tip, owed),
            ("the credit", self.credit, before.credit.minor_units),
            ("the adjustments since the last reset", book.adjustments, booked.adjustments),
            ("what was received since the last reset", book.received, booked.received),
            ("what was refunded since the last reset", book.refunded, booked.refunded),
        ):
            # A session that is older than these bounds may come back into them step by step.
            if abs(now) > max(most, abs(then)):
                raise out_of_range(self.operation, of, now, self.currency)

    def superseded(self) -> Payment | None:
        """Mark the open payment superseded if it asks for what is no longer owed; else None."""
        payment = self.payment
        if payment is None or payment.status not in UNSETTLED or payment.superseded:
            return None
        if asks_for(payment, self):
            return None
        changed = Payment()
        changed.CopyFrom(payment)
        changed.superseded = True
        return changed

    def _follow_tab(self) -> None:
        if self.tip_percentage is not None:
            self.tip = self._percentage(self.tip_percentage)
        if self.tab == 0:
            self.tip, self.tip_percentage = 0, None

    def _percentage(self, percentage: int) -> int:
        # In whole steps, or else no provider could charge what is owed.
        return percentage_of(self.tab, percentage, step_of(self.currency))

    def _status(self, newest: Payment | None) -> TabStatus.ValueType:
        if newest is None or newest.reset_count != self.reset_count:
            return TAB_STATUS_PENDING
        if newest.status in UNSETTLED:
            return TAB_STATUS_PROCESSING
        if newest.status == PAYMENT_STATUS_SUCCEEDED and self.tab == 0:
            return TAB_STATUS_COMPLETED
        return TAB_STATUS_PENDING
