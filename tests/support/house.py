"""Payments without a server: the pure core, folded as the engine does, and a provider beside it.

No network, no loop and no clock: what happens and which news of it arrive is up to the caller.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from maitred.server.domain import orders, payments, refunds, sessions, settlement
from maitred.server.domain.evolve import EVENT_SCHEMA, evolve_session
from maitred.server.domain.money import money
from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
    Terms,
)
from maitred.server.errors import MaitredError
from maitred.v1.event_pb2 import Event
from maitred.v1.order_pb2 import AddItemRequest
from maitred.v1.session_pb2 import CreateSessionRequest
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    PAYMENT_METHOD_CASH,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    PaymentStatus,
    Session,
)

START_NS = 1_767_225_600_000_000_000
DEFAULTS = sessions.Defaults("bar", 10_000_000, "USD", 3600)
TERMS = Terms("test", True, 50, 99_999_999, 1800, lambda payment: payment.payment_id.encode())
S = ProviderStatus

ENDS = ("time", "fail_slowly")
"""Polling asks when a link dies. Until then a new payment would join the old one, and be another
story."""
DEAD = frozenset({"PAYMENT_STATUS_EXPIRED", "PAYMENT_STATUS_CANCELED"})
"""Which of both it was depends on whether the cancellation or the news of the end came first."""


class Link:
    """One session at the provider."""

    def __init__(self, name: str, payment: Payment) -> None:
        self.name = name
        self.payment_id = payment.payment_id
        self.amount = payment.amount.minor_units
        self.status = S.OPEN
        self.disputed = False
        self.refunds: dict[str, tuple[str, RefundState, int]] = {}
        """By key, or by name where there was none: our id, state, amount."""

    @property
    def left(self) -> int:
        """What can still be given back."""
        spent = sum(n for _, state, n in self.refunds.values() if state is not RefundState.FAILED)
        return self.amount - spent

    def snapshot(self) -> ProviderSnapshot:
        """Tell how it is now."""
        refunds = tuple(
            ProviderRefund(f"re-{self.name}-{key}", state, amount, refund_id)
            for key, (refund_id, state, amount) in self.refunds.items()
        )
        return ProviderSnapshot(
            self.status,
            provider_payment_id=self.name,
            minor_units=self.amount,
            currency="USD",
            url=f"https://pay/{self.name}" if self.status is S.OPEN else "",
            disputes=(ProviderDispute("", DisputeState.OPEN),) if self.disputed else (),
            refunds=refunds,
            payment_id=self.payment_id,
        )


class Provider:
    """What a provider does: one effect for a key, and a life of its own for every link."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        """By key."""
        self.calls = 0

    def create(self, payment: Payment) -> Link:
        """Make the link of a key, or answer the one that there is."""
        self.calls += 1
        key = payment.request.key
        if key not in self.links:
            self.links[key] = Link(f"cs-{len(self.links)}", payment)
        return self.links[key]

    def of(self, payment_id: str) -> Link | None:
        """Find the link of a payment."""
        return next((each for each in self.links.values() if each.payment_id == payment_id), None)

    def expire(self, link: Link) -> None:
        """Make a link unusable, if it is open."""
        if link.status is S.OPEN:
            link.status = S.EXPIRED

    def refund(self, link: Link, key: str, refund_id: str, amount: int) -> None:
        """Give money back, once for a key."""
        self.calls += 1
        if key not in link.refunds:
            state = RefundState.PENDING if amount <= link.left else RefundState.FAILED
            link.refunds[key] = (refund_id, state, amount)


class Act(NamedTuple):
    """One thing that happens, the same however the news of it travels."""

    kind: str
    number: int
    """Which payment, and how much: whatever the kind makes of it."""


class House:
    """The server's side: decide, evolve and nothing else; no clock, no loop, no network."""

    def __init__(self) -> None:
        self.provider = Provider()
        self.session = Session()
        self.payments: dict[str, Payment] = {}
        self.events: list[Event] = []
        self.successes: Counter[str] = Counter()
        request = CreateSessionRequest(session_id="s")
        self.apply(sessions.create(None, request, "s", DEFAULTS))
        self.add(1300)

    # --- the fold ---------------------------------------------------------------------------------

    def apply(self, event: Event | None) -> None:
        """Fold an event in as the engine does."""
        if event is None:
            return
        event.version = len(self.events) + 1
        event.schema = EVENT_SCHEMA
        event.time.seconds = START_NS // 10**9
        before = self.session if self.events else None
        self.session = evolve_session(before, event)
        self.events.append(event)
        change = event.WhichOneof("change") or ""
        carrier = getattr(event, change)
        if change.startswith("payment_"):
            self._keep(carrier.payment)
            self.successes[carrier.payment.payment_id] += change == "payment_succeeded"
        elif change == "line_added" and carrier.HasField("superseded"):
            self._keep(carrier.superseded)

    def _keep(self, payment: Payment) -> None:
        self.payments[payment.payment_id] = payment

    def hear(self, snapshot: ProviderSnapshot) -> None:
        """Apply what the provider said at some time, and what follows from it."""
        payment = self.payments[snapshot.payment_id]
        self.apply(settlement.apply_snapshot(self.session, payment, snapshot, "poll", START_NS))

    def ask(self, payment_id: str) -> None:
        """Ask the provider how a payment is, and send what was never answered once more."""
        payment = self.payments[payment_id]
        link = self.provider.of(payment_id)
        if link is None and payments.is_unborn(payment):
            link = self.provider.create(payment)
        if link is None:
            return
        self.hear(link.snapshot())
        unsent = refunds.pending_refunds(self.payments[payment_id])
        for refund in unsent:
            self.provider.refund(link, refund.key, refund.refund_id, refund.amount.minor_units)
        if unsent:
            self.hear(link.snapshot())

    # --- commands ---------------------------------------------------------------------------------

    def add(self, price: int) -> None:
        """Order something."""
        request = AddItemRequest(item="x", open_price=money(price, "USD"))
        self.apply(orders.add_item(self.session, request, None, staff=True, max_lines=100))

    def create(self, *, lost: bool) -> None:
        """Ask for what is owed; what is in the way is resolved first."""
        name = f"p{self.session.latest_payment.number + 1}"
        for _ in range(3):
            try:
                event = payments.request_payment(self.session, START_NS, name, TERMS)
                break
            except MaitredError as error:
                previous = error.metadata.get("payment_id")
                if previous is None:
                    return
                self.withdraw(previous)
        else:
            return
        self.apply(event)
        newest = self.session.latest_payment
        if payments.is_unborn(newest):
            link = self.provider.create(newest)
            if lost:
                self.hear(ProviderSnapshot(S.UNKNOWN, payment_id=newest.payment_id))
            else:
                self.hear(link.snapshot())

    def withdraw(self, payment_id: str) -> None:
        """Have a link made unusable, and hear what became of it."""
        payment = self.payments[payment_id]
        if payments.is_unborn(payment):
            self.hear(self.provider.create(payment).snapshot())
        link = self.provider.of(payment_id)
        if link is not None and payments.is_withdrawn(self.payments[payment_id]):
            self.provider.expire(link)
            self.hear(link.snapshot())

    def cancel(self) -> None:
        """Withdraw the newest payment."""
        newest = self.session.latest_payment
        self.apply(payments.request_cancel(self.session, newest, "no"))
        self.withdraw(newest.payment_id)

    def cash(self) -> None:
        """Take cash, where the link is dead."""
        newest = self.session.latest_payment
        if newest.payment_id:
            self.ask(newest.payment_id)
        name = f"p{newest.number + 1}"
        self.apply(
            payments.complete_by_hand(
                self.session, None, START_NS, name, PAYMENT_METHOD_CASH, "cash"
            )
        )

    def refund(self, payment_id: str, amount: int, *, lost: bool) -> None:
        """Give a part back."""
        self.ask(payment_id)
        payment = self.payments[payment_id]
        refund_id = f"r{len(payment.refunds)}"
        self.apply(
            refunds.refund(self.session, payment, START_NS, refund_id, money(amount, "USD"), "cold")
        )
        link = self.provider.of(payment_id)
        refund = self.payments[payment_id].refunds[-1]
        if link is not None and refund.key:
            self.provider.refund(link, refund.key, refund_id, amount)
        if not lost:
            self.ask(payment_id)

    # --- a story ----------------------------------------------------------------------------------

    def happen(self, act: Act) -> None:
        """Let one thing happen. What is not possible does not."""
        links = list(self.provider.links.values())
        names = list(self.payments)
        link = links[act.number % len(links)] if links else None
        name = names[act.number % len(names)] if names else ""
        try:
            match act.kind:
                case "add":
                    self.add(100 + act.number)
                case "create" | "create_lost":
                    self.create(lost=act.kind == "create_lost")
                case "cancel" if names:
                    self.cancel()
                case "cash":
                    self.cash()
                case "refund" | "refund_lost" if name:
                    self.refund(name, 1 + act.number, lost=act.kind == "refund_lost")
                case _ if link is not None:
                    self.befall(link, act)
                    if act.kind in ENDS:
                        self.ask(link.payment_id)
        except MaitredError:
            return

    def befall(self, link: Link, act: Act) -> None:
        """Let a guest, a bank or the dashboard do something."""
        match act.kind, link.status:
            case "pay", S.OPEN:
                link.status = S.PAID
            case "pay_slowly", S.OPEN:
                link.status = S.PROCESSING
            case "settle", S.PROCESSING:
                link.status = S.PAID
            case "fail_slowly", S.PROCESSING:
                link.status = S.FAILED
            case "time", S.OPEN:
                link.status = S.EXPIRED
            case "discount", S.OPEN:
                link.amount -= min(act.number, link.amount - 1)
            case "late", S.OPEN | S.EXPIRED | S.PROCESSING | S.FAILED:
                link.status = S.PAID
            case "dispute", S.PAID:
                link.disputed = True
            case "dashboard", S.PAID if link.left > act.number:
                link.refunds[f"d{len(link.refunds)}"] = ("", RefundState.SUCCEEDED, 1 + act.number)
            case (("refund_settles" | "refund_fails"), S.PAID) if link.refunds:
                key = list(link.refunds)[act.number % len(link.refunds)]
                refund_id, state, amount = link.refunds[key]
                if act.kind == "refund_fails" and state is not RefundState.FAILED:
                    link.refunds[key] = (refund_id, RefundState.FAILED, amount)
                elif state is RefundState.PENDING:
                    link.refunds[key] = (refund_id, RefundState.SUCCEEDED, amount)

    # --- what must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        """Every cent is explained, nothing was settled twice, and a key had one effect."""
        book, state = self.session.ledger, self.session.payment
        tab = book.charges - book.reversals - book.settled - book.written_off
        assert state.tab_total.minor_units == tab >= 0
        credit = book.received - book.settled - book.tips - self.credit_taken()
        assert state.credit.minor_units == credit >= 0
        counted = [
            each for each in self.payments.values() if each.status == PAYMENT_STATUS_SUCCEEDED
        ]
        assert book.received == sum(each.received_amount.minor_units for each in counted)
        assert book.refunded == sum(each.refunded_amount.minor_units for each in counted)
        assert all(count <= 1 for count in self.successes.values())
        made = Counter(each.payment_id for each in self.provider.links.values())
        assert all(count == 1 for count in made.values())
        for link in self.provider.links.values():
            given = Counter(refund_id for refund_id, _, _ in link.refunds.values() if refund_id)
            assert all(count == 1 for count in given.values())

    def credit_taken(self) -> int:
        """What refunds took of the credit."""
        return sum(
            refund.credit_taken.minor_units
            for payment in self.payments.values()
            for refund in payment.refunds
        )

    def books(self) -> Any:
        """Sum up what must not depend on how the news travelled."""
        rows = []
        for each in sorted(self.payments.values(), key=lambda payment: payment.number):
            status = PaymentStatus.Name(each.status)
            rows.append(
                (
                    each.number,
                    "DEAD" if status in DEAD else status,
                    each.amount.minor_units,
                    each.received_amount.minor_units,
                    each.refunded_amount.minor_units,
                    each.method,
                    each.disputed,
                    each.attention == ATTENTION_AMOUNT_MISMATCH,
                    sorted((r.refund_id, r.status, r.amount.minor_units) for r in each.refunds),
                )
            )
        state, ledger = self.session.payment, self.session.ledger
        credit = state.credit.minor_units + self.credit_taken()
        return rows, state.tab_total.minor_units, credit, ledger.SerializeToString()
