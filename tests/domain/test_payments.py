"""Payments: whatever arrives in whatever order, the guest pays once and no money is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import changes, payments, refunds, sessions, settlement
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
from maitred.server.domain.tab import UNSETTLED
from maitred.server.errors import (
    AmountOutOfRange,
    MaitredError,
    NothingToPay,
    PaymentNotConfirmed,
    PaymentNotFound,
    PaymentOpen,
    PaymentSettled,
    PreviousPaymentUnresolved,
    ReasonRequired,
    RefundExceedsPaid,
    StripeUnavailable,
    status_of,
)
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    ATTENTION_UNSPECIFIED,
    PAYMENT_METHOD_CARD_TERMINAL,
    PAYMENT_METHOD_CASH,
    PAYMENT_METHOD_CREDIT,
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_CANCELED,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    REFUND_STATUS_FAILED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    TAB_STATUS_COMPLETED,
    TAB_STATUS_PENDING,
    TAB_STATUS_PROCESSING,
    Payment,
)

S = ProviderStatus
TERMS = Terms("test", True, 50, 99_999_999, 1800, lambda payment: payment.payment_id.encode())


class Till:
    """A log with its payments, by id."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.payments: dict[str, Payment] = {}

    def apply(self, event: Event | None) -> Payment:
        """Apply an event of a payment."""
        assert event is not None
        self.log.apply(event)
        change = event.WhichOneof("change") or ""
        payment: Payment = getattr(event, change).payment
        self.payments[payment.payment_id] = payment
        return payment

    def stored(self, name: str) -> Payment:
        """Take a payment as the store has it."""
        latest: Payment = self.log.session.latest_payment
        return latest if latest.payment_id == name else self.payments[name]

    def request(self, name: str = "p1", terms: Terms = TERMS) -> Event | None:
        """Decide on a new payment."""
        return payments.request_payment(self.log.session, self.log.now_ns, name, terms)

    def open(self, name: str = "p1") -> Payment:
        """Create a payment and its link."""
        self.apply(self.request(name))
        return self.hear(name, S.OPEN)

    def says(self, name: str, status: ProviderStatus, **more: Any) -> Event | None:
        """Decide on what a provider says, about the amount that it was asked for."""
        payment = self.stored(name)
        news = ProviderSnapshot(
            status,
            provider_payment_id=f"x-{name}",
            minor_units=payment.amount.minor_units,
            currency="USD",
            url=f"https://pay/{name}" if status is S.OPEN else "",
            payment_id=name,
        )
        news = dataclasses.replace(news, **more)
        return settlement.apply_snapshot(self.log.session, payment, news, "poll", self.log.now_ns)

    def hear(self, name: str, status: ProviderStatus, **more: Any) -> Payment:
        """Apply what a provider says; the payment after it."""
        event = self.says(name, status, **more)
        return self.stored(name) if event is None else self.apply(event)

    def by_hand(
        self, name: str = "", method: Any = PAYMENT_METHOD_CASH, new: str = "hand"
    ) -> Event | None:
        """Decide to complete by hand."""
        payment = self.stored(name) if name else None
        return payments.complete_by_hand(
            self.log.session, payment, self.log.now_ns, new, method, "paid in cash"
        )

    def refund(self, name: str, amount: int | None = None, refund_id: str = "r1") -> Payment:
        """Record a refund."""
        wanted = None if amount is None else money(amount, "USD")
        return self.apply(
            refunds.refund(
                self.log.session, self.stored(name), self.log.now_ns, refund_id, wanted, "sorry"
            )
        )

    def cancel(self, name: str) -> Payment:
        """Ask for a cancellation."""
        event = payments.request_cancel(self.log.session, self.stored(name), "changed my mind")
        return self.stored(name) if event is None else self.apply(event)

    @property
    def credit(self) -> int:
        """Credit in cents."""
        return int(self.log.session.payment.credit.minor_units)

    def check(self) -> None:
        """The ledger explains balance, tab and credit to the cent."""
        session = self.log.session
        book = session.ledger
        state = session.payment
        assert state.balance.minor_units == (
            book.opening - book.charges + book.reversals + book.adjustments + book.returned
        )
        assert state.tab_total.minor_units == (
            book.charges - book.reversals - book.settled - book.written_off
        )
        assert state.tab_total.minor_units >= 0
        taken = 0
        for payment in self.payments.values():
            taken += sum(each.credit_taken.minor_units for each in payment.refunds)
            taken += sum(each.credit_taken.minor_units for each in payment.disputes)
        assert state.credit.minor_units == book.received - book.settled - book.tips - taken >= 0


