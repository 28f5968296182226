"""The failures that payment systems die of, each with the behaviour that is right for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.payments.conftest import STAFF, Bar, call, usd

from maitred.server.domain.snapshots import RefundState
from maitred.server.errors import (
    NothingToPay,
    PaymentFailed,
    PaymentNotConfirmed,
    PaymentNotFound,
    PaymentSettled,
    PermissionDenied,
    PreviousPaymentUnresolved,
    RateLimited,
    StripeUnavailable,
)
from maitred.server.payments import simulated
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.provider import Notice
from maitred.server.stores import create_store
from maitred.server.testing.providers import new_payment
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_OUTCOME_UNKNOWN,
    ATTENTION_OVERPAID,
    PAYMENT_METHOD_CASH,
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
)


def script(bar: Bar, **steps: list[str]) -> None:
    """Script the provider's next calls."""
    bar.provider._script = {
        name: ["ok"] * bar.provider.books.counted(name, 0) + list(value)
        for name, value in steps.items()
    }


async def cancel(bar: Bar, payment_id: str = "") -> Any:
    """Cancel a payment."""
    request = pb.CancelPaymentRequest(session_id="s1", payment_id=payment_id, reason="no")
    reply = await bar.service.CancelPayment(request, call())
    return pb.CancelPaymentResponse.FromString(reply).payment


async def complete(bar: Bar, by: Any = STAFF, **fields: Any) -> pb.CompletePaymentResponse:
    """Complete a payment."""
    request = pb.CompletePaymentRequest(session_id="s1", **fields)
    return pb.CompletePaymentResponse.FromString(await bar.service.CompletePayment(request, by))


async def refund(bar: Bar, payment_id: str, **fields: Any) -> pb.RefundPaymentResponse:
    """Refund a payment."""
    request = pb.RefundPaymentRequest(
        session_id="s1", payment_id=payment_id, reason="cold", **fields
    )
    return pb.RefundPaymentResponse.FromString(await bar.service.RefundPayment(request, STAFF))


async def reconcile(bar: Bar, payment_id: str, **fields: Any) -> pb.ReconcilePaymentResponse:
    """Reconcile a payment."""
    request = pb.ReconcilePaymentRequest(
        session_id="s1", payment_id=payment_id, reason="looked", **fields
    )
    return pb.ReconcilePaymentResponse.FromString(
        await bar.service.ReconcilePayment(request, STAFF)
    )


# --- 1, 2, 3, 4, 5, 6: creating -------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["timeout_before", "timeout_after"])
async def test_01_a_lost_answer_is_a_state_and_the_same_key_resolves_it(
    bar: Bar, lost: str
) -> None:
    """The outcome is unknown, never an exception, and never asked with a new key."""
    script(bar, create=[lost])
    unknown = (await bar.create()).payment
    await bar.poll(3)
    payment = await bar.payment()

    assert unknown.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
    assert (await bar.session()).payment.payment_id == payment.payment_id == unknown.payment_id
    assert payment.status == PAYMENT_STATUS_OPEN
    assert payment.request.attempt == 1
    assert len(simulated.unpaid(bar.books, clock=bar.clock)) == 1


async def test_01_a_cancelled_call_stops_waiting_and_nothing_else(bar: Bar) -> None:
    """The work belongs to the payment, not to who asked for it."""
    gate = bar.provider.gates["create"] = asyncio.Event()
    asking = asyncio.create_task(bar.create())
    while not len(bar.coordinator._poller):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    payment = (await bar.create()).payment

    assert payment.status == PAYMENT_STATUS_OPEN
    assert await bar.provider.calls("create") == 1


