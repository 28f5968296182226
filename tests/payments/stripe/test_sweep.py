"""Once a day Stripe's list of what was paid is held against ours; what is missing is found."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.payments.conftest import usd
from tests.support.stripe import StripeBar, until

from maitred.server.kinds.tables import Table
from maitred.server.payments.inbox import KEPT_S
from maitred.server.payments.provider import RateLimited
from maitred.server.stores.base import Lease, RowFilter
from maitred.server.testing.fakestripe import FakeStripe
from maitred.server.testing.providers import new_payment
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_OVERPAID,
    PAYMENT_METHOD_CASH,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
)


def orphans(logs: list[Any]) -> list[str]:
    """List the provider's payments that were reported to be nobody's."""
    return [each["provider_payment"] for each in logs if each["event"] == "orphan_payment"]


async def test_what_every_notice_and_poll_missed_is_found(bar: StripeBar, fake: FakeStripe) -> None:
    """Settled once; the next day there is nothing to mend."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    mended = [await bar.coordinator.sweep.run() for _ in range(2)]

    assert mended == [1, 0]
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).ledger.received == 1300


async def test_what_is_not_paid_is_left_alone(bar: StripeBar, fake: FakeStripe) -> None:
    """Open, declined or on its way: that is not for the sweep."""
    payment = (await bar.create()).payment
    fake.account.pay_slowly(payment.provider_payment_id)

    assert await bar.coordinator.sweep.run() == 0
    assert (await bar.payment()).status == PAYMENT_STATUS_OPEN


async def test_a_payment_whose_link_we_never_learned_of_is_found(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """By our own id, which Stripe was given."""
    fake.script("sessions.create", "dropped_after")
    await bar.create()
    fake.account.pay(bar.sessions()[0]["id"])

    assert await bar.coordinator.sweep.run() == 1
    assert (await bar.payment()).provider_payment_id == bar.sessions()[0]["id"]
    assert (await bar.session()).payment.tab_total == usd(0)


async def test_money_that_is_nobodys_is_reported(bar: StripeBar, fake: FakeStripe) -> None:
    """And changes nothing here."""
    stranger = new_payment(bar.stripe)
    stranger.expires_at.FromNanoseconds(bar.clock.now_ns() + 3600 * 10**9)
    made = await bar.stripe.create(bar.stripe.parameters(stranger), "strange")
    fake.account.pay(made.provider_payment_id)
    with capture_logs() as logs:
        mended = await bar.coordinator.sweep.run()

    assert mended == 0
    assert orphans(logs) == [made.provider_payment_id]
    assert (await bar.session()).version == 2


async def test_a_second_link_of_a_payment_is_reported_and_not_settled(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Two attempts may have made one each: the payment is the one whose id is recorded."""
    payment = (await bar.create()).payment
    twin = await bar.stripe.create(payment.request.parameters, f"{payment.payment_id}:create:0")
    fake.account.pay(twin.provider_payment_id)
    with capture_logs() as logs:
        mended = await bar.coordinator.sweep.run()
    state = await bar.payment()
    fake.account.pay(payment.provider_payment_id)

    assert (mended, state) == (0, payment)
    assert orphans(logs) == [twin.provider_payment_id]
    assert await bar.coordinator.sweep.run() == 1
    assert (await bar.session()).ledger.received == 1300


async def test_money_that_came_beside_cash_is_found(bar: StripeBar, fake: FakeStripe) -> None:
    """It is credit, and a person is called; once."""
    payment = (await bar.create()).payment
    await bar.complete(method=PAYMENT_METHOD_CASH, reason="cash")
    bar.revive(payment)
    fake.account.pay(payment.provider_payment_id)
    mended = [await bar.coordinator.sweep.run() for _ in range(2)]
    session = await bar.session()

    assert mended == [1, 0]
    assert (session.payment.credit, session.attention) == (usd(1300), ATTENTION_OVERPAID)


async def test_what_waits_for_a_person_is_not_mended_every_day(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Another amount than was asked for stays as it is until somebody has looked."""
    payment = (await bar.create()).payment
    fake.account.change_amount(payment.provider_payment_id, 1000)
    fake.account.pay(payment.provider_payment_id)
    mended = [await bar.coordinator.sweep.run() for _ in range(2)]

    assert mended == [1, 0]
    assert (await bar.session()).attention == ATTENTION_AMOUNT_MISMATCH


async def test_it_reaches_back_two_days(bar: StripeBar, fake: FakeStripe) -> None:
    """Twice as long as any link lives."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    bar.clock.advance(47.9 * 3600)

    assert await bar.coordinator.sweep.run() == 1


async def test_it_goes_through_every_page(bar: StripeBar, fake: FakeStripe) -> None:
    """However many were paid."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    asked = {
        "line_items": [
            {
                "price_data": {"currency": "usd", "unit_amount": 100},
                "quantity": 1,
            }
        ],
        "mode": "payment",
        "client_reference_id": "somebody-else",
    }
    for _ in range(120):
        fake.account.pay(fake.account.add_session(asked, fake.url)["id"])
    before = fake.calls["sessions.list"]
    with capture_logs() as logs:
        mended = await bar.coordinator.sweep.run()

    assert mended == 1
    assert fake.calls["sessions.list"] == before + 2
    assert len(orphans(logs)) == 120


async def test_it_clears_the_inbox(bar: StripeBar) -> None:
    """Of what was done a month ago."""
    await bar.paid()
    bar.clock.advance(KEPT_S + 1)
    await bar.coordinator.sweep.run()

    assert await bar.engine.store.list_rows(Table.INBOX, RowFilter(), None, 10) == []


async def test_of_two_servers_one_sweeps(
    bar: StripeBar, fake: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other finds the lease taken."""
    answers: list[Lease | None] = []
    take = bar.faulty.lease

    async def lease(name: str, owner: str, ttl_s: float) -> Lease | None:
        answers.append(await take(name, owner, ttl_s))
        return answers[-1]

    monkeypatch.setattr(bar.faulty, "lease", lease)
    other = bar.another_coordinator().sweep
    bar.coordinator.sweep.start()
    await until(lambda: fake.calls["sessions.list"] == 1)
    other.start()
    await until(lambda: len(answers) == 2)
    await other.stop()
    await bar.coordinator.sweep.stop()

    assert [answer is not None for answer in answers] == [True, False]
    assert fake.calls["sessions.list"] == 1


async def test_trouble_is_told_and_the_sweep_goes_on_living(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """A provider that is away now is there another time."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    fake.script("sessions.list", "rate_limited")
    with pytest.raises(RateLimited):
        await bar.coordinator.sweep.run()
    with capture_logs() as logs:
        fake.script("sessions.list", "rate_limited")
        bar.coordinator.sweep.start()
        await until(lambda: [each for each in logs if each["event"] == "sweep_failed"])
        await bar.coordinator.sweep.stop()

    assert await bar.coordinator.sweep.run() == 1