@pytest.fixture
def till(log: Any) -> Till:
    """A session with a martini on the tab."""
    log.add("martini")
    return Till(log)


# --- creating -----------------------------------------------------------------------------------


def test_a_payment_is_recorded_with_all_that_the_provider_will_be_sent(till: Till) -> None:
    """The intent fixes amounts, key, exact parameters and an absolute expiry."""
    till.log.tip(percentage=10)
    payment = till.apply(till.request())

    assert payment.status == PAYMENT_STATUS_CREATING
    assert payment.amount == money(1430, "USD")
    assert payment.tip_amount == money(130, "USD")
    assert payment.request.key == "p1:create:1"
    assert payment.request.parameters == b"p1"
    assert payment.expires_at.ToNanoseconds() == till.log.now_ns + 1800 * 10**9
    assert (payment.number, payment.through_line) == (1, 1)
    assert till.log.session.payment.status == TAB_STATUS_PROCESSING


def test_an_open_payment_for_the_same_amount_is_joined(till: Till) -> None:
    """Nothing is recorded while a payment asks for just what is owed."""
    till.open()

    assert till.request("p2") is None


@pytest.mark.parametrize("how", ["superseded", "canceled"])
def test_a_link_that_is_being_withdrawn_is_resolved_first(till: Till, how: str) -> None:
    """Two payable links never exist."""
    till.open()
    if how == "superseded":
        till.log.add("water")
    else:
        till.cancel("p1")

    with pytest.raises(PreviousPaymentUnresolved) as refused:
        till.request("p2")

    assert refused.value.metadata["payment_id"] == "p1"


def test_nothing_to_pay_is_refused(log: Any) -> None:
    """An empty tab makes no payment."""
    with pytest.raises(NothingToPay):
        Till(log).request()


def test_the_provider_bounds_the_amount(log: Any) -> None:
    """An amount below the provider's minimum is refused, and the nearest that it takes named."""
    log.add("dime")

    with pytest.raises(AmountOutOfRange) as refused:
        Till(log).request()

    assert refused.value.message.startswith("the provider cannot charge 0.10 USD, but 0.50 USD")
    assert status_of(refused.value.reason) == "FAILED_PRECONDITION"
    assert refused.value.metadata == {
        "amount": "10",
        "nearest": "50",
        "minimum": "50",
        "maximum": "99999999",
        "step": "1",
        "currency": "USD",
    }


def test_an_unavailable_provider_refuses_new_payments_only(till: Till) -> None:
    """Joining an open payment needs no provider."""
    down = dataclasses.replace(TERMS, refusal=StripeUnavailable("down"))

    with pytest.raises(StripeUnavailable):
        till.request(terms=down)
    till.open()

    assert till.request("p2", down) is None


def test_credit_pays_and_the_rest_is_asked_for(till: Till) -> None:
    """Credit is subtracted from the amount and used up by the settlement."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    till.log.add("martini")
    till.log.add("water")
    payment = till.open("p2")
    till.hear("p2", S.PAID)

    assert payment.credit_applied == money(1300, "USD")
    assert payment.amount == money(100, "USD")
    assert (till.log.tab, till.credit) == (0, 0)
    till.check()


def test_what_credit_covers_wholly_is_settled_at_once(till: Till) -> None:
    """No provider is asked for nothing; the method says that credit paid."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    till.log.add("daiquiri")
    payment = till.apply(till.request("p2"))

    assert payment.status == PAYMENT_STATUS_SUCCEEDED
    assert (payment.method, payment.provider) == (PAYMENT_METHOD_CREDIT, "house")
    assert (till.log.tab, till.credit) == (0, 300)
    till.check()


