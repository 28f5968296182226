"""Money that goes back, from end to end: refunds of several ways, disputes, and who is called."""

from __future__ import annotations

from tests.payments.conftest import STAFF, Bar, usd

from maitred.server.payments import simulated
from maitred.server.services.sessions import SessionService
from maitred.v1 import payment_pb2 as pb
from maitred.v1 import session_pb2
from maitred.v1.state_pb2 import (
    ATTENTION_DISPUTED,
    ATTENTION_OVERPAID,
    ATTENTION_UNSPECIFIED,
    PAYMENT_METHOD_CASH,
    PAYMENT_METHOD_PROVIDER,
    REFUND_STATUS_SUCCEEDED,
    Attention,
)


async def found(bar: Bar, kind: Attention.ValueType) -> list[str]:
    """List the sessions that call for something."""
    service = SessionService(bar.engine)
    reply = await service.ListSessions(session_pb2.ListSessionsRequest(attention=kind), STAFF)
    page = session_pb2.ListSessionsResponse.FromString(reply)
    return [session.session_id for session in page.sessions]


async def flagged(bar: Bar) -> list[str]:
    """List the payments that somebody must look at."""
    request = pb.ListPaymentsRequest(needs_reconciliation=True)
    page = pb.ListPaymentsResponse.FromString(await bar.service.ListPayments(request, STAFF))
    return [payment.payment_id for payment in page.payments]


async def refund(bar: Bar, payment_id: str, **fields: object) -> pb.RefundPaymentResponse:
    """Give money back."""
    request = pb.RefundPaymentRequest(session_id="s1", payment_id=payment_id, reason="sorry")
    request.MergeFrom(pb.RefundPaymentRequest(**fields))  # type: ignore[arg-type]
    return pb.RefundPaymentResponse.FromString(await bar.service.RefundPayment(request, STAFF))


async def cash_and_link(bar: Bar) -> str:
    """Take cash for a dead link that is paid after all; answers the payment."""
    payment = (await bar.create()).payment
    request = pb.CompletePaymentRequest(
        session_id="s1", method=PAYMENT_METHOD_CASH, reason="paid in cash"
    )
    await bar.service.CompletePayment(request, STAFF)
    simulated.pay(bar.books, payment.url, late=True, clock=bar.clock)
    await bar.hear()
    return payment.payment_id


async def test_cash_and_late_link_money_are_both_given_back(bar: Bar) -> None:
    """The whole refund succeeds, and the provider is asked for what it took."""
    payment_id = await cash_and_link(bar)
    assert await found(bar, ATTENTION_OVERPAID) == ["s1"]
    answer = await refund(bar, payment_id, request_id="r")
    again = await refund(bar, payment_id, request_id="r")

    assert [(each.method, each.status) for each in answer.refunds] == [
        (PAYMENT_METHOD_PROVIDER, REFUND_STATUS_SUCCEEDED),
        (PAYMENT_METHOD_CASH, REFUND_STATUS_SUCCEEDED),
    ]
    assert answer.refund == answer.refunds[0]
    assert answer.payment.refunded_amount == usd(2600)
    assert (again.replayed, list(again.refunds)) == (True, list(answer.refunds))
    assert await bar.provider.calls("refund") == 1
    assert await found(bar, ATTENTION_OVERPAID) == []
    assert await flagged(bar) == []


async def test_cash_alone_is_given_back_by_name(bar: Bar) -> None:
    """The provider is not called for it."""
    payment_id = await cash_and_link(bar)
    answer = await refund(bar, payment_id, method=PAYMENT_METHOD_CASH)

    assert [each.amount for each in answer.refunds] == [usd(1300)]
    assert await bar.provider.calls("refund") == 0


async def test_a_session_is_found_by_each_thing_that_it_calls_for(bar: Bar) -> None:
    """A second payment that is settled takes nothing from the first; the end of each is its own."""
    payment_id = await cash_and_link(bar)
    link = (await bar.payment(payment_id)).provider_payment_id
    simulated.dispute(bar.books, link, clock=bar.clock)
    await bar.hear()
    await bar.order(700)
    # Credit pays for it, and some is left.
    await bar.create()
    both = await found(bar, ATTENTION_DISPUTED), await found(bar, ATTENTION_OVERPAID)
    simulated.end_dispute(bar.books, link, won=True, clock=bar.clock)
    await bar.hear()

    assert both == (["s1"], ["s1"])
    assert await found(bar, ATTENTION_DISPUTED) == []
    assert await found(bar, ATTENTION_OVERPAID) == ["s1"]
    assert await flagged(bar) == [payment_id]


async def test_credit_that_is_used_up_ends_the_call_everywhere(bar: Bar) -> None:
    """In the session, in the payment that it came with, and in listings."""
    payment_id = await cash_and_link(bar)
    await bar.order(1300)
    await bar.create()

    assert await found(bar, ATTENTION_OVERPAID) == []
    assert await flagged(bar) == []
    assert (await bar.payment(payment_id)).attention == ATTENTION_UNSPECIFIED


async def test_a_dispute_whose_end_nobody_told_is_found_by_the_daily_comparison(bar: Bar) -> None:
    """A lost notice does not leave it open for ever."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    simulated.dispute(bar.books, payment.url, clock=bar.clock)
    await bar.hear()
    simulated.end_dispute(bar.books, payment.url, won=False, clock=bar.clock)
    await bar.coordinator.sweep.run()
    session = await bar.session()

    assert (session.attention, session.ledger.refunded) == (ATTENTION_UNSPECIFIED, 1300)
    assert not session.latest_payment.disputed