async def test_02_a_crash_between_call_and_record_leads_to_the_same_link(bar: Bar) -> None:
    """A new process sends the stored key and parameters again: one session, same link."""
    bar.provider.gates["create"] = asyncio.Event()
    asking = asyncio.create_task(bar.create())
    while not len(bar.coordinator._poller):
        await asyncio.sleep(0)
    intent = await bar.payment()
    # The provider has done it; the process dies before it hears so.
    made = await asyncio.to_thread(
        bar.provider.books.create,
        intent.request.parameters,
        intent.request.key,
        bar.clock.now_ns(),
        "manual",
        0,
    )
    asking.cancel()
    for job in list(bar.coordinator._jobs._jobs.values()):
        assert job.task is not None
        job.task.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert intent.status == PAYMENT_STATUS_CREATING
    await bar.restart()
    await bar.coordinator.poll_due()
    payment = (await bar.create()).payment

    assert (payment.payment_id, payment.url) == (intent.payment_id, made.url)
    assert len(simulated.unpaid(bar.books, clock=bar.clock)) == 1


async def test_03_the_same_request_is_answered_with_the_same_payment(bar: Bar) -> None:
    """A retry gets its event again and the payment as it is now."""
    first = await bar.create(request_id="r1")
    bar.pay(first.payment)
    await bar.hear()
    again = await bar.create(request_id="r1")

    assert again.replayed
    assert again.event == first.event
    assert first.event.HasField("payment_requested")
    assert again.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert again.session.version > first.session.version


async def test_04_concurrent_requests_join_one_payment(bar: Bar) -> None:
    """Two agents that ask at once get one link, from one call of the provider."""
    gate = bar.provider.gates["create"] = asyncio.Event()
    asking = [asyncio.create_task(bar.create()) for _ in range(5)]
    while not len(bar.coordinator._poller):
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*asking)

    assert len({answer.payment.url for answer in answers}) == 1
    assert all(answer.payment.status == PAYMENT_STATUS_OPEN for answer in answers)
    assert await bar.provider.calls("create") == 1


async def test_05_a_breakdown_that_is_kept_for_its_key_leads_to_a_new_attempt(bar: Bar) -> None:
    """Only when the provider has answered so again and again, and holds nothing of ours."""
    script(bar, create=["error_500_kept"])
    await bar.create()
    for _ in range(4):
        await bar.poll(10)
    payment = await bar.payment()

    assert payment.status == PAYMENT_STATUS_OPEN
    assert payment.request.attempt == 2
    assert payment.request.key == f"{payment.payment_id}:create:2"
    assert len(simulated.unpaid(bar.books, clock=bar.clock)) == 1


async def test_05_a_breakdown_after_the_work_was_done_makes_no_second_link(bar: Bar) -> None:
    """What the provider made after all is found under our id."""
    script(bar, create=["error_500_after"])
    await bar.create()
    await bar.poll(3)

    assert (await bar.payment()).request.attempt == 1
    assert len(simulated.unpaid(bar.books, clock=bar.clock)) == 1


async def test_06_too_many_requests_keep_the_intent(bar: Bar) -> None:
    """The caller is told to come back; coming back goes on with the same payment."""
    script(bar, create=["rate_limited"])
    with pytest.raises(RateLimited):
        await bar.create(request_id="r1")
    kept = await bar.payment()
    payment = (await bar.create(request_id="r1")).payment

    assert kept.status == PAYMENT_STATUS_CREATING
    assert (payment.payment_id, payment.status) == (kept.payment_id, PAYMENT_STATUS_OPEN)


async def test_a_refusal_of_the_provider_is_final_for_its_payment(bar: Bar) -> None:
    """The next request makes a new payment."""
    script(bar, create=["rejected"])
    for _ in range(2):
        with pytest.raises(PaymentFailed):
            await bar.create(request_id="r1")
    payment = (await bar.create()).payment

    assert (payment.number, payment.status) == (2, PAYMENT_STATUS_OPEN)


# --- 7, 8, 9, 10, 11: hints -----------------------------------------------------------------------