# --- provider facts -------------------------------------------------------------------------------


STATUSES = {
    S.UNKNOWN: PAYMENT_STATUS_OUTCOME_UNKNOWN,
    S.OPEN: PAYMENT_STATUS_OPEN,
    S.PROCESSING: PAYMENT_STATUS_PROCESSING,
    S.PAID: PAYMENT_STATUS_SUCCEEDED,
    S.FAILED: PAYMENT_STATUS_FAILED,
    S.EXPIRED: PAYMENT_STATUS_EXPIRED,
    S.CANCELED: PAYMENT_STATUS_CANCELED,
}
ENDS = (S.FAILED, S.EXPIRED, S.CANCELED)
LEGAL = {
    None: set(S),
    S.UNKNOWN: set(S) - {S.UNKNOWN},
    S.OPEN: {S.PROCESSING, S.PAID, *ENDS},
    S.PROCESSING: {S.PAID, *ENDS},
    S.FAILED: {S.PAID},
    S.EXPIRED: {S.PAID},
    S.CANCELED: {S.PAID},
    S.PAID: set(),
}


@pytest.mark.parametrize("then", list(S))
@pytest.mark.parametrize("first", [None, *S])
def test_a_payment_moves_forward_only_but_for_late_money(
    till: Till, first: ProviderStatus | None, then: ProviderStatus
) -> None:
    """Every pair of facts either moves the payment as the table says or changes nothing."""
    till.apply(till.request())
    if first is not None:
        till.hear("p1", first)
    event = till.says("p1", then)

    if then in LEGAL[first]:
        assert till.apply(event).status == STATUSES[then]
    else:
        assert event is None
    till.check()


def test_settlement_empties_the_tab_and_marks_what_is_covered(till: Till) -> None:
    """The tab falls by its part, the tip is cleared, and the watermark rises."""
    till.log.tip(percentage=20)
    till.open()
    payment = till.hear("p1", S.PAID)
    session = till.log.session

    assert (till.log.tab, till.log.tip_amount, till.credit) == (0, 0, 0)
    assert session.paid_through_line == 1
    assert session.payment.status == TAB_STATUS_COMPLETED
    assert (payment.method, payment.url) == (PAYMENT_METHOD_PROVIDER, "")
    assert session.ledger.tips == 260
    till.check()


def test_what_was_ordered_after_the_link_stays_on_the_tab(till: Till) -> None:
    """A payment settles what it was for and nothing else."""
    till.open()
    till.log.add("water")
    till.hear("p1", S.PAID)

    assert (till.log.tab, till.log.session.paid_through_line) == (100, 1)
    assert till.log.session.payment.status == TAB_STATUS_PENDING


def test_money_for_what_was_taken_off_is_credit(till: Till) -> None:
    """Excess stands as credit, and a person is called."""
    till.log.add("water")
    till.open()
    till.log.remove(1)
    payment = till.hear("p1", S.PAID)

    assert (till.log.tab, till.credit) == (0, 1300)
    assert payment.attention == till.log.session.attention == ATTENTION_OVERPAID
    till.check()


def test_late_money_for_what_another_payment_covered_is_credit(till: Till) -> None:
    """A link that was dead to us and is paid nevertheless never pays a newer tab by surprise."""
    till.open("p1")
    till.hear("p1", S.EXPIRED)
    till.open("p2")
    till.hear("p2", S.PAID)
    till.log.add("water")
    late = till.hear("p1", S.PAID)

    assert late.attention == ATTENTION_OVERPAID
    assert (till.log.tab, till.credit) == (100, 1300)
    assert till.log.session.latest_payment.payment_id == "p2"
    assert till.log.session.paid_through_line == 1
    till.check()


