"""Asking what became of a payment at Stripe, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.payments.conftest import usd
from tests.support.stripe import StripeBar, until

from maitred.server.engine.clock import ManualClock
from maitred.server.errors import PaymentTimeout
from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1.state_pb2 import PAYMENT_STATUS_OPEN, PAYMENT_STATUS_SUCCEEDED


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


async def test_waiting_ends_when_the_payment_settles(bar: StripeBar, fake: FakeStripe) -> None:
    """Whoever found it out; here, a webhook."""
    payment = (await bar.create()).payment
    waiting = asyncio.create_task(bar.check(20))
    await until(lambda: bar.coordinator._waiting)
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()
    checked = await waiting

    assert checked.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert not checked.wait_expired
    assert checked.state.tab_total == usd(0)


async def test_still_open_is_an_answer(bar: StripeBar) -> None:
    """A wait that ends without news says so, unless settled is what it has to be."""
    await bar.create()
    checked = await bar.check(1.0)
    with pytest.raises(PaymentTimeout, match="did not settle in time"):
        await bar.coordinator.check("s1", "", 1.0, require_settled=True)

    assert (checked.payment.status, checked.wait_expired) == (PAYMENT_STATUS_OPEN, True)
    assert bar.coordinator._waiting == {}


async def test_a_provider_that_never_answered_in_time_is_a_timeout(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """That is no answer; the payment is as it was."""
    bar = await StripeBar.open(
        tmp_path, fake, payment_poll_timeout_s=0.1, payment_poll_interval_s=0.05
    )
    payment = (await bar.create()).payment
    fake.script("sessions.retrieve", *["timeout"] * 30)
    with pytest.raises(PaymentTimeout, match="did not answer in time") as caught:
        await bar.check(0.4)
    after = await bar.payment()
    await bar.stop()

    assert caught.value.metadata["payment_id"] == payment.payment_id
    assert after == payment


async def test_of_a_settled_payment_nobody_is_asked(bar: StripeBar, fake: FakeStripe) -> None:
    """What is known needs no provider, not even one that is there."""
    await bar.paid()
    asked = fake.calls.total()
    fake.api_key = "sk_test_another"
    checked = await bar.coordinator.check("s1", "", 5, require_settled=True)

    assert checked.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert fake.calls.total() == asked
