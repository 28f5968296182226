"""What payment calls answer: which payment they mean, and what is to be done about it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.payments.conftest import STAFF, Bar, call, usd

from maitred.server.domain import sessions
from maitred.server.engine.command import Command
from maitred.server.errors import NothingToPay, PaymentNotFound, PaymentOpen
from maitred.server.kinds.session import session_ref
from maitred.server.payments import simulated
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import (
    PAYMENT_METHOD_CASH,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    TAB_STATUS_COMPLETED,
    TAB_STATUS_PENDING,
    Payment,
)


async def complete(bar: Bar, **fields: Any) -> Payment:
    """Complete a payment as staff."""
    request = pb.CompletePaymentRequest(session_id="s1", **fields)
    return pb.CompletePaymentResponse.FromString(
        await bar.service.CompletePayment(request, STAFF)
    ).payment


async def cash(bar: Bar) -> Payment:
    """Settle in cash what can be."""
    return await complete(bar, method=PAYMENT_METHOD_CASH, reason="paid at the bar")


async def cancel(bar: Bar) -> Payment:
    """Withdraw the open payment."""
    request = pb.CancelPaymentRequest(session_id="s1")
    return pb.CancelPaymentResponse.FromString(
        await bar.service.CancelPayment(request, call())
    ).payment


async def state(bar: Bar) -> pb.GetPaymentStateResponse:
    """Read what is owed."""
    answer = await bar.service.GetPaymentState(pb.GetPaymentStateRequest(session_id="s1"), call())
    assert isinstance(answer, pb.GetPaymentStateResponse)
    return answer


async def paid(bar: Bar) -> Payment:
    """Have the tab paid by link."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    await bar.hear()
    return payment


async def reset(bar: Bar) -> None:
    """Begin a new visit."""
    await bar.engine.execute(
        Command(session_ref("s1"), lambda session, _now: sessions.reset(session, "", staff=True)),
        STAFF,
    )


async def on_its_way(bar: Bar) -> Payment:
    """Have the guest pay by a slow method."""
    payment = (await bar.create()).payment
    simulated.pay_slowly(bar.books, payment.url, clock=bar.clock)
    await bar.hear()
    return await bar.payment()


# --- which payment is meant ----------------------------------------------------------------------


async def test_no_id_never_means_a_payment_of_another_round(bar: Bar) -> None:
    """A paid round says nothing about a tab that is open again."""
    await paid(bar)
    assert (await complete(bar)).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.check()).outcome == pb.PAYMENT_OUTCOME_PAID
    await bar.order(500)

    for ask in (bar.check, lambda: complete(bar), lambda: cancel(bar)):
        with pytest.raises(PaymentNotFound):
            await ask()


async def test_no_id_never_means_a_dead_payment(bar: Bar) -> None:
    """It is named, or asked for anew."""
    payment = (await bar.create()).payment
    await cancel(bar)

    for ask in (bar.check, lambda: complete(bar), lambda: cancel(bar)):
        with pytest.raises(PaymentNotFound):
            await ask()
    assert (await bar.payment()).payment_id == payment.payment_id


async def test_a_reset_leaves_no_payment_on_any_road(bar: Bar) -> None:
    """Nor does a refund of an old payment bring it back, or take its number again."""
    old = await paid(bar)
    await reset(bar)

    for ask in (bar.check, bar.payment, lambda: complete(bar), lambda: cancel(bar)):
        with pytest.raises(PaymentNotFound):
            await ask()
    request = pb.RefundPaymentRequest(session_id="s1", payment_id=old.payment_id, reason="cold")
    await bar.service.RefundPayment(request, STAFF)
    session, answer = await bar.session(), await state(bar)
    assert not session.HasField("latest_payment")
    assert not answer.HasField("payment")
    assert (answer.state.payment_id, answer.state.status) == ("", TAB_STATUS_PENDING)
    assert not answer.state.needs_reconciliation
    assert (await bar.payment(old.payment_id)).refunded_amount == usd(1300)

    await bar.order(700)
    assert (await bar.create()).payment.number == 2


# --- what to do ----------------------------------------------------------------------------------


async def test_a_link_is_to_be_shown(bar: Bar) -> None:
    """The action stands first in the answer, and carries the url."""
    answer = await bar.create()
    action = answer.next_action

    assert pb.CreatePaymentResponse.DESCRIPTOR.fields_by_name["next_action"].number == 1
    assert (action.kind, action.url) == (pb.NEXT_ACTION_KIND_PAY, answer.payment.url)
    assert action.url
    assert (action.amount, action.text) == (usd(1300), "show the guest the link to pay 13.00 USD")


