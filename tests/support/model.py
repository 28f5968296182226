"""What a session must be after a list of commands: a second, much simpler telling of the rules.

It knows no events, no protobuf and no store. Each method does what its rpc is to do, or raises
`Refused` with the reason. Amounts are in minor units, times in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.bar import ITEMS, MODIFIERS, SOLD_OUT

NS = 1_000_000_000
MOST = 10**12
LINK_S = 1800
ABANDONED, OVERPAID = 1, 2
UNPAID, PAID = {"CREATING", "OPEN"}, "SUCCEEDED"


class Refused(Exception):
    """The command is refused for this reason, and changes nothing."""


@dataclass
class Line:
    """What one line of an order costs, and how many are left of it."""

    unit: int
    left: int


@dataclass
class Pay:
    """The newest payment, and what the guest did with its link at the provider's."""

    status: str
    amount: int
    tab: int
    tip: int
    credit: int
    through: int
    resets: int
    link: str = ""
    """"open", "paid", "dead", or "" where there is none."""
    dies_ns: int = 0
    withdrawn: bool = False
    superseded: bool = False
    by_hand: bool = False
    refunded: int = 0
    overpaid: bool = False
    excess: int = 0
    """What of it became credit and was not given back since."""


@dataclass
class Model:
    """One session as a guest's bill on paper."""

    clock: Callable[[], int]
    opening: int
    limit: bool
    idle: int
    status: str = "ACTIVE"
    version: int = 0
    payment_version: int = -1
    updated_ns: int = 0
    expires_s: int = 0
    calls: set[int] = field(default_factory=set)
    overpaid: list[Pay] = field(default_factory=list)
    balance: int = 0
    tab: int = 0
    tip: int = 0
    percent: int | None = None
    credit: int = 0
    phase: str = "GREETING"
    turns: int = 0
    small_talk: int = 0
    order_turn: int = 0
    placed_since: bool = False
    order: dict[int, Line] = field(default_factory=dict)
    placed: dict[int, dict[int, Line]] = field(default_factory=dict)
    order_number: int = 0
    last_line: int = 0
    paid_through: int = 0
    written_off: set[int] = field(default_factory=set)
    resets: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    topic: str = ""
    pay: Pay | None = None
    received: int = 0
    refunded: int = 0

    def __post_init__(self) -> None:
        """Open the session."""
        self.balance = self.opening
        self.event(money=True)

    # --- time

    def now(self) -> int:
        """Time never goes back within a session."""
        return max(self.clock(), self.updated_ns)

    def event(self, *, money: bool = False, alive: bool = True) -> None:
        """Count a version; all but what the server does by itself is a sign of life."""
        self.updated_ns = self.now()
        self.version += 1
        self.payment_version += money
        if alive and self.status == "ACTIVE":
            # From the clock: where it was ahead, the event's time is, and its sessions end in time.
            self.expires_s = -(-self.clock() // NS) + self.idle

    def unsettled(self) -> bool:
        """Whether money may still come in."""
        return self.pay is not None and self.pay.status in UNPAID

    def overdue(self) -> bool:
        """Whether the session must expire."""
        late = self.clock() >= self.expires_s * NS
        return self.status == "ACTIVE" and late and not self.tab and not self.unsettled()

    def expire(self) -> None:
        """End a session whose time is over: nobody is shown it as active."""
        if self.overdue():
            self.event(alive=False)
            self.status = "EXPIRED"

    def begin(self) -> None:
        """Refuse an ended session, and end one whose time is over."""
        self.expire()
        if self.status != "ACTIVE":
            raise Refused(f"SESSION_{self.status}")

    def sweep(self) -> None:
        """Do what the time asks for."""
        while (due := self._wake_ns()) is not None and self.clock() >= due:
            self.event(alive=False)
            if self.overdue():
                self.status = "EXPIRED"
            else:
                self.calls ^= {ABANDONED}

    def _wake_ns(self) -> int | None:
        open_money = self.tab > 0 or self.unsettled()
        returned = not open_money or self.expires_s * NS > self.updated_ns
        abandoned = ABANDONED in self.calls
        if abandoned and (self.status != "ACTIVE" or returned):
            return self.updated_ns if not self.overdue() else self.expires_s * NS
        if self.status != "ACTIVE" or (open_money and abandoned):
            return None
        return self.expires_s * NS

    # --- orders

    def add(self, item: str, quantity: int, modifiers: list[str]) -> None:
        """Add a line."""
        self.begin()
        if item == SOLD_OUT:
            raise Refused("ITEM_SOLD_OUT")
        if item not in ITEMS:
            raise Refused("ITEM_NOT_FOUND")
        if not set(modifiers) <= set(MODIFIERS):
            raise Refused("MODIFIER_NOT_FOUND")
        unit = ITEMS[item][1] + sum(MODIFIERS[name][1] for name in modifiers)
        if unit * quantity > self.balance:
            raise Refused("INSUFFICIENT_FUNDS")
        self.last_line += 1
        self.order_number += not self.order_open
        self.order_open = True
        self.order[self.last_line] = Line(unit, quantity)
        self.balance -= unit * quantity
        self.tab += unit * quantity
        self._tab_changed()

    order_open: bool = False

    def remove(self, number: int, quantity: int | None) -> None:
        """Take a line of the open order off."""
        self.begin()
        line = self._take(self.order, number, quantity)
        if not line.left:
            del self.order[number]
        self._tab_changed()

    def clear(self) -> None:
        """Take all unpaid lines of the open order off."""
        self.begin()
        unpaid = {at: line for at, line in self.order.items() if at > self.paid_through}
        price = sum(line.unit * line.left for line in unpaid.values())
        if not unpaid:
            return
        if price > self.tab:
            raise Refused("ORDER_LINE_PAID")
        self.order = {at: line for at, line in self.order.items() if at not in unpaid}
        self.order_open = bool(self.order)
        self._give_back(price)
        self._tab_changed()

    def place(self) -> None:
        """Send the open order to the kitchen."""
        self.begin()
        if not self.order:
            raise Refused("ORDER_EMPTY")
        self.placed[self.order_number] = self.order
        self.order, self.order_open, self.placed_since = {}, False, True
        self.event()

    def void(self, order: int, number: int, quantity: int | None) -> None:
        """Take a line of a placed order off."""
        self.begin()
        if order not in self.placed:
            raise Refused("ORDER_NOT_FOUND")
        line = self.placed[order].get(number)
        if line is not None and not line.left and not quantity:
            return
        self._take(self.placed[order], number, quantity)
        self._tab_changed()

    def _take(self, lines: dict[int, Line], number: int, quantity: int | None) -> Line:
        if number not in lines:
            raise Refused("LINE_NOT_FOUND")
        line = lines[number]
        quantity = quantity or line.left
        if not 1 <= quantity <= line.left:
            raise Refused("INVALID_QUANTITY")
        if number in self.written_off:
            raise Refused("ORDER_LINE_WRITTEN_OFF")
        if number <= self.paid_through or line.unit * quantity > self.tab:
            raise Refused("ORDER_LINE_PAID")
        line.left -= quantity
        self._give_back(line.unit * quantity)
        return line

    def _give_back(self, price: int) -> None:
        self.balance += price
        self.tab -= price

    def _tab_changed(self) -> None:
        if self.percent is not None:
            self.tip = _percentage(self.tab, self.percent)
        if not self.tab:
            self.tip, self.percent = 0, None
        self._supersede()
        self.event(money=True)

    # --- money

    def set_tip(self, percent: int | None, amount: int | None, *, toggle: bool) -> None:
        """Set the tip to a percentage or an amount; neither clears it."""
        self.begin()
        before = (self.tip, self.percent)
        if percent is not None and percent not in (10, 15, 20):
            raise Refused("INVALID_TIP_PERCENTAGE")
        if (percent is not None or amount is not None) and not self.tab:
            raise Refused("TAB_EMPTY")
        if percent is not None and toggle and percent == self.percent:
            percent = None
        self.percent = percent
        self.tip = _percentage(self.tab, percent) if percent is not None else amount or 0
        if (self.tip, self.percent) != before:
            self._supersede()
            self.event(money=True)

    def adjust(self, delta: int) -> None:
        """Change the balance."""
        self.begin()
        if self.balance + delta < 0:
            raise Refused("INSUFFICIENT_FUNDS")
        if self.balance + delta > MOST:
            raise Refused("AMOUNT_OUT_OF_RANGE")
        self.balance += delta
        if delta:
            self.event(money=True)

    def _supersede(self) -> None:
        if self.unsettled() and (self.tab, self.tip) != (self.pay.tab, self.pay.tip):  # type: ignore[union-attr]  # there is one
            self.pay.superseded = self.pay.withdrawn = True  # type: ignore[union-attr]  # there is one

    def create_payment(self) -> None:
        """Ask for what is owed; a link that can still be paid asks for it already."""
        self.begin()
        if self.pay is not None and self.unsettled():
            if self.now() < self.pay.dies_ns:
                return
            self.news()
            if self.unsettled():
                raise Refused("PREVIOUS_PAYMENT_UNRESOLVED")
        pay = self._new_payment()
        if not pay.amount:
            self._settle(pay, 0)
            return
        if pay.amount < 50:
            raise Refused("AMOUNT_OUT_OF_RANGE")
        pay.status, pay.link = "OPEN", "open"
        pay.dies_ns = (-(-self.now() // NS) + LINK_S) * NS
        self.pay = pay
        self.event(money=True)
        self.event(money=True)

    def _new_payment(self) -> Pay:
        owed = self.tab + self.tip
        if not owed:
            raise Refused("NOTHING_TO_PAY")
        credit = min(self.credit, owed)
        return Pay(
            "CREATING", owed - credit, self.tab, self.tip, credit, self.last_line, self.resets
        )

    def guest_pays(self) -> bool:
        """Use the link at the provider's, which may be dead by now; whether it worked."""
        if self.pay is None or self.pay.link not in {"open", "dead"}:
            return False
        self.pay.link = "paid"
        return True

    def news(self) -> None:
        """Learn what became of the newest link, and withdraw one that asks for something else."""
        pay = self.pay
        if pay is None:
            return
        if pay.link == "open" and self.clock() >= pay.dies_ns:
            pay.link = "dead"
        if self.unsettled() and pay.credit != min(self.credit, self.tab + self.tip):
            if not pay.superseded:
                self.event(money=True)
            pay.superseded = pay.withdrawn = True
        if pay.withdrawn and pay.link == "open":
            pay.link = "dead"
        if pay.link == "paid" and pay.status != PAID:
            self._settle(pay, pay.amount)
        elif pay.link == "dead" and pay.status == "OPEN":
            pay.status = "EXPIRED"
            self._end_calls()
            self.event(money=True)

    def cancel_payment(self) -> None:
        """Withdraw the open link; who has paid by then has paid."""
        if self.pay is None:
            raise Refused("PAYMENT_NOT_FOUND")
        if not self.unsettled():
            return
        self.pay.withdrawn = True
        self.event(money=True)
        self.news()
        if self.pay.status == "EXPIRED":
            self.pay.status = "CANCELED"

    def complete_by_hand(self) -> None:
        """Take cash for what is owed, or for the link that is withdrawn for it."""
        if self.pay is not None and self.unsettled():
            self.pay.superseded = True
            self.cancel_payment()
            if self.pay.status == PAID:
                raise Refused("PAYMENT_SETTLED")
            self.pay.by_hand = True
            self._settle(self.pay, self.pay.amount)
            return
        pay = self._new_payment()
        pay.by_hand = True
        self._settle(pay, pay.amount)

    def _settle(self, pay: Pay, received: int) -> None:
        self.received += received
        pay.status = PAID
        if pay.resets == self.resets:
            used = min(self.credit, pay.credit)
            owed = self.tab
            paid = min(self.tab, pay.tab, received + used)
            excess = received + used - paid - min(pay.tip, received + used - paid)
            self.tab -= paid
            self.credit += excess - used
            self.tip, self.percent = 0, None
            self.balance += paid if self.limit else 0
            if paid >= min(owed, pay.tab):
                self.paid_through = max(self.paid_through, pay.through)
            if not self.tab:
                self.paid_through = self.last_line
        else:
            excess = received
            self.credit += received
        pay.overpaid = excess > 0
        self.pay = pay
        pay.excess = min(excess, received)
        if pay.overpaid:
            self.overpaid.append(pay)
        self._end_calls()
        self.event(money=True)

    def _end_calls(self) -> None:
        """Let go of what a change of a payment made good."""
        self.overpaid = [pay for pay in self.overpaid if self.credit and pay.excess > 0]
        if not self.tab and not self.unsettled():
            self.calls.discard(ABANDONED)

    @property
    def attention(self) -> int:
        """What is shown: money before an abandoned tab."""
        return OVERPAID if self.overpaid else ABANDONED if self.calls else 0

    def refund(self, amount: int | None) -> None:
        """Give money of the newest payment back, credit first."""
        pay = self.pay
        if pay is None:
            raise Refused("PAYMENT_NOT_FOUND")
        if pay.status != PAID:
            raise Refused("PAYMENT_NOT_CONFIRMED")
        left = (pay.amount if pay.link or pay.by_hand else 0) - pay.refunded
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            raise Refused("REFUND_EXCEEDS_PAID")
        if pay.resets == self.resets or pay.overpaid:
            taken = min(self.credit, amount)
            self.credit -= taken
            pay.excess -= taken
        self._end_calls()
        pay.refunded += amount
        self.refunded += amount
        self.event(money=True)
        if not pay.by_hand:
            self.event(money=True)

    # --- conversation

    def turn(self) -> None:
        """Close a turn."""
        self.begin()
        self.turns += 1
        if self.placed_since:
            self.small_talk, self.order_turn = 0, self.turns
        if self.phase == "GREETING":
            self.phase = "ORDER_TAKING"
        elif self.placed_since:
            self.phase = "SMALL_TALK"
        elif self.phase == "SMALL_TALK":
            self.small_talk += 1
            self.phase = "REORDER_PROMPT" if self.small_talk >= 4 else self.phase
        elif self.phase == "REORDER_PROMPT":
            self.phase, self.small_talk = "SMALL_TALK", 0
        self.placed_since = False
        self.event()

    def reset_phase(self) -> None:
        """Begin the conversation anew."""
        self.begin()
        before = (self.phase, self.turns, self.small_talk, self.order_turn, self.placed_since)
        self._new_conversation()
        if before != ("GREETING", 0, 0, 0, False):
            self.event()

    def _new_conversation(self) -> None:
        self.phase, self.turns, self.small_talk = "GREETING", 0, 0
        self.order_turn, self.placed_since = 0, False

    def set_topic(self, topic: str) -> None:
        """Remember what it is about."""
        self.begin()
        if topic != self.topic:
            self.topic = topic
            self.event()

    # --- the session

    def update(self, labels: dict[str, str] | None, attributes: dict[str, str] | None) -> None:
        """Replace labels, attributes or both."""
        self.begin()
        before = (self.labels, self.attributes)
        self.labels = self.labels if labels is None else labels
        self.attributes = self.attributes if attributes is None else attributes
        if (self.labels, self.attributes) != before:
            self.event()

    def extend(self, idle: int) -> None:
        """Move the expiry."""
        self.begin()
        self.idle = idle or self.idle
        self.event()

    def reset(self, reason: str) -> None:
        """Restore the defaults; an open tab is written off for a reason."""
        self._end(reason)
        self._write_off()
        self.balance, self.tab, self.tip, self.percent = self.opening, 0, 0, None
        self.order, self.order_open, self.paid_through = {}, False, self.last_line
        self.attributes, self.topic = {}, ""
        self._new_conversation()
        self.resets += 1
        self.received = self.refunded = 0
        self.calls.discard(ABANDONED)
        self.event(money=True)

    def close(self, reason: str) -> None:
        """End the session; an open tab is written off for a reason."""
        self._end(reason)
        self._write_off()
        tab, self.tab = self.tab, 0
        if tab:
            self.balance += tab if self.limit else 0
            self.tip, self.percent = 0, None
        self.event(money=bool(tab), alive=False)
        self.status = "CLOSED"

    def _write_off(self) -> None:
        if self.tab:
            self.written_off |= set(range(self.paid_through + 1, self.last_line + 1))

    def _end(self, reason: str) -> None:
        self.begin()
        if self.unsettled():
            raise Refused("PAYMENT_OPEN")
        if self.tab and not reason:
            raise Refused("REASON_REQUIRED")


def _percentage(amount: int, percent: int) -> int:
    whole, rest = divmod(amount * percent, 100)
    return whole + (rest >= 50)