async def test_07_duplicated_hints_settle_once(bar: Bar) -> None:
    """However often, and at once: the money counts once."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    hints = [Notice(f"evt_{n % 3}", "paid", payment.provider_payment_id) for n in range(6)]
    taken = await asyncio.gather(
        *(bar.coordinator.inbox.receive("simulated", hint) for hint in hints)
    )
    await bar.coordinator.inbox.settled_down()
    await bar.hear()
    session = await bar.session()

    assert sorted(taken) == [False] * 3 + [True] * 3
    assert session.latest_payment.status == PAYMENT_STATUS_SUCCEEDED
    assert session.ledger.received == 1300
    assert session.payment.status == TAB_STATUS_COMPLETED


async def test_08_hints_out_of_order_lead_to_the_present(bar: Bar) -> None:
    """A hint carries nothing but a name: the provider is asked how it is now."""
    bar.provider._reverse_notices = bar.provider._duplicate_notices = True
    payment = (await bar.create()).payment
    simulated.decline(bar.books, payment.url, clock=bar.clock)
    simulated.pay_slowly(bar.books, payment.url, clock=bar.clock)
    bar.pay(payment)
    await bar.hear()

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_09_a_hint_before_the_id_is_recorded_finds_its_payment(bar: Bar) -> None:
    """By our own id, which the provider was given."""
    script(bar, create=["timeout_after"])
    unknown = (await bar.create()).payment
    made = bar.provider.books.find(unknown.payment_id, bar.clock.now_ns())
    assert made is not None
    simulated.pay(bar.books, made.provider_payment_id, clock=bar.clock)
    await bar.hear()

    assert unknown.provider_payment_id == ""
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_10_without_any_hint_polling_finds_out(bar: Bar) -> None:
    """The endpoint may be down for ever."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    early = await bar.poll(1)
    polled = await bar.poll(2)

    assert (early, polled) == (0, 1)
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_10_questions_become_rarer_and_return_when_the_link_dies(bar: Bar) -> None:
    """2, 3, 5, 8, 13, 20, 30 s and then every minute, never past the expiry."""
    payment = (await bar.create()).payment
    poller, pauses = bar.coordinator._poller, []
    for _ in range(9):
        due_ns = poller.due_ns(payment.payment_id)
        assert due_ns is not None
        pauses.append((due_ns - bar.clock.now_ns()) / 1e9)
        await bar.poll(pauses[-1])

    for pause, nominal in zip(pauses, (2, 3, 5, 8, 13, 20, 30, 60, 60), strict=True):
        assert nominal * 0.9 <= pause <= nominal * 1.1


async def test_11_poll_and_hint_at_once_settle_once(bar: Bar) -> None:
    """Both go through the same reducer; the loser has nothing to say."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    bar.clock.advance(3)
    await asyncio.gather(bar.coordinator.poll_due(), bar.hear(), bar.check(), complete(bar))

    assert (await bar.session()).ledger.received == 1300


# --- 12, 13, 14: storage and restart --------------------------------------------------------------


async def test_12_a_payment_that_could_not_be_recorded_is_found_again(bar: Bar) -> None:
    """Nothing is kept in memory only: after a restart the provider is asked anew."""
    payment = (await bar.create()).payment
    await bar.stop()
    bar.pay(payment)
    if not bar.url.startswith("memory"):
        bar.store = create_store(bar.url)
    bar.build({})
    await bar.start()
    await bar.coordinator.poll_due()

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_13_14_every_open_payment_is_taken_up_after_a_restart(bar: Bar) -> None:
    """Polled at once, and re-armed."""
    await bar.create()
    for number in range(2, 5):
        await bar.seat(1000, f"s{number}")
        await bar.create(f"s{number}")
    await bar.restart()
    polled = await bar.coordinator.poll_due()

    assert polled == len(bar.coordinator._poller) == 4


async def test_14_a_pending_refund_is_taken_up_after_a_restart(bar: Bar) -> None:
    """Recorded before the provider was called, it is asked for again under its key."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    await bar.hear()
    script(bar, refund=["timeout_after"])
    pending = (await refund(bar, payment.payment_id)).refund
    await bar.restart()
    await bar.coordinator.poll_due()
    settled = (await bar.payment()).refunds

    assert pending.status == REFUND_STATUS_PENDING
    assert [each.status for each in settled] == [REFUND_STATUS_SUCCEEDED]
    assert (await bar.session()).ledger.refunded == 1300


