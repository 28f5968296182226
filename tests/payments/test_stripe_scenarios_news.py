"""The failures that payment systems die of, with Stripe at the far end: news, storage, guests.

The numbers are those of the list that this server was built from; 1 to 6 are in
`test_stripe_scenarios.py`, those after 16 in `test_stripe_scenarios_money.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.payments.conftest import call, usd
from tests.support.bar import add, new_guest, open_bar
from tests.support.stripe import StripeBar, server_settings, until
from tests.support.wire import wired

from maitred.server.engine.clock import ManualClock
from maitred.server.stores.base import StoreError
from maitred.server.testing.fakestripe import FakeStripe
from maitred.server.testing.faulty import Fault
from maitred.v1 import payment_pb2 as pb
from maitred.v1.session_pb2 import WatchSessionRequest
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    TAB_STATUS_COMPLETED,
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


# --- 7, 8, 9, 10, 11: hints -----------------------------------------------------------------------


async def test_s07_duplicated_webhooks_settle_once(bar: StripeBar, fake: FakeStripe) -> None:
    """One after the other, and at once: each is new once, and the money counts once."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    events = fake.drain_events()
    taken = await asyncio.gather(*(bar.take(*each) for each in events * 3))
    await bar.coordinator.inbox.settled_down()
    again = [await bar.take(*each) for each in events]
    session = await bar.session()

    assert taken.count(True) == len(events)
    assert set(again) == {False}
    assert session.ledger.received == session.ledger.settled == 1300
    assert session.payment.status == TAB_STATUS_COMPLETED


async def test_s08_webhooks_out_of_order_lead_to_the_present(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """A failure that comes after the success is a story of the past."""
    payment = (await bar.create()).payment
    fake.account.decline(payment.provider_payment_id)
    fake.account.pay(payment.provider_payment_id)
    for body, signature in reversed(fake.drain_events()):
        await bar.take(body, signature)
        await bar.coordinator.inbox.settled_down()

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).ledger.received == 1300


@pytest.mark.parametrize("kind", ["expired", "async_payment_failed"])
async def test_s08_a_stale_end_never_takes_money_back(
    bar: StripeBar, fake: FakeStripe, kind: str
) -> None:
    """Whatever a genuine message says: only Stripe's present answer counts."""
    payment = await bar.paid()
    about = {"id": payment.provider_payment_id, "object": "checkout.session", "status": "expired"}
    event = {
        "id": "evt_stale",
        "object": "event",
        "type": f"checkout.session.{kind}",
        "data": {"object": about},
        "livemode": False,
    }
    body = json.dumps(event).encode()
    taken = await bar.take(body, fake.sign(body))
    await bar.coordinator.inbox.settled_down()

    assert taken
    assert await bar.payment() == payment


