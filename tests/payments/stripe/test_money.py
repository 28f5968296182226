"""The failures that payment systems die of, with Stripe at the far end: what money does.

The numbers are those of the list that this server was built from; 1 to 16 are in
`test_creating.py` and `test_news.py`, those of the server as a whole, from
28 on, in `test_server.py`.
"""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.payments.conftest import STAFF, call, usd
from tests.support.stripe import StripeBar

from maitred.server.errors import (
    NothingToPay,
    PaymentNotConfirmed,
    PaymentSettled,
    PermissionDenied,
    PreviousPaymentUnresolved,
)
from maitred.server.kinds.tables import Table
from maitred.server.payments.inbox import UNMATCHED
from maitred.server.stores.base import RowFilter
from maitred.server.testing.fakestripe import FakeStripe
from maitred.server.testing.providers import new_payment
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OVERPAID,
    ATTENTION_UNSPECIFIED,
    PAYMENT_METHOD_CASH,
    PAYMENT_STATUS_CANCELED,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
)

# --- 17, 18, 19, 20: the life of a link -----------------------------------------------------------


async def test_s17_money_that_came_before_the_link_died_counts_whenever_it_is_heard_of(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Our own clock, at the time when the news is worked on, decides nothing."""
    payment = (await bar.create()).payment
    bar.clock.advance(2099)
    fake.account.pay(payment.provider_payment_id)
    bar.clock.advance(299)
    await bar.deliver()

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


async def test_s17_money_after_the_end_still_counts(bar: StripeBar, fake: FakeStripe) -> None:
    """An expired payment is asked about again after a minute, for money that was under way."""
    payment = (await bar.create()).payment
    await bar.poll(2100)
    dead = await bar.payment()
    bar.revive(payment)
    fake.account.pay(payment.provider_payment_id)
    polled = await bar.poll(61)

    assert (dead.status, dead.url) == (PAYMENT_STATUS_EXPIRED, "")
    assert polled == 1
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


async def test_s18_a_guest_who_is_faster_than_the_cancellation_has_paid(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Stripe refuses to expire what is complete, and then it is asked what became of it."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    canceled = (await bar.cancel()).payment

    assert fake.calls["sessions.expire"] == 1
    assert canceled.status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


@pytest.mark.parametrize("fault", ["dropped", "error_503", "rate_limited"])
async def test_s19_a_payment_is_canceled_only_when_the_link_is_dead(
    bar: StripeBar, fake: FakeStripe, fault: str
) -> None:
    """While Stripe does not say so it is waiting; then it is done without being asked again."""
    await bar.create()
    fake.script("sessions.expire", fault)
    waiting = (await bar.cancel()).payment
    alive = len(bar.sessions("open"))
    await bar.poll(30)
    payment = await bar.payment()

    assert (waiting.status, waiting.cancel_requested, alive) == (PAYMENT_STATUS_OPEN, True, 1)
    assert (payment.status, payment.reason) == (PAYMENT_STATUS_CANCELED, "no")
    assert bar.sessions("open") == []


async def test_s19_a_cancellation_whose_answer_was_lost_has_happened(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The second try finds the link dead."""
    await bar.create()
    fake.script("sessions.expire", "dropped_after")
    await bar.cancel()
    await bar.poll(30)

    assert (await bar.payment()).status == PAYMENT_STATUS_CANCELED


async def test_s17_a_link_past_its_time_is_not_handed_out_again(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Whoever asks between its death and the next poll gets a new one, or what was paid."""
    first = (await bar.create()).payment
    bar.clock.advance(first.expires_at.seconds - bar.clock.now_ns() // 10**9)
    second = (await bar.create()).payment
    bar.clock.advance(second.expires_at.seconds - bar.clock.now_ns() // 10**9 - 1)
    fake.account.pay(second.provider_payment_id)
    bar.clock.advance(2)
    with pytest.raises(NothingToPay):
        await bar.create()

    assert second.payment_id != first.payment_id
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_EXPIRED
    assert (await bar.session()).ledger.received == 1300


async def test_s20_a_changed_tab_makes_a_new_link_once_the_old_one_is_dead(
    bar: StripeBar,
) -> None:
    """The order never waits for Stripe, and one link is payable at any time."""
    first = (await bar.create()).payment
    await bar.order(700)
    second = (await bar.create()).payment

    assert second.amount == usd(2000)
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_EXPIRED
    assert [each["id"] for each in bar.sessions("open")] == [second.provider_payment_id]


async def test_s20_an_old_link_that_was_paid_is_settled_and_the_rest_charged(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """What the guest has paid is paid."""
    first = (await bar.create()).payment
    fake.account.pay(first.provider_payment_id)
    await bar.order(700)
    second = (await bar.create()).payment

    assert second.amount == usd(700)
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_SUCCEEDED


async def test_s20_while_the_old_link_may_live_there_is_no_new_one(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Two payable links never exist."""
    await bar.create()
    fake.script("sessions.expire", *["error_503"] * 5)
    await bar.order(700)
    with pytest.raises(PreviousPaymentUnresolved):
        await bar.create()

    assert len(bar.sessions()) == 1


# --- 21, 22, 23, 24, 25: who gets what ------------------------------------------------------------


async def test_s21_cash_and_card_for_the_same_tab_are_both_kept(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The second money is credit, and a person is called."""
    payment = (await bar.create()).payment
    await bar.complete(method=PAYMENT_METHOD_CASH, reason="cash")
    dead = bar.sessions("open")
    bar.revive(payment)
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()
    session = await bar.session()

    assert dead == []
    assert session.payment.credit == usd(1300)
    assert session.attention == ATTENTION_OVERPAID
    assert (session.ledger.received, session.ledger.settled) == (2600, 1300)


async def test_s21_credit_pays_the_next_round(bar: StripeBar, fake: FakeStripe) -> None:
    """Late money of a link whose tab somebody has paid for since is not asked for again."""
    first = (await bar.create()).payment
    await bar.cancel()
    await bar.paid()
    bar.revive(first)
    fake.account.pay(first.provider_payment_id)
    await bar.deliver()
    late = await bar.session()
    await bar.order(1500)
    rest = (await bar.create()).payment

    assert (late.payment.credit, late.attention) == (usd(1300), ATTENTION_OVERPAID)
    assert (rest.amount, rest.credit_applied) == (usd(200), usd(1300))


async def test_s22_another_amount_waits_for_a_person(bar: StripeBar, fake: FakeStripe) -> None:
    """Nothing is settled, no other link is made, and staff decides."""
    payment = (await bar.create()).payment
    fake.account.change_amount(payment.provider_payment_id, 1000)
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()
    waiting = await bar.session()
    await bar.order(100)
    asked = await bar.create()
    await bar.complete(
        payment_id=payment.payment_id, method=PAYMENT_METHOD_CASH, reason="a discount"
    )
    after = await bar.session()

    assert asked.payment.payment_id == payment.payment_id
    assert asked.next_action.kind == pb.NEXT_ACTION_KIND_CALL_STAFF
    assert waiting.attention == ATTENTION_AMOUNT_MISMATCH
    assert waiting.payment.tab_total == usd(1300)
    assert waiting.latest_payment.received_amount == usd(1000)
    assert (after.payment.tab_total, after.ledger.received) == (usd(400), 1000)


async def test_s22_another_currency_settles_nothing(bar: StripeBar, fake: FakeStripe) -> None:
    """The same number of cents of something else is no payment."""
    payment = (await bar.create()).payment
    fake.account.tables["cs"][payment.provider_payment_id]["currency"] = "eur"
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()
    session = await bar.session()

    assert session.attention == ATTENTION_AMOUNT_MISMATCH
    assert session.payment.tab_total == usd(1300)
    assert session.ledger.received == 0


async def test_s23_money_for_a_payment_that_nobody_knows_is_kept_and_reported(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """It changes no session; it is logged as an error, and the message stays in the inbox."""
    stranger = new_payment(bar.stripe)
    stranger.expires_at.FromNanoseconds(bar.clock.now_ns() + 3600 * 10**9)
    made = await bar.stripe.create(bar.stripe.parameters(stranger), "strange")
    fake.account.pay(made.provider_payment_id)
    *_, event = fake.drain_events()
    with capture_logs() as logs:
        taken = await bar.take(*event)
        await bar.coordinator.inbox.settled_down()
    where = RowFilter(statuses=(UNMATCHED,))
    kept = await bar.engine.store.list_rows(Table.INBOX, where, None, 10)

    assert taken
    assert [each["log_level"] for each in logs if each["event"] == "orphan_payment"] == ["error"]
    assert len(kept) == 1
    assert (await bar.session()).version == 2


async def test_s24_a_tab_is_paid_in_parts(bar: StripeBar) -> None:
    """Each payment settles what it was for; the session orders and pays again."""
    await bar.paid()
    await bar.order(700)
    await bar.paid()
    session = await bar.session()
    with pytest.raises(NothingToPay):
        await bar.create()

    assert (session.ledger.settled, session.payment.tab_total) == (2000, usd(0))


async def test_s25_completing_twice_settles_once(bar: StripeBar, fake: FakeStripe) -> None:
    """Concurrently, with the same request, and by another."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    answers = await asyncio.gather(*(bar.complete(call(), request_id="c1") for _ in range(3)))
    again = await bar.complete(call())

    assert {answer.payment.status for answer in (*answers, again)} == {PAYMENT_STATUS_SUCCEEDED}
    assert (await bar.session()).ledger.received == 1300
    assert await bar.changes("payment_succeeded") == 1


async def test_s25_only_stripe_or_staff_completes(bar: StripeBar) -> None:
    """An open link is no proof, and an agent cannot take cash."""
    await bar.create()
    with pytest.raises(PaymentNotConfirmed):
        await bar.complete(call())
    with pytest.raises(PermissionDenied):
        await bar.complete(call(), method=PAYMENT_METHOD_CASH, reason="cash")

    assert (await bar.payment()).status == PAYMENT_STATUS_OPEN


async def test_s25_cash_is_refused_where_the_guest_has_paid_already(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The link is expired before the cash is taken; who was faster on it is told so."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)

    with pytest.raises(PaymentSettled):
        await bar.complete(STAFF, method=PAYMENT_METHOD_CASH, reason="cash")


# --- 27: disputes ---------------------------------------------------------------------------------


async def test_s27_a_dispute_is_flagged_and_rewrites_nothing(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """A person is called; what was settled stays settled."""
    payment = await bar.paid()
    before = await bar.session()
    fake.account.dispute(payment.provider_payment_id)
    await bar.deliver()
    after = await bar.session()

    assert (after.latest_payment.disputed, after.attention) == (True, ATTENTION_DISPUTED)
    assert after.latest_payment.status == PAYMENT_STATUS_SUCCEEDED
    assert after.ledger == before.ledger
    assert await bar.changes("payment_flagged") == 1


@pytest.mark.parametrize("end", ["won", "lost", "warning_closed"])
async def test_s27_a_dispute_ends_as_the_bank_decides(
    bar: StripeBar, fake: FakeStripe, end: str
) -> None:
    """The charge says for ever that it was disputed; the dispute says what became of it."""
    payment = await bar.paid()
    made = fake.account.dispute(payment.provider_payment_id)
    await bar.deliver()
    fake.account.end_dispute(made["id"], end)
    await bar.deliver()
    after = await bar.session()

    assert (after.latest_payment.disputed, after.attention) == (False, ATTENTION_UNSPECIFIED)
    assert after.ledger.refunded == (1300 if end == "lost" else 0)


async def test_s27_a_dispute_over_the_wrong_amount_still_waits_for_a_decision(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """However often Stripe repeats both: what was received is not settled, and not forgotten."""
    payment = (await bar.create()).payment
    fake.account.change_amount(payment.provider_payment_id, 1000)
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()
    fake.account.dispute(payment.provider_payment_id)
    await bar.deliver()
    disputed = await bar.payment()
    await bar.check()

    assert (disputed.disputed, disputed.attention) == (True, ATTENTION_AMOUNT_MISMATCH)
    assert await bar.payment() == disputed


async def test_the_fold_of_the_log_is_the_state(bar: StripeBar, fake: FakeStripe) -> None:
    """After everything that can happen to payments of one session."""
    first = (await bar.create()).payment
    await bar.order(700)
    await bar.cancel()
    second = await bar.paid()
    bar.revive(first)
    fake.account.pay(first.provider_payment_id)
    await bar.deliver()
    await bar.refund(second, 300)
    fake.account.dispute(second.provider_payment_id)
    await bar.deliver()
    report = await bar.engine.verify((await bar.engine.session("s1")).ref)
    session = await bar.session()

    assert list(report.violations) == []
    assert (session.ledger.received, session.ledger.refunded) == (3300, 300)