# --- 15, 16, 17: how guests pay -------------------------------------------------------------------


async def test_15_a_declined_card_is_no_end(bar: Bar) -> None:
    """The guest tries again on the same link."""
    payment = (await bar.create()).payment
    simulated.decline(bar.books, payment.url, clock=bar.clock)
    await bar.hear()
    between = (await bar.payment()).status
    bar.pay(payment)
    await bar.hear()

    assert between == PAYMENT_STATUS_OPEN
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


@pytest.mark.parametrize("arrives", [True, False])
async def test_16_money_under_way_closes_no_tab(bar: Bar, arrives: bool) -> None:
    """Only money that is there settles."""
    payment = (await bar.create()).payment
    simulated.pay_slowly(bar.books, payment.url, clock=bar.clock)
    await bar.hear()
    between = await bar.session()
    if arrives:
        bar.pay(payment)
    else:
        simulated.decline(bar.books, payment.url, final=True, clock=bar.clock)
    await bar.hear()
    after = await bar.session()

    assert between.latest_payment.status == PAYMENT_STATUS_PROCESSING
    assert between.payment.tab_total == usd(1300)
    assert after.payment.tab_total == usd(0 if arrives else 1300)
    assert after.latest_payment.status == (
        PAYMENT_STATUS_SUCCEEDED if arrives else PAYMENT_STATUS_FAILED
    )


async def test_17_money_under_way_when_the_link_died_still_counts(bar: Bar) -> None:
    """The provider is asked once more after a minute and after ten."""
    payment = (await bar.create()).payment
    await bar.poll(1800)
    dead = await bar.payment()
    simulated.pay(bar.books, payment.url, late=True, clock=bar.clock)
    polled = await bar.poll(61)

    assert dead.status == PAYMENT_STATUS_EXPIRED
    assert polled == 1
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


# --- 18, 19, 20: withdrawing ----------------------------------------------------------------------


async def test_18_a_guest_who_is_faster_than_the_cancellation_has_paid(bar: Bar) -> None:
    """The provider has the last word."""
    await bar.create()
    script(bar, expire=["pay_first"])
    payment = await cancel(bar)

    assert payment.status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


async def test_19_a_payment_is_canceled_only_when_the_link_is_dead(bar: Bar) -> None:
    """While the provider is silent it is waiting; then it is done without being asked again."""
    await bar.create()
    script(bar, expire=["unreachable"])
    waiting = await cancel(bar)
    await bar.poll(30)
    payment = await bar.payment()

    assert (waiting.status, waiting.cancel_requested) == (PAYMENT_STATUS_OPEN, True)
    assert (payment.status, payment.reason) == (PAYMENT_STATUS_CANCELED, "no")
    assert simulated.unpaid(bar.books, clock=bar.clock) == []
    assert (await cancel(bar, payment.payment_id)).status == PAYMENT_STATUS_CANCELED


async def test_20_a_changed_tab_withdraws_its_link_by_itself(bar: Bar) -> None:
    """The order never waits for the provider, and the next payment asks for everything."""
    first = (await bar.create()).payment
    await bar.order(700)
    second = (await bar.create()).payment

    assert second.amount == usd(2000)
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_EXPIRED
    assert [each.url for each in simulated.unpaid(bar.books, clock=bar.clock)] == [second.url]


async def test_20_a_superseded_link_that_was_paid_is_settled_and_the_rest_charged(
    bar: Bar,
) -> None:
    """What the guest has paid is paid."""
    first = (await bar.create()).payment
    bar.pay(first)
    await bar.order(700)
    second = (await bar.create()).payment

    assert second.amount == usd(700)
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_SUCCEEDED


async def test_20_while_the_old_link_may_live_there_is_no_new_one(bar: Bar) -> None:
    """Two payable links never exist."""
    await bar.create()
    script(bar, expire=["unreachable"] * 5)
    await bar.order(700)
    with pytest.raises(PreviousPaymentUnresolved):
        await bar.create()

    assert len(simulated.unpaid(bar.books, clock=bar.clock)) == 1