def test_late_money_supersedes_the_link_that_took_its_place(till: Till) -> None:
    """Once the older payment settles the tab, the newer link asks for too much."""
    till.open("p1")
    till.hear("p1", S.EXPIRED)
    till.open("p2")
    till.hear("p1", S.PAID)
    payment = till.apply(payments.supersede(till.log.session, 0))

    assert till.log.tab == 0
    assert (payment.payment_id, payment.superseded) == ("p2", True)
    assert payments.supersede(till.log.session, 0) is None


def test_a_payment_of_an_earlier_life_leaves_the_new_tab_alone(till: Till) -> None:
    """After a reset, money of before is credit."""
    till.open()
    till.hear("p1", S.EXPIRED)
    till.log.apply(sessions.reset(till.log.session, "gone", staff=True))
    till.log.add("water")
    till.log.tip(amount=money(50, "USD"))
    payment = till.hear("p1", S.PAID)

    assert payment.attention == ATTENTION_OVERPAID
    assert (till.log.tab, till.log.tip_amount, till.credit) == (100, 50, 1300)
    till.check()


@pytest.mark.parametrize(
    "wrong", [{"minor_units": 1}, {"minor_units": 2600}, {"currency": "EUR"}], ids=str
)
def test_another_amount_or_currency_settles_nothing(till: Till, wrong: dict[str, Any]) -> None:
    """A mismatch waits for a person; a stale fact does not hide it."""
    till.open()
    payment = till.hear("p1", S.PAID, **wrong)

    assert payment.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
    assert payment.attention == till.log.session.attention == ATTENTION_AMOUNT_MISMATCH
    assert (till.log.tab, till.credit) == (1300, 0)
    assert till.log.session.payment.needs_reconciliation
    for status in (S.OPEN, S.EXPIRED):
        assert till.says("p1", status) is None


def test_staff_settles_a_mismatch_with_what_was_received(till: Till) -> None:
    """The rest stays owed, and the provider's word does not count a second time."""
    till.open()
    till.hear("p1", S.PAID, minor_units=1000)
    payment = till.apply(till.by_hand("p1"))

    assert payment.received_amount == money(1000, "USD")
    assert payment.method == PAYMENT_METHOD_PROVIDER
    assert till.log.session.attention == ATTENTION_UNSPECIFIED
    assert till.log.tab == 300
    assert till.says("p1", S.PAID, minor_units=1000) is None
    till.check()


@pytest.mark.parametrize(
    "foreign", [{"payment_id": "other"}, {"provider_payment_id": "x-other"}], ids=str
)
def test_a_fact_about_another_payment_is_ignored(till: Till, foreign: dict[str, Any]) -> None:
    """The fence: a payment hears only what is said about itself."""
    till.open()

    assert till.says("p1", S.PAID, **foreign) is None


def test_an_expiry_that_was_asked_for_is_a_cancellation(till: Till) -> None:
    """CANCELED is entered only when the provider has withdrawn the link."""
    till.open()
    asked = till.cancel("p1")
    after = till.hear("p1", S.EXPIRED)

    assert (asked.status, asked.cancel_requested) == (PAYMENT_STATUS_OPEN, True)
    assert (after.status, after.reason) == (PAYMENT_STATUS_CANCELED, "changed my mind")
    assert payments.request_cancel(till.log.session, after, "again") is None


def test_a_guest_who_is_faster_than_the_cancellation_has_paid(till: Till) -> None:
    """A payment that is paid while it is being withdrawn has succeeded."""
    till.open()
    till.cancel("p1")

    assert till.hear("p1", S.PAID).status == PAYMENT_STATUS_SUCCEEDED