async def test_s09_a_webhook_before_the_id_is_recorded_finds_its_payment(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """By our own id, which Stripe was given and repeats."""
    fake.script("sessions.create", "dropped_after")
    unknown = (await bar.create()).payment
    fake.account.pay(bar.sessions()[0]["id"])
    taken = await bar.deliver()

    assert unknown.provider_payment_id == ""
    assert set(taken) == {True}
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_s09_a_webhook_that_overtakes_its_answer_is_kept_until_it_can_be_used(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """Acknowledged, for it is durable; worked off when the link is known."""
    bar = await StripeBar.open(tmp_path, fake, payment_create_timeout_s=0.5)
    fake.script("sessions.create", "timeout_after")
    asking = asyncio.create_task(bar.create())
    await until(bar.sessions)
    fake.account.pay(bar.sessions()[0]["id"])
    taken = [await bar.take(*each) for each in fake.drain_events()]
    await asking
    await bar.coordinator.inbox.settled_down()
    session = await bar.session()
    await bar.stop()

    assert set(taken) == {True}
    assert session.latest_payment.status == PAYMENT_STATUS_SUCCEEDED
    assert session.ledger.received == 1300


async def test_s10_without_any_webhook_polling_settles(bar: StripeBar, fake: FakeStripe) -> None:
    """The endpoint may be down, or there may never have been one."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    early, polled = await bar.poll(1), await bar.poll(2)

    assert (early, polled) == (0, 1)
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).payment.tab_total == usd(0)


async def test_s11_polls_and_webhooks_at_once_settle_once(bar: StripeBar, fake: FakeStripe) -> None:
    """All go through the same reducer; the losers have nothing to say."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    bar.clock.advance(3)
    await asyncio.gather(
        bar.coordinator.poll_due(),
        bar.deliver(),
        bar.check(),
        bar.complete(),
        bar.reconcile(payment),
    )

    assert (await bar.session()).ledger.received == 1300
    assert await bar.changes("payment_succeeded") == 1


# --- 12, 13, 14: storage and restart --------------------------------------------------------------


async def test_s12_what_could_not_be_stored_is_not_acknowledged(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Stripe is told to send it again, and that heals."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    *_, event = fake.drain_events()
    bar.faulty.fail_writes(Fault.FULL)
    with pytest.raises(StoreError):
        await bar.take(*event)
    between = await bar.payment()
    again = await bar.take(*event)
    await bar.coordinator.inbox.settled_down()

    assert between.status == PAYMENT_STATUS_OPEN
    assert again
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_s12_a_settlement_that_could_not_be_stored_is_done_again(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Nothing is kept in memory only: polling finds the same money once more."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    bar.faulty.fail_writes(Fault.UNAVAILABLE)
    await bar.poll(3)
    between = await bar.payment()
    await bar.poll(4)

    assert between.status == PAYMENT_STATUS_OPEN
    assert (await bar.session()).ledger.received == 1300


async def test_s13_a_watch_goes_on_after_a_restart_where_it_was(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """What was committed and never published is delivered by the next server, from the log."""
    settings = server_settings(fake, tmp_path)
    clock = fake.account.clock
    async with wired(clock=clock, **settings) as (_, wire):
        await open_bar(wire)
        guest = await new_guest(wire)
        await wire("OrderService/AddItem", add(guest))
        request = pb.CreatePaymentRequest(session_id=guest)
        made = (await wire("PaymentService/CreatePayment", request)).payment
        seen = await wire("SessionService/WatchSession", WatchSessionRequest(session_id=guest))
        fake.account.pay(made.provider_payment_id)
        checking = pb.CheckPaymentRequest(session_id=guest)
        await wire("PaymentService/CheckPayment", checking)
    async with wired(clock=clock, **settings) as (_, wire):
        resumed = await wire(
            "SessionService/WatchSession",
            WatchSessionRequest(session_id=guest, resume_token=seen.resume_token),
        )
        late = await wire(
            "PaymentService/WatchPayment",
            pb.WatchPaymentRequest(session_id=guest, end_when_settled=True),
        )

    changes = [each.WhichOneof("change") for each in resumed.events.events]
    assert changes == ["payment_succeeded"]
    assert (late.settled, late.payment.status) == (True, PAYMENT_STATUS_SUCCEEDED)


async def test_s14_every_open_payment_is_taken_up_after_a_restart(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Asked about at once, whatever became of them meanwhile."""
    names = ["s1", "s2", "s3", "s4"]
    for name in names[1:]:
        await bar.seat(1000, name)
    made = [(await bar.create(name)).payment for name in names]
    await bar.crash()
    for payment in made[:3]:
        fake.account.pay(payment.provider_payment_id)
    await bar.resume()
    polled = await bar.coordinator.poll_due()
    states = [(await bar.payment(name=name)).status for name in names]

    assert polled == 4
    assert states == [PAYMENT_STATUS_SUCCEEDED] * 3 + [PAYMENT_STATUS_OPEN]


# --- 15, 16: how guests pay -----------------------------------------------------------------------


async def test_s15_a_declined_card_is_no_end(bar: StripeBar, fake: FakeStripe) -> None:
    """The guest tries again on the same link."""
    payment = (await bar.create()).payment
    fake.account.decline(payment.provider_payment_id)
    await bar.deliver()
    between = await bar.payment()
    fake.account.pay(payment.provider_payment_id)
    await bar.deliver()

    assert (between.status, between.url) == (PAYMENT_STATUS_OPEN, payment.url)
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


@pytest.mark.parametrize("arrives", [True, False])
async def test_s16_money_under_way_closes_no_tab(
    bar: StripeBar, fake: FakeStripe, arrives: bool
) -> None:
    """A checkout that is complete and unpaid has not been paid."""
    payment = (await bar.create()).payment
    fake.account.pay_slowly(payment.provider_payment_id)
    await bar.deliver()
    between = await bar.session()
    joined = (await bar.create()).payment
    (fake.account.settle if arrives else fake.account.fail_slowly)(payment.provider_payment_id)
    await bar.deliver()
    after = await bar.session()

    assert between.latest_payment.status == PAYMENT_STATUS_PROCESSING
    assert between.payment.tab_total == usd(1300)
    assert joined.payment_id == payment.payment_id
    assert after.payment.tab_total == usd(0 if arrives else 1300)
    assert after.latest_payment.status == (
        PAYMENT_STATUS_SUCCEEDED if arrives else PAYMENT_STATUS_FAILED
    )


async def test_an_agent_may_have_a_payment_completed_that_stripe_confirms(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Nobody else's word is needed."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    done = await bar.complete(call())

    assert done.payment.status == PAYMENT_STATUS_SUCCEEDED