async def test_an_unknown_outcome_is_waited_for(bar: Bar) -> None:
    """There is no url to print."""
    bar.provider._script = {"create": ["timeout_before"] * 4}
    answer = await bar.create()

    assert answer.next_action.kind == pb.NEXT_ACTION_KIND_WAIT
    assert answer.next_action.retry_after.seconds > 0
    assert not answer.next_action.url
    assert (await bar.check()).outcome == pb.PAYMENT_OUTCOME_PENDING


async def test_a_dead_link_is_asked_for_anew(bar: Bar) -> None:
    """As long as something is owed."""
    payment = (await bar.create()).payment
    await cancel(bar)
    answer = await bar.service.GetPayment(
        pb.GetPaymentRequest(session_id="s1", payment_id=payment.payment_id), call()
    )
    assert isinstance(answer, pb.GetPaymentResponse)

    assert answer.outcome == pb.PAYMENT_OUTCOME_DEAD
    assert answer.next_action.kind == pb.NEXT_ACTION_KIND_CREATE_PAYMENT
    assert answer.next_action.amount == usd(1300)


async def test_a_superseded_link_is_told_apart(bar: Bar) -> None:
    """Before and after it died."""
    first = (await bar.create()).payment
    await bar.order(200)
    await bar.create()
    answer = await bar.service.GetPayment(
        pb.GetPaymentRequest(session_id="s1", payment_id=first.payment_id), call()
    )
    assert isinstance(answer, pb.GetPaymentResponse)

    assert answer.outcome == pb.PAYMENT_OUTCOME_SUPERSEDED


async def test_what_is_paid_needs_nothing(bar: Bar) -> None:
    """Also where the answer comes from a payment that was open a moment ago."""
    await paid(bar)
    answer = await bar.check()

    assert (answer.outcome, answer.next_action.kind) == (
        pb.PAYMENT_OUTCOME_PAID,
        pb.NEXT_ACTION_KIND_NONE,
    )


# --- money that is on its way --------------------------------------------------------------------


async def test_money_on_its_way_is_a_state_and_not_a_refusal(bar: Bar) -> None:
    """The guest who orders more meanwhile is not told to try again in a second, for days."""
    slow = await on_its_way(bar)
    same = await bar.create()
    await bar.order(500)
    more = await bar.create()

    assert same.payment.payment_id == more.payment.payment_id == slow.payment_id
    assert same.next_action.kind == more.next_action.kind == pb.NEXT_ACTION_KIND_WAIT
    assert same.outcome == more.outcome == pb.PAYMENT_OUTCOME_PENDING
    assert same.next_action.amount == usd(1300)
    assert more.next_action.amount == usd(500)
    assert "13.00 USD is on its way" in more.next_action.text
    assert "5.00 USD is owed beside it" in more.next_action.text


@pytest.mark.parametrize("arrives", [True, False])
async def test_cash_settles_what_is_not_on_its_way(bar: Bar, arrives: bool) -> None:
    """And what is on its way then settles its own part, once, or leaves it owed."""
    slow = await on_its_way(bar)
    await bar.order(500)
    taken = await cash(bar)
    between = await bar.session()
    if arrives:
        bar.pay(slow)
    else:
        simulated.decline(bar.books, slow.provider_payment_id, final=True, clock=bar.clock)
    await bar.hear()
    after = await bar.session()

    assert (taken.amount, taken.status, taken.number) == (usd(500), PAYMENT_STATUS_SUCCEEDED, 2)
    assert between.latest_payment.payment_id == slow.payment_id
    assert between.latest_payment.status == PAYMENT_STATUS_PROCESSING
    assert between.payment.tab_total == usd(1300)
    assert after.payment.credit == usd(0)
    assert after.payment.tab_total == usd(0 if arrives else 1300)
    assert after.ledger.received == (1800 if arrives else 500)
    if arrives:
        assert after.payment.status == TAB_STATUS_COMPLETED
        assert after.paid_through_line == after.last_line_number
        return
    rest = (await bar.create()).payment
    assert (rest.amount, rest.number) == (usd(1300), 3)


async def test_cash_is_not_taken_twice_for_what_is_on_its_way(bar: Bar) -> None:
    """Neither for all of it nor for the very payment."""
    slow = await on_its_way(bar)

    with pytest.raises(NothingToPay):
        await cash(bar)
    with pytest.raises(PaymentOpen):
        await complete(
            bar, payment_id=slow.payment_id, method=PAYMENT_METHOD_CASH, reason="impatient"
        )
    assert not (await bar.payment()).cancel_requested