# --- 21, 22, 24, 25, 26: money --------------------------------------------------------------------


async def test_21_cash_and_card_for_the_same_tab_are_both_kept(bar: Bar) -> None:
    """The second money is credit, and a person is called."""
    payment = (await bar.create()).payment
    await complete(bar, method=PAYMENT_METHOD_CASH, reason="cash")
    simulated.pay(bar.books, payment.url, late=True, clock=bar.clock)
    await bar.hear()
    session = await bar.session()

    assert session.payment.credit == usd(1300)
    assert session.attention == ATTENTION_OVERPAID
    assert session.ledger.received == 2600


async def test_22_another_amount_waits_for_a_person(bar: Bar) -> None:
    """Nothing is settled, no other link is made, and staff decides."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    bar.provider.books.amend(payment.provider_payment_id, "amount", 1000, bar.clock.now_ns())
    await bar.hear()
    waiting = await bar.session()
    await bar.order(100)
    asked = await bar.create()
    await complete(
        bar, payment_id=payment.payment_id, method=PAYMENT_METHOD_CASH, reason="a discount"
    )

    assert asked.payment.payment_id == payment.payment_id
    assert asked.next_action.kind == pb.NEXT_ACTION_KIND_CALL_STAFF
    assert "10.00 USD arrived instead of 13.00 USD" in asked.next_action.text

    assert waiting.attention == ATTENTION_AMOUNT_MISMATCH
    assert waiting.payment.tab_total == usd(1300)
    assert (await bar.session()).payment.tab_total == usd(400)


async def test_23_money_for_a_payment_that_nobody_knows_is_reported(bar: Bar) -> None:
    """It changes no session; it is logged as an error."""
    stranger = new_payment(bar.provider)
    stranger.expires_at.FromNanoseconds(bar.clock.now_ns() + 10**12)
    made = await bar.provider.create(bar.provider.parameters(stranger), "strange")
    simulated.pay(bar.books, made.url, clock=bar.clock)
    with capture_logs() as logs:
        await bar.hear()

    assert [each["log_level"] for each in logs if each["event"] == "orphan_payment"] == ["error"]
    assert (await bar.session()).version == 2


async def test_24_a_tab_is_paid_in_parts(bar: Bar) -> None:
    """Each payment settles what it was for; the session orders and pays again."""
    bar.pay((await bar.create()).payment)
    await bar.hear()
    await bar.order(700)
    bar.pay((await bar.create()).payment)
    await bar.hear()
    session = await bar.session()

    assert (session.ledger.settled, session.payment.tab_total) == (2000, usd(0))
    with pytest.raises(NothingToPay):
        await bar.create()


async def test_25_completing_twice_settles_once(bar: Bar) -> None:
    """Concurrently, with the same request, and by another."""
    bar.pay((await bar.create()).payment)
    answers = await asyncio.gather(*(complete(bar, call(), request_id="c1") for _ in range(3)))
    again = await complete(bar, call())

    assert {answer.payment.status for answer in (*answers, again)} == {PAYMENT_STATUS_SUCCEEDED}
    assert (await bar.session()).ledger.received == 1300


async def test_25_only_the_provider_or_staff_completes(bar: Bar) -> None:
    """An open link is no proof, and an agent cannot take cash."""
    await bar.create()
    with pytest.raises(PaymentNotConfirmed):
        await complete(bar, call())
    with pytest.raises(PermissionDenied):
        await complete(bar, call(), method=PAYMENT_METHOD_CASH, reason="cash")

    assert (await bar.payment()).status == PAYMENT_STATUS_OPEN


async def test_25_the_link_dies_before_cash_is_taken(bar: Bar) -> None:
    """By hand on an open payment: expired at the provider first; not if that is not known."""
    await bar.create()
    script(bar, expire=["unreachable"])
    with pytest.raises(PreviousPaymentUnresolved):
        await complete(bar, method=PAYMENT_METHOD_CASH, reason="cash")
    payment = (await complete(bar, method=PAYMENT_METHOD_CASH, reason="cash")).payment

    assert (payment.number, payment.method) == (1, PAYMENT_METHOD_CASH)
    assert simulated.unpaid(bar.books, clock=bar.clock) == []


async def test_25_cash_is_refused_where_the_guest_has_paid_already(bar: Bar) -> None:
    """Who was faster on the link is told so."""
    await bar.create()
    script(bar, expire=["pay_first"])

    with pytest.raises(PaymentSettled):
        await complete(bar, method=PAYMENT_METHOD_CASH, reason="cash")


async def test_25_cash_without_a_link_is_one_event(bar: Bar) -> None:
    """Also when it is sent again."""
    fields: Any = {"method": PAYMENT_METHOD_CASH, "reason": "cash", "request_id": "c1"}
    first, again = await complete(bar, **fields), await complete(bar, **fields)

    assert first.event.payment_succeeded.payment.provider == "house"
    assert again.replayed
    assert again.event == first.event


async def test_26_a_refund_whose_answer_was_lost_is_made_once(bar: Bar) -> None:
    """Pending, then resolved under the same key."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    await bar.hear()
    script(bar, refund=["timeout_after"])
    first = await refund(bar, payment.payment_id, amount=usd(500), request_id="f1")
    await bar.poll(3)
    again = await refund(bar, payment.payment_id, amount=usd(500), request_id="f1")

    assert first.refund.status == REFUND_STATUS_PENDING
    assert again.refund.status == REFUND_STATUS_SUCCEEDED
    assert again.refund.refund_id == first.refund.refund_id
    assert again.payment.refunded_amount == usd(500)


