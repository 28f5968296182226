"""Money that is given back through Stripe: number 26 of the failures that payment systems have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.payments.conftest import usd
from tests.support.stripe import StripeBar

from maitred.server.engine.clock import ManualClock
from maitred.server.errors import RefundExceedsPaid
from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1.state_pb2 import (
    ATTENTION_REFUND_FAILED,
    REFUND_STATUS_FAILED,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
)


@pytest.fixture
async def fake() -> AsyncIterator[FakeStripe]:
    """Run a Stripe of our own, whose clock is ours."""
    async with FakeStripe(clock=ManualClock()) as running:
        yield running


@pytest.fixture
async def bar(fake: FakeStripe, tmp_path: Path) -> AsyncIterator[StripeBar]:
    """Open a bar with a guest who has ordered for $13.00."""
    bar = await StripeBar.open(tmp_path, fake)
    yield bar
    await bar.stop()


def refunds(fake: FakeStripe) -> list[dict[str, Any]]:
    """List what Stripe gave back, oldest first."""
    return list(fake.account.tables["re"].values())


async def test_s26_money_is_given_back_in_full(bar: StripeBar, fake: FakeStripe) -> None:
    """All of it, and then no more."""
    payment = await bar.paid()
    answer = await bar.refund(payment)
    with pytest.raises(RefundExceedsPaid):
        await bar.refund(payment, 1)

    assert answer.refund.status == REFUND_STATUS_SUCCEEDED
    assert answer.payment.refunded_amount == usd(1300)
    assert [each["amount"] for each in refunds(fake)] == [1300]
    assert (await bar.session()).ledger.refunded == 1300


async def test_s26_money_is_given_back_in_parts(bar: StripeBar, fake: FakeStripe) -> None:
    """Never more than came in, whatever is asked for at once."""
    payment = await bar.paid()
    answers = await asyncio.gather(
        *(bar.refund(payment, 500) for _ in range(5)), return_exceptions=True
    )
    refused = [each for each in answers if isinstance(each, BaseException)]

    assert [type(each) for each in refused] == [RefundExceedsPaid] * 3
    assert [each["amount"] for each in refunds(fake)] == [500, 500]
    assert (await bar.payment()).refunded_amount == usd(1000)


async def test_s26_a_repeated_request_gives_back_once(bar: StripeBar, fake: FakeStripe) -> None:
    """At once, later, and after a restart."""
    payment = await bar.paid()
    first = await asyncio.gather(*(bar.refund(payment, 500, request_id="f") for _ in range(3)))
    await bar.restart()
    again = await bar.refund(payment, 500, request_id="f")

    assert len({each.refund.refund_id for each in (*first, again)}) == 1
    assert again.replayed
    assert len(refunds(fake)) == 1


@pytest.mark.parametrize("lost", ["timeout", "timeout_after", "dropped", "dropped_after"])
async def test_s26_a_refund_whose_answer_was_lost_counts_as_spent_and_is_made_once(
    fake: FakeStripe, tmp_path: Path, lost: str
) -> None:
    """Pending, and not to be spent again; then resolved under the same key."""
    bar = await StripeBar.open(tmp_path, fake, payment_create_timeout_s=0.5)
    payment = await bar.paid()
    fake.script("refunds.create", lost)
    pending = await bar.refund(payment, 1000)
    with pytest.raises(RefundExceedsPaid):
        await bar.refund(payment, 400)
    await bar.poll(3)
    after = await bar.payment()
    await bar.stop()

    assert pending.refund.status == REFUND_STATUS_PENDING
    assert pending.payment.refunded_amount == usd(1000)
    assert [each.status for each in after.refunds] == [REFUND_STATUS_SUCCEEDED]
    assert [each["id"] for each in refunds(fake)] == [after.refunds[0].provider_refund_id]


@pytest.mark.parametrize("made", [True, False])
async def test_s26_a_refund_whose_key_was_forgotten_is_looked_up(
    bar: StripeBar, fake: FakeStripe, made: bool
) -> None:
    """After 20 hours what was made is found, and only what was not is sent again."""
    payment = await bar.paid()
    fake.script("refunds.create", "dropped_after" if made else "dropped")
    await bar.refund(payment, 500)
    await bar.crash()
    fake.forget_keys()
    bar.clock.advance(20 * 3600)
    await bar.resume()
    await bar.coordinator.poll_due()
    after = await bar.payment()

    assert fake.calls["refunds.create"] == (1 if made else 2)
    assert [each["amount"] for each in refunds(fake)] == [500]
    assert [each.status for each in after.refunds] == [REFUND_STATUS_SUCCEEDED]


@pytest.mark.parametrize("waits", [True, False])
async def test_s26_a_refund_that_fails_later_opens_the_liability_again(
    bar: StripeBar, fake: FakeStripe, waits: bool
) -> None:
    """Whether it was pending or had arrived: what came back can be given back again."""
    payment = await bar.paid()
    fake.account.refunds_wait = waits
    asked = await bar.refund(payment)
    await bar.deliver()
    fake.account.fail_refund(refunds(fake)[0]["id"])
    await bar.deliver()
    failed = await bar.payment()
    session = await bar.session()
    fake.account.refunds_wait = False
    again = await bar.refund(payment)

    assert asked.refund.status == (REFUND_STATUS_PENDING if waits else REFUND_STATUS_SUCCEEDED)
    assert failed.refunds[0].status == REFUND_STATUS_FAILED
    assert failed.refunded_amount == usd(0)
    assert (session.attention, session.ledger.refunded) == (ATTENTION_REFUND_FAILED, 0)
    assert again.payment.refunded_amount == usd(1300)


async def test_s26_a_refund_at_the_dashboard_is_seen(bar: StripeBar, fake: FakeStripe) -> None:
    """And counts, so that no more is given back than came in."""
    payment = await bar.paid()
    fake.account.refund_at_dashboard(payment.provider_payment_id, 800)
    await bar.deliver()
    with pytest.raises(RefundExceedsPaid):
        await bar.refund(payment, 600)

    assert (await bar.session()).ledger.refunded == 800


async def test_s26_a_refund_that_stripe_refuses_is_no_refund(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The dashboard was faster, and nobody has told us yet."""
    payment = await bar.paid()
    fake.account.refund_at_dashboard(payment.provider_payment_id, 800)
    refused = await bar.refund(payment, 600)

    assert refused.refund.status == REFUND_STATUS_FAILED
    assert refused.refund.failure_reason.startswith("Stripe answered 400")
    assert refused.payment.refunded_amount == usd(800)
    assert len(refunds(fake)) == 1