def test_a_dispute_is_flagged_and_rewrites_nothing(till: Till) -> None:
    """History stays; a person is called."""
    till.open()
    till.hear("p1", S.PAID)
    payment = till.hear("p1", S.PAID, disputes=(ProviderDispute("dp", DisputeState.OPEN),))

    assert (payment.disputed, payment.attention) == (True, ATTENTION_DISPUTED)
    assert payment.status == PAYMENT_STATUS_SUCCEEDED
    assert till.log.tab == 0


def test_a_person_is_called_when_the_outcome_stays_unknown(till: Till) -> None:
    """The flag goes when the outcome is known."""
    till.apply(till.request())
    till.hear("p1", S.UNKNOWN)
    till.apply(payments.flag_unknown(till.log.session, till.stored("p1"), 0))
    flagged = till.log.session.attention
    till.hear("p1", S.OPEN)

    assert flagged == ATTENTION_OUTCOME_UNKNOWN
    assert till.log.session.attention == ATTENTION_UNSPECIFIED


# --- by hand --------------------------------------------------------------------------------------


def test_staff_settles_the_whole_tab_in_one_event(till: Till) -> None:
    """Without a payment, cash makes and settles one."""
    till.log.tip(percentage=10)
    payment = till.apply(till.by_hand())

    assert (payment.provider, payment.method) == ("house", PAYMENT_METHOD_CASH)
    assert payment.received_amount == money(1430, "USD")
    assert till.log.tab == 0
    assert till.log.session.ledger.tips == 130
    till.check()


def test_an_open_link_must_be_dead_before_other_money_is_taken(till: Till) -> None:
    """By hand or not, two ways to pay the same never stand open."""
    till.open()

    for name in ("", "p1"):
        with pytest.raises(PaymentOpen):
            till.by_hand(name)


def test_a_dead_payment_is_completed_by_hand_once(till: Till) -> None:
    """The same word again changes nothing; another one is refused."""
    till.open()
    till.hear("p1", S.EXPIRED)
    payment = till.apply(till.by_hand("p1"))

    assert (payment.status, payment.method) == (PAYMENT_STATUS_SUCCEEDED, PAYMENT_METHOD_CASH)
    assert till.by_hand("p1") is None
    with pytest.raises(PaymentSettled):
        till.by_hand("p1", PAYMENT_METHOD_CARD_TERMINAL)


def test_paid_by_hand_and_at_the_provider_counts_both(till: Till) -> None:
    """The second money is credit, once, however often the provider says so."""
    till.open()
    till.hear("p1", S.EXPIRED)
    till.apply(till.by_hand("p1"))
    payment = till.hear("p1", S.PAID)

    assert payment.received_amount == money(2600, "USD")
    assert payment.attention == ATTENTION_OVERPAID
    assert till.credit == 1300
    assert till.says("p1", S.PAID) is None
    till.check()


def test_by_hand_needs_a_reason(till: Till) -> None:
    """Staff says why."""
    with pytest.raises(ReasonRequired):
        payments.complete_by_hand(till.log.session, None, 0, "p1", PAYMENT_METHOD_CASH, "")


def test_without_a_method_only_the_provider_settles(till: Till) -> None:
    """Open is not confirmed, dead is settled otherwise, paid is done."""
    till.open()
    with pytest.raises(PaymentNotConfirmed):
        payments.confirm(till.log.session, till.stored("p1"), None, 0)
    till.hear("p1", S.EXPIRED)
    with pytest.raises(PaymentSettled):
        payments.confirm(till.log.session, till.stored("p1"), None, 0)
    till.hear("p1", S.PAID)

    assert payments.confirm(till.log.session, till.stored("p1"), None, 0) is None


# --- refunds --------------------------------------------------------------------------------------


@pytest.fixture
def paid(till: Till) -> Till:
    """A till whose first payment, of $13.00, has succeeded."""
    till.open()
    till.hear("p1", S.PAID)
    return till


