"""Stripe keeps the contract; and what may become of a payment there is told as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain.snapshots import DisputeState, ProviderStatus, RefundState
from maitred.server.engine.clock import ManualClock
from maitred.server.payments.provider import (
    Declined,
    PaymentProvider,
    Rejected,
)
from maitred.server.payments.stripe import StripeProvider, translation
from maitred.server.testing.fakestripe import FakeStripe, opened
from maitred.server.testing.providers import ProviderContract, new_payment

# The SDK hands httpx its forms in a way that httpx is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
async def fake() -> AsyncIterator[FakeStripe]:
    """Run a Stripe of our own."""
    async with FakeStripe() as running:
        yield running


@pytest.fixture
async def provider(fake: FakeStripe) -> AsyncIterator[StripeProvider]:
    """Open a provider on it."""
    async with opened(fake) as provider:
        yield provider


async def make(provider: StripeProvider, key: str = "k1") -> str:
    """Make a session; its id."""
    payment = new_payment(provider)
    return (await provider.create(provider.parameters(payment), key)).provider_payment_id


class TestStripe(ProviderContract):
    """The whole contract, over HTTP."""

    @pytest.fixture
    async def provider(self, fake: FakeStripe) -> AsyncIterator[PaymentProvider]:
        """Yield a provider on an empty account."""
        self.fake = fake
        async with opened(fake) as provider:
            yield provider

    async def guest_pays(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Pay with a card."""
        self.fake.account.pay(provider_payment_id)

    async def guest_is_declined(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Try a card without money."""
        self.fake.account.decline(provider_payment_id)

    async def messages(
        self, provider: PaymentProvider, provider_payment_id: str
    ) -> list[tuple[bytes, str]]:
        """Take the webhooks in both of their forms."""
        snapshots = self.fake.events_for(provider_payment_id)
        # The two forms come from two endpoints, and then have ids of their own.
        self.fake.account.renumber_events()
        return snapshots + self.fake.events_for(provider_payment_id, thin_ones=True)


async def test_a_slow_method_is_processing_until_the_money_comes(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """A completed checkout that is unpaid is not paid."""
    name = await make(provider)
    fake.account.pay_slowly(name)
    before = await provider.retrieve(name)
    fake.account.settle(name)

    assert before.status is ProviderStatus.PROCESSING
    assert (await provider.retrieve(name)).status is ProviderStatus.PAID


async def test_a_slow_method_that_fails_is_over(fake: FakeStripe, provider: StripeProvider) -> None:
    """The session cannot be paid any more, and the reason is a code."""
    name = await make(provider)
    fake.account.pay_slowly(name)
    fake.account.fail_slowly(name)
    found = await provider.retrieve(name)

    assert found.status is ProviderStatus.FAILED
    assert found.reason == "payment_intent_payment_attempt_failed"


async def test_a_link_dies_by_itself() -> None:
    """After expires_at, by Stripe's clock."""
    clock = ManualClock()
    async with FakeStripe(clock=clock) as fake, opened(fake) as provider:
        payment = new_payment(provider)
        payment.expires_at.seconds = clock.now_ns() // 10**9 + 3600
        made = await provider.create(provider.parameters(payment), "k1")
        clock.advance(3600)

        assert (await provider.retrieve(made.provider_payment_id)).status is ProviderStatus.EXPIRED


async def test_what_came_counts_and_not_what_was_asked(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """A discount that somebody set up at the dashboard shows as the amount received."""
    name = await make(provider)
    fake.account.change_amount(name, 1000)
    fake.account.pay(name)

    assert (await provider.retrieve(name)).minor_units == 1000


async def test_disputes_and_refunds_of_others_are_seen(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """What banks and staff did shows on the payment, and every id that names it leads there."""
    name = await make(provider)
    fake.account.pay(name)
    refund = fake.account.refund_at_dashboard(name, 300)
    dispute = fake.account.dispute(name)
    found = await provider.retrieve(name)

    assert [each.state for each in found.disputes] == [DisputeState.OPEN]
    assert [(each.refund_id, each.minor_units) for each in found.refunds] == [("", 300)]
    for reference in (refund["id"], refund["charge"], refund["payment_intent"], dispute["id"]):
        assert await provider.retrieve(reference) == found


async def test_a_refund_may_wait_and_may_fail_in_the_end(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """A refund is what Stripe says of it now, also one that it had called done."""
    name = await make(provider)
    fake.account.pay(name)
    fake.account.refunds_wait = True
    asked = await provider.refund(name, "r1", 500, "key-r1")
    fake.account.finish_refund(asked.provider_refund_id)
    done = await provider.refund(name, "r1", 500, "key-r1")
    fake.account.fail_refund(asked.provider_refund_id)
    failed = (await provider.retrieve(name)).refunds[0]

    assert asked.state is RefundState.PENDING
    assert done.state is RefundState.SUCCEEDED
    assert (failed.state, failed.reason) == (RefundState.FAILED, "expired_or_canceled_card")
    assert failed.refund_id == "r1"


async def test_all_refunds_are_read_however_many(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """A charge shows ten; the others are fetched. Oldest first."""
    name = await make(provider)
    fake.account.pay(name)
    for number in range(23):
        await provider.refund(name, f"r{number}", 10, f"key-{number}")

    found = (await provider.retrieve(name)).refunds
    assert [each.refund_id for each in found] == [f"r{number}" for number in range(23)]


async def test_what_was_given_back_in_full_is_declined(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """The refusal says that it is about the money."""
    name = await make(provider)
    fake.account.pay(name)
    fake.account.refund_at_dashboard(name, 1430)

    with pytest.raises(Declined, match="charge_already_refunded"):
        await provider.refund(name, "r1", 1, "key-r1")


async def test_nothing_is_given_back_of_what_nobody_paid(provider: StripeProvider) -> None:
    """An open session has nothing to refund."""
    name = await make(provider)

    with pytest.raises(Rejected):
        await provider.refund(name, "r1", 1, "key-r1")


async def test_finding_goes_through_every_page(fake: FakeStripe, provider: StripeProvider) -> None:
    """The wanted session may be the oldest of many."""
    payment = new_payment(provider)
    made = await provider.create(provider.parameters(payment), "k0")
    for number in range(1, 121):
        other = new_payment(provider)
        await provider.create(provider.parameters(other), f"k{number}")
    found = await provider.find(payment.payment_id, payment.created_at.ToNanoseconds())

    assert found == made
    assert fake.calls["sessions.list"] == 2


async def test_of_two_sessions_the_paid_one_is_found(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """Should two attempts have made one each, money that came is not overlooked."""
    payment = new_payment(provider)
    names = [
        (await provider.create(provider.parameters(payment), key)).provider_payment_id
        for key in ("k1", "k2", "k3")
    ]
    fake.account.pay(names[1])
    found = await provider.find(payment.payment_id, payment.created_at.ToNanoseconds())

    assert found is not None
    assert (found.provider_payment_id, found.status) == (names[1], ProviderStatus.PAID)


@pytest.mark.parametrize("name", ["", "cs_", "cs_../../refunds", "in_1", "pi_1?x=1", "cs_1\n"])
async def test_names_that_stripe_does_not_give_are_never_sent(
    fake: FakeStripe, provider: StripeProvider, name: str
) -> None:
    """What a message calls a reference does not steer a request."""
    with pytest.raises(Rejected):
        await provider.retrieve(name)

    assert not fake.calls


async def test_only_what_was_made_since_is_listed(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """By Stripe's clock, newest first, over all pages, and only what was paid."""
    names = [await make(provider, f"k{number}") for number in range(103)]
    for name in names[:102]:
        fake.account.pay(name)
    fake.account.tables["cs"][names[0]]["created"] -= 3600
    since_ns = fake.account.clock.now_ns() - 1800 * 10**9
    listed = [each.provider_payment_id async for each in provider.completed(since_ns)]

    assert listed == names[101:0:-1]
    assert fake.calls["sessions.list"] == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make objects of which any field may be absent, or anything."""
    return JSON | st.fixed_dictionaries({}, optional={k: v | JSON for k, v in fields.items()})


REFUNDS = objects(
    data=st.lists(objects(id=st.just("re_1"), status=st.just("succeeded"), amount=st.just(5)))
)
INTENT = objects(
    status=st.sampled_from(["processing", "canceled", "requires_payment_method", "succeeded"]),
    amount_received=st.integers(),
    last_payment_error=objects(code=st.just("card_declined")),
    latest_charge=objects(refunds=REFUNDS, disputed=st.booleans()),
)
SESSIONS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["open", "complete", "expired", "new"]) | JSON,
        "payment_status": st.sampled_from(["paid", "unpaid", "new"]) | JSON,
        "payment_intent": INTENT,
        "metadata": JSON,
        "amount_total": st.integers() | JSON,
        "expires_at": st.integers() | JSON,
        "currency": JSON,
    },
)


@given(session=SESSIONS)
def test_nothing_that_stripe_may_say_breaks_the_translation(session: dict[str, Any]) -> None:
    """And only a completed and paid session is ever called paid."""
    snapshot = translation.snapshot(session)
    is_paid = session.get("status") == "complete" and session.get("payment_status") == "paid"

    assert (snapshot.status is ProviderStatus.PAID) is is_paid
    assert snapshot.expires_at_ns is None or abs(snapshot.expires_at_ns) < 1 << 63


def test_states_that_are_not_known_are_unknown() -> None:
    """And never taken for any other."""
    session = {"status": "complete", "payment_status": "sent_by_pigeon"}

    assert translation.snapshot(session).status is ProviderStatus.UNKNOWN
    assert translation.snapshot({}).status is ProviderStatus.UNKNOWN
    assert translation.refund({"status": "reviewing"}).state is RefundState.PENDING
