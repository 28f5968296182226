"""The failures that payment systems die of, with Stripe at the far end: making links.

The numbers are those of the list that this server was built from; 7 to 16 are in
`test_stripe_scenarios_news.py`, the others in `test_stripe_scenarios_money.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.stripe import StripeBar, until

from maitred.server.engine.clock import ManualClock
from maitred.server.errors import PaymentFailed, RateLimited, RequestIdReused
from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1.state_pb2 import (
    ATTENTION_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_SUCCEEDED,
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


def keys(fake: FakeStripe) -> list[str]:
    """List the keys under which sessions were asked for, each once."""
    asked = [each for each in fake.seen if each.operation == "sessions.create"]
    return list(dict.fromkeys(each.headers["idempotency-key"] for each in asked))


# --- 1, 2, 3, 4, 5, 6: creating -------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["timeout", "timeout_after", "dropped", "dropped_after"])
async def test_s01_a_lost_answer_is_a_state_and_the_same_key_resolves_it(
    fake: FakeStripe, tmp_path: Path, lost: str
) -> None:
    """The outcome is unknown, never an exception; one key, one session, whatever was lost."""
    bar = await StripeBar.open(tmp_path, fake, payment_create_timeout_s=0.5)
    fake.script("sessions.create", lost)
    unknown = (await bar.create()).payment
    state = (await bar.session()).payment
    await bar.poll(3)
    payment = await bar.payment()
    await bar.stop()

    assert unknown.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
    assert state.needs_reconciliation
    assert (payment.payment_id, payment.status) == (unknown.payment_id, PAYMENT_STATUS_OPEN)
    assert keys(fake) == [payment.request.key]
    assert [each["id"] for each in bar.sessions()] == [payment.provider_payment_id]


async def test_s01_a_cancelled_call_stops_waiting_and_nothing_else(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The work belongs to the payment: who asks again joins it."""
    fake.latency_s = 0.1
    asking = asyncio.create_task(bar.create())
    await until(lambda: fake.calls["sessions.create"])
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    payment = (await bar.create()).payment

    assert payment.status == PAYMENT_STATUS_OPEN
    assert fake.calls["sessions.create"] == 1