def test_a_refund_counts_as_spent_before_the_provider_is_called(paid: Till) -> None:
    """What is on its way back cannot be given back again."""
    payment = paid.refund("p1", 1000)

    assert payment.refunds[0].status == REFUND_STATUS_PENDING
    assert payment.refunds[0].key == "p1:refund:r1"
    assert payment.refunded_amount == money(1000, "USD")
    assert paid.log.session.ledger.refunded == 1000
    with pytest.raises(RefundExceedsPaid) as refused:
        paid.refund("p1", 301, "r2")
    assert refused.value.metadata["refundable"] == "300"
    assert paid.refund("p1", None, "r2").refunded_amount == money(1300, "USD")


def test_a_failed_refund_no_longer_counts_and_calls_a_person(paid: Till) -> None:
    """A refund may fail even after it went through."""
    paid.refund("p1", 1000)
    for state in (RefundState.SUCCEEDED, RefundState.FAILED, RefundState.SUCCEEDED):
        event = settlement.apply_refund(
            paid.log.session,
            paid.stored("p1"),
            ProviderRefund("re_1", state, 1000, "r1"),
            "poll",
            0,
        )
        if event is not None:
            paid.apply(event)
    payment = paid.stored("p1")

    assert payment.refunds[0].status == REFUND_STATUS_FAILED
    assert payment.refunded_amount.minor_units == 0
    assert payment.attention == ATTENTION_REFUND_FAILED
    assert paid.log.session.ledger.refunded == 0


def test_a_refund_of_excess_takes_the_credit_and_returns_it_if_it_fails(till: Till) -> None:
    """The guest never has the same money twice, nor loses it."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    till.refund("p1", 1000)
    after_refund = till.credit
    till.check()
    news = ProviderRefund("re_1", RefundState.FAILED, 1000, "r1")
    till.apply(settlement.apply_refund(till.log.session, till.stored("p1"), news, "poll", 0))

    assert (after_refund, till.credit) == (300, 1300)
    till.check()


def test_cash_is_given_back_by_hand(till: Till) -> None:
    """No provider is asked for money that it never had."""
    till.apply(till.by_hand())
    payment = till.refund("hand")

    assert payment.refunds[0].status == REFUND_STATUS_SUCCEEDED
    assert refunds.pending_refunds(payment) == []


def test_only_received_money_is_refunded(till: Till) -> None:
    """An open payment has nothing to give back."""
    till.open()

    with pytest.raises(PaymentNotConfirmed):
        till.refund("p1")


def test_a_refund_made_at_the_provider_is_recorded(paid: Till) -> None:
    """Staff may use the provider's own page."""
    news = ProviderRefund("re_9", RefundState.SUCCEEDED, 500)
    payment = paid.hear("p1", S.PAID, refunds=(news,))

    assert payment.refunded_amount == money(500, "USD")
    assert paid.says("p1", S.PAID, refunds=(news,)) is None


# --- odds and ends --------------------------------------------------------------------------------


def test_reconciling_records_why_and_ends_the_attention(till: Till) -> None:
    """A person has looked."""
    till.open()
    till.log.remove(1)
    payment = till.hear("p1", S.PAID)
    after = till.apply(
        payments.reconcile(till.log.session, payment, None, "looked at the bank", till.log.now_ns)
    )

    assert (after.reason, after.attention) == ("looked at the bank", ATTENTION_UNSPECIFIED)
    assert till.log.session.attention == ATTENTION_UNSPECIFIED


def test_a_new_attempt_has_a_new_key_and_the_same_parameters(till: Till) -> None:
    """Only the attempt that is given up makes a new one."""
    till.apply(till.request())
    till.hear("p1", S.UNKNOWN, provider_payment_id="")
    after = till.apply(payments.new_attempt(till.log.session, till.stored("p1"), 1))

    assert (after.request.key, after.request.parameters) == ("p1:create:2", b"p1")
    assert payments.new_attempt(till.log.session, after, 1) is None