async def test_26_a_refund_that_fails_later_opens_the_liability_again(bar: Bar) -> None:
    """What the bank sent back can be given back again."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    await bar.hear()
    await refund(bar, payment.payment_id)
    bar.provider.books.settle_refunds(
        payment.provider_payment_id, RefundState.FAILED, "account closed", 0
    )
    await bar.hear()
    after = await bar.payment()

    assert after.refunds[0].status == REFUND_STATUS_FAILED
    assert after.refunded_amount == usd(0)


# --- 30, 31: the provider itself ------------------------------------------------------------------


async def test_30_an_unhealthy_provider_keeps_what_is_open_and_refuses_what_is_new(
    bar: Bar,
) -> None:
    """There is no silent fallback, and nothing is recorded."""
    await bar.seat(900, "s2")
    kept = (await bar.create()).payment
    bar.clock.advance(31)
    script(bar, probe=["unreachable"], retrieve=["unreachable"] * 3)
    with pytest.raises(StripeUnavailable):
        await bar.create("s2")
    with pytest.raises(PaymentNotFound):
        await bar.payment(name="s2")
    checked = await bar.check()
    health = await bar.coordinator.health()
    bar.clock.advance(31)

    assert (await bar.create()).payment.url == kept.url
    assert checked.payment.status == PAYMENT_STATUS_OPEN
    assert (health.available, health.is_simulated) == (False, True)
    assert (await bar.create("s2")).payment.status == PAYMENT_STATUS_OPEN


async def test_31_simulated_payments_say_so(bar: Bar) -> None:
    """In the payment, in its provider and in its link."""
    payment = (await bar.create()).payment

    assert (payment.is_simulated, payment.provider) == (True, "simulated")
    assert payment.url.startswith("https://simulated.invalid/")


# --- waiting, asking, listing ---------------------------------------------------------------------


async def test_waiting_ends_when_the_payment_settles(bar: Bar) -> None:
    """Whoever found it out."""
    payment = (await bar.create()).payment
    waiting = asyncio.create_task(bar.check(30))
    while not bar.coordinator._waiting:
        await asyncio.sleep(0)
    bar.pay(payment)
    await bar.hear()
    checked = await waiting

    assert checked.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert not checked.wait_expired
    assert checked.state.tab_total == usd(0)


async def test_still_open_is_an_answer(bar: Bar) -> None:
    """A wait that ends without news says so."""
    await bar.create()
    checked = await bar.check(1.0)

    assert checked.payment.status == PAYMENT_STATUS_OPEN
    assert checked.wait_expired
    assert bar.coordinator._waiting == {}


async def test_a_person_is_called_when_the_outcome_stays_unknown(bar: Bar) -> None:
    """After ten minutes of silence."""
    script(bar, create=["timeout_before"] * 40)
    await bar.create()
    for _ in range(25):
        await bar.poll(30)

    assert (await bar.session()).attention == ATTENTION_OUTCOME_UNKNOWN


async def test_reconciling_asks_the_provider_and_records_why(bar: Bar) -> None:
    """Also where there is nothing new; a retry gets the same event."""
    payment = (await bar.create()).payment
    first = await reconcile(bar, payment.payment_id, request_id="x")
    again = await reconcile(bar, payment.payment_id, request_id="x")
    bar.pay(payment)
    after = await reconcile(bar, payment.payment_id)

    assert first.event.payment_flagged.payment.reason == "looked"
    assert again.replayed
    assert after.event.payment_succeeded.payment.reason == "looked"


async def test_payments_are_listed_by_what_they_need(bar: Bar) -> None:
    """Newest first, of one session or of all."""
    await bar.create()
    await bar.seat(900, "s2")
    script(bar, create=["timeout_before"])
    unknown = (await bar.create("s2")).payment

    async def listed(**fields: Any) -> list[str]:
        reply = await bar.service.ListPayments(pb.ListPaymentsRequest(**fields), STAFF)
        page = pb.ListPaymentsResponse.FromString(reply)
        return [payment.session_id for payment in page.payments]

    assert await listed() == ["s2", "s1"]
    assert await listed(session_id="s1") == ["s1"]
    assert await listed(needs_reconciliation=True) == [unknown.session_id]
    assert await listed(statuses=[PAYMENT_STATUS_OPEN]) == ["s1"]


async def test_the_fold_of_the_log_is_the_state(bar: Bar) -> None:
    """After everything that can happen to a payment."""
    first = (await bar.create()).payment
    await bar.order(700)
    await cancel(bar)
    bar.pay((await bar.create()).payment)
    simulated.pay(bar.books, first.provider_payment_id, late=True, clock=bar.clock)
    await bar.hear()
    await refund(bar, first.payment_id, amount=usd(300))
    report = await bar.engine.verify((await bar.engine.session("s1")).ref)

    assert list(report.violations) == []
    assert (await bar.session()).payment.credit == usd(1000)


async def test_the_service_reads_state_and_payment(bar: Bar) -> None:
    """GetPaymentState and GetPayment show the same payment."""
    made = (await bar.create()).payment
    state = await bar.service.GetPaymentState(pb.GetPaymentStateRequest(session_id="s1"), call())
    read = await bar.service.GetPayment(pb.GetPaymentRequest(session_id="s1"), call())

    assert isinstance(state, pb.GetPaymentStateResponse)
    assert isinstance(read, pb.GetPaymentResponse)
    assert state.payment == read.payment == made
    assert state.state.payment_id == made.payment_id


async def test_parameters_carry_what_the_guest_is_asked_for(bar: Bar) -> None:
    """They are stored with the payment, byte for byte as they were sent."""
    payment = (await bar.create()).payment

    assert payment.request.parameters == bar.provider.parameters(payment)


async def test_what_another_server_settled_is_not_asked_about_for_ever(bar: Bar) -> None:
    """A payment is let go of as soon as it is found settled, whoever settled it."""
    made = (await bar.create()).payment
    bar.pay(made)
    other = PaymentCoordinator(bar.engine, bar.gateways, background=False)
    bar.engine.committer.listeners.remove(bar.coordinator.on_commit)
    await other.check("s1", "", 0)
    bar.engine.committer.listeners.append(bar.coordinator.on_commit)
    before = len(bar.coordinator._poller)
    await bar.poll(3)

    assert before == 1
    assert len(bar.coordinator._poller) == 0