async def test_s01_retries_within_one_call_send_the_same_key(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """Three pauses, each longer than the one before: the guest waits for one answer."""
    delays_s = (0.02, 0.04, 0.08)
    bar = await StripeBar.open(tmp_path, fake, payment_create_delays_s=delays_s)
    fake.script("sessions.create", "dropped", "error_503", "dropped_after")
    before = asyncio.get_running_loop().time()
    payment = (await bar.create()).payment
    took_s = asyncio.get_running_loop().time() - before
    await bar.stop()

    assert payment.status == PAYMENT_STATUS_OPEN
    assert fake.calls["sessions.create"] == 4
    assert took_s >= sum(delays_s)
    assert (len(keys(fake)), len(bar.sessions())) == (1, 1)


async def test_s01_retries_end_with_the_time_for_all_of_them(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """A pause that would end too late is not begun."""
    bar = await StripeBar.open(
        tmp_path, fake, payment_create_delays_s=(0.01, 30.0), payment_create_timeout_s=1.0
    )
    fake.script("sessions.create", *["dropped"] * 4)
    payment = (await bar.create()).payment
    await bar.stop()

    assert payment.status == PAYMENT_STATUS_OUTCOME_UNKNOWN
    assert fake.calls["sessions.create"] == 2


async def test_s01_a_person_is_called_when_the_outcome_stays_unknown(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """After ten minutes in which nobody could say."""
    fake.script("sessions.create", *["dropped"] * 40)
    await bar.create()
    early = (await bar.session()).attention
    for _ in range(12):
        await bar.poll(61)

    assert early != ATTENTION_OUTCOME_UNKNOWN
    assert (await bar.session()).attention == ATTENTION_OUTCOME_UNKNOWN


async def test_s02_a_crash_between_call_and_record_leads_to_the_same_link(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The next server sends the stored parameters under the stored key."""
    fake.script("sessions.create", "timeout_after")
    asking = asyncio.create_task(bar.create(request_id="r1"))
    await until(bar.sessions)
    intent = await bar.payment()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await bar.crash()
    await bar.resume()
    await bar.coordinator.poll_due()
    again = await bar.create(request_id="r1")
    made = bar.sessions()

    assert intent.status == PAYMENT_STATUS_CREATING
    assert again.replayed
    assert again.payment.payment_id == intent.payment_id
    assert [each["url"] for each in made] == [again.payment.url]
    assert keys(fake) == [intent.request.key]


async def test_s02_the_guests_link_is_the_same_after_a_restart(bar: StripeBar) -> None:
    """Whoever asks again gets the link that the guest has in the chat already."""
    before = (await bar.create()).payment
    await bar.restart()
    after = (await bar.create()).payment

    assert after == before
    assert len(bar.sessions()) == 1


async def test_s02_a_key_that_was_forgotten_is_not_sent_again(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """After 20 hours what was made is looked up; what was not made never will be."""
    await bar.seat(900, "s2")
    fake.script("sessions.create", "dropped_after", "dropped")
    made, lost = (await bar.create()).payment, (await bar.create("s2")).payment
    await bar.crash()
    fake.forget_keys()
    bar.clock.advance(20 * 3600)
    await bar.resume()
    await bar.coordinator.poll_due()
    found = await bar.payment(made.payment_id)
    failed = await bar.payment(lost.payment_id, "s2")

    assert found.provider_payment_id == bar.sessions()[0]["id"]
    assert failed.status == PAYMENT_STATUS_FAILED
    assert fake.calls["sessions.create"] == 2


async def test_s03_the_same_request_is_answered_with_the_same_payment(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """A retry gets its event again and the payment as it is now; another request is refused."""
    first = await bar.create(request_id="r1")
    fake.account.pay(first.payment.provider_payment_id)
    await bar.deliver()
    again = await bar.create(request_id="r1")
    with pytest.raises(RequestIdReused):
        await bar.cancel(request_id="r1")

    assert again.replayed
    assert again.event == first.event
    assert again.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert fake.calls["sessions.create"] == 1


async def test_s04_concurrent_requests_join_one_payment(bar: StripeBar, fake: FakeStripe) -> None:
    """Five agents that ask at once get one link, from one request."""
    fake.latency_s = 0.05
    answers = await asyncio.gather(*(bar.create() for _ in range(5)))

    assert len({answer.payment.url for answer in answers}) == 1
    assert all(answer.payment.status == PAYMENT_STATUS_OPEN for answer in answers)
    assert fake.calls["sessions.create"] == len(bar.sessions()) == 1


async def test_s05_a_breakdown_that_is_kept_for_its_key_leads_to_a_new_attempt(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Only after several answers, and when Stripe holds nothing of ours."""
    fake.script("sessions.create", "error_500")
    await bar.create()
    for _ in range(4):
        await bar.poll(10)
    payment = await bar.payment()

    assert payment.status == PAYMENT_STATUS_OPEN
    assert payment.request.attempt == 2
    assert keys(fake) == [f"{payment.payment_id}:create:{attempt}" for attempt in (1, 2)]
    assert len(bar.sessions()) == 1


async def test_s05_a_breakdown_after_the_work_was_done_makes_no_second_link(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """What was made after all is found under our own id."""
    fake.script("sessions.create", "error_500_after")
    await bar.create()
    await bar.poll(3)
    payment = await bar.payment()

    assert (payment.status, payment.request.attempt) == (PAYMENT_STATUS_OPEN, 1)
    assert [each["id"] for each in bar.sessions()] == [payment.provider_payment_id]


async def test_s06_too_many_requests_keep_the_intent(bar: StripeBar, fake: FakeStripe) -> None:
    """The caller is told when to come back; coming back goes on with the same payment."""
    fake.script("sessions.create", "rate_limited:7")
    with pytest.raises(RateLimited) as refused:
        await bar.create(request_id="r1")
    kept = await bar.payment()
    payment = (await bar.create(request_id="r1")).payment

    assert refused.value.retry_after_s == 7
    assert kept.status == PAYMENT_STATUS_CREATING
    assert (payment.payment_id, payment.status) == (kept.payment_id, PAYMENT_STATUS_OPEN)


async def test_s06_within_its_time_a_call_waits_by_itself(fake: FakeStripe, tmp_path: Path) -> None:
    """The SDK does not repeat what was one too many: we do."""
    bar = await StripeBar.open(tmp_path, fake, payment_create_delays_s=(0.01,))
    fake.script("sessions.create", "rate_limited:0")
    payment = (await bar.create()).payment
    await bar.stop()

    assert payment.status == PAYMENT_STATUS_OPEN
    assert len(keys(fake)) == 1


async def test_a_refusal_of_the_provider_is_final_for_its_payment(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The next request makes a new payment, under a key of its own."""
    refusal = '400:{"error":{"type":"invalid_request_error","code":"amount_too_small"}}'
    fake.script("sessions.create", f"garbage:{refusal}")
    for _ in range(2):
        with pytest.raises(PaymentFailed):
            await bar.create(request_id="r1")
    payment = (await bar.create()).payment

    assert (payment.number, payment.status) == (2, PAYMENT_STATUS_OPEN)
    assert len(keys(fake)) == 2