def test_a_session_without_payments_has_none_to_find(log: Any) -> None:
    """Also where no id is given."""
    with pytest.raises(PaymentNotFound):
        changes.find_payment(log.session, "")


# --- properties -----------------------------------------------------------------------------------

HISTORIES = [
    (S.OPEN, S.PAID),
    (S.OPEN, S.PROCESSING, S.PAID),
    (S.OPEN, S.PROCESSING, S.FAILED),
    (S.OPEN, S.EXPIRED),
    (S.OPEN, S.EXPIRED, S.PAID),
    (S.OPEN, S.FAILED, S.PAID),
]


@given(data=st.data(), history=st.sampled_from(HISTORIES))
def test_order_and_repetition_of_facts_do_not_matter(
    data: st.DataObject, history: tuple[ProviderStatus, ...], new_log: Callable[..., Any]
) -> None:
    """Whatever is delivered late, twice or before its time, the end is the history's end."""

    def run(facts: list[ProviderStatus]) -> Any:
        till = Till(new_log())
        till.log.add("martini")
        till.apply(till.request())
        for fact in facts:
            till.hear("p1", fact)
            till.check()
        session = till.log.session
        session.ClearField("version")
        session.payment.ClearField("version")
        return session

    facts = data.draw(st.lists(st.sampled_from([*history, S.UNKNOWN]), max_size=8))
    shuffled = data.draw(st.permutations([*facts, *history]))

    assert run(list(shuffled)) == run(list(history))


STEPS = st.sampled_from(
    ["add", "remove", "tip", "create", "cancel", "hand", "refund", "refund_fails", "supersede"]
)


@given(data=st.data(), length=st.integers(1, 25))
def test_money_is_conserved_whatever_happens(
    data: st.DataObject, length: int, new_log: Callable[..., Any]
) -> None:
    """Facts about any payment and commands in any order: the ledger explains every cent."""
    till = Till(new_log())
    till.log.add("martini")
    received: dict[str, int] = {}
    for number in range(length):
        name = data.draw(st.sampled_from(sorted(till.payments))) if till.payments else ""
        before = {each: till.stored(each).status for each in till.payments}
        try:
            if name and data.draw(st.booleans()):
                till.hear(name, data.draw(st.sampled_from(list(S))))
            else:
                step(till, data.draw(STEPS), name, f"p{number}")
        except MaitredError:
            pass
        till.check()
        for each, status in before.items():
            now = till.stored(each).status
            assert settlement.RANK[now] >= settlement.RANK[status]
        received = {each: till.stored(each).received_amount.minor_units for each in till.payments}
        unsettled = [each for each in till.payments if till.stored(each).status in UNSETTLED]
        assert len(unsettled) <= 1
    assert till.log.session.ledger.received == sum(received.values())
    assert till.log.fold() == till.log.session


def step(till: Till, kind: str, name: str, new: str) -> None:
    """Do one thing."""
    match kind:
        case "add":
            till.log.add("daiquiri")
        case "remove" if till.log.session.order.lines:
            till.log.remove(till.log.session.order.lines[-1].line_number)
        case "tip":
            till.log.tip(amount=money(len(till.log.events), "USD"))
        case "create":
            event = till.request(new)
            if event is not None:
                till.apply(event)
        case "cancel" if name:
            till.cancel(name)
        case "hand":
            event = till.by_hand(new=new)
            if event is not None:
                till.apply(event)
        case "refund" if name:
            till.refund(name, 100, f"r-{new}")
        case "refund_fails" if name and till.stored(name).refunds:
            refund = till.stored(name).refunds[-1]
            news = ProviderRefund("", RefundState.FAILED, 0, refund.refund_id)
            event = settlement.apply_refund(
                till.log.session, till.stored(name), news, "poll", till.log.now_ns
            )
            if event is not None:
                till.apply(event)
        case "supersede":
            event = payments.supersede(till.log.session, 0)
            if event is not None:
                till.apply(event)
