"""Whatever breaks on the way to Stripe has its right name, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from maitred.server.domain.snapshots import ProviderStatus, RefundState
from maitred.server.payments.provider import (
    AnsweredWithFault,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Unauthorized,
    Unreachable,
)
from maitred.server.payments.stripe import StripeProvider
from maitred.server.testing.fakestripe import FakeStripe, opened
from maitred.server.testing.providers import new_payment

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


FAULTS: list[tuple[str, type[ProviderError], bool]] = [
    ("conflict", OutcomeUnknown, False),
    ("key_in_use", OutcomeUnknown, False),
    ("rate_limited:7", RateLimited, False),
    ("unauthorized", Unauthorized, False),
    ("forbidden", Unauthorized, False),
    ("error_503", AnsweredWithFault, False),
    ("html_502", AnsweredWithFault, False),
    ("garbage", OutcomeUnknown, False),
    ("dropped", OutcomeUnknown, False),
    ("timeout", OutcomeUnknown, False),
    ("html_502_after", AnsweredWithFault, True),
    ("garbage_after", OutcomeUnknown, True),
    ("dropped_after", OutcomeUnknown, True),
    ("timeout_after", OutcomeUnknown, True),
]


@pytest.mark.parametrize(("fault", "error", "is_done"), FAULTS)
async def test_a_fault_of_creating_has_its_right_name(
    fake: FakeStripe, fault: str, error: type[ProviderError], is_done: bool
) -> None:
    """Each fault is told apart, and the same key afterwards has made one session."""
    async with opened(fake, timeout_s=0.5) as provider:
        payment = new_payment(provider)
        parameters = provider.parameters(payment)
        fake.script("sessions.create", fault)
        with pytest.raises(error) as caught:
            await provider.create(parameters, "k1")
        done = len(fake.account.tables["cs"])
        made = await provider.create(parameters, "k1")

    assert type(caught.value) is error
    assert done == is_done
    assert made.status is ProviderStatus.OPEN
    assert len(fake.account.tables["cs"]) == 1


@pytest.mark.parametrize(("fault", "error", "is_done"), FAULTS)
async def test_a_fault_of_a_refund_has_its_right_name(
    fake: FakeStripe, fault: str, error: type[ProviderError], is_done: bool
) -> None:
    """Nor is money given back twice."""
    async with opened(fake, timeout_s=0.5) as provider:
        name = await make(provider)
        fake.account.pay(name)
        fake.script("refunds.create", fault)
        with pytest.raises(error):
            await provider.refund(name, "r1", 500, "key-r1")
        done = len(fake.account.tables["re"])
        refund = await provider.refund(name, "r1", 500, "key-r1")

    assert done == is_done
    assert refund.state is RefundState.SUCCEEDED
    assert len(fake.account.tables["re"]) == 1


NONSENSE = [
    *("200:null", "200:[]", "200:7", '200:"text"', "200:{}", '200:{"id":"cs_1"}', "200:\xff"),
    *("301:", "400:null", '400:{"error":null}', '400:{"error":"text"}', "404:<html>", "418:[]"),
]


@pytest.mark.parametrize("answer", NONSENSE)
async def test_an_answer_that_is_none_of_stripes_leaves_it_open(
    fake: FakeStripe, provider: StripeProvider, answer: str
) -> None:
    """Whoever gave it, it does not tell whether anything was done."""
    parameters = provider.parameters(new_payment(provider))
    fake.script("sessions.create", f"garbage_after:{answer}")
    with pytest.raises(OutcomeUnknown):
        await provider.create(parameters, "k1")

    assert (await provider.create(parameters, "k1")).status is ProviderStatus.OPEN


@pytest.mark.parametrize(("fault", "is_done"), [("error_500", False), ("error_500_after", True)])
async def test_a_breakdown_that_is_kept_is_repeated_for_its_key(
    fake: FakeStripe, provider: StripeProvider, fault: str, is_done: bool
) -> None:
    """Stripe answers a key as it did at first; looking tells whether anything was made."""
    payment = new_payment(provider)
    parameters = provider.parameters(payment)
    fake.script("sessions.create", fault)
    for _ in range(3):
        with pytest.raises(AnsweredWithFault):
            await provider.create(parameters, "k1")
    found = await provider.find(payment.payment_id, payment.created_at.ToNanoseconds())

    assert (found is not None) is is_done


Question = Callable[[StripeProvider, str], Awaitable[object]]


async def _complete(provider: StripeProvider, _name: str) -> object:
    return [each async for each in provider.completed(0)]


READS: list[tuple[str, Question]] = [
    ("sessions.retrieve", lambda provider, name: provider.retrieve(name)),
    ("sessions.list", lambda provider, _: provider.find("nobody", 0)),
    ("sessions.list", lambda provider, _: provider.probe()),
    ("sessions.list", _complete),
    ("sessions.expire", lambda provider, name: provider.expire(name)),
]


@pytest.mark.parametrize(("operation", "question"), READS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", RateLimited),
        ("unauthorized", Unauthorized),
        ("garbage", OutcomeUnknown),
        ("html_502", AnsweredWithFault),
        ("dropped", OutcomeUnknown),
    ],
)
async def test_a_fault_of_asking_has_its_right_name(
    fake: FakeStripe,
    provider: StripeProvider,
    operation: str,
    question: Question,
    fault: str,
    error: type[ProviderError],
) -> None:
    """Whatever is asked, the answer is of the vocabulary, and asking again works."""
    name = await make(provider)
    # Twice: some of them the SDK puts once more by itself.
    fake.script(operation, fault, fault)
    with pytest.raises(error):
        await question(provider, name)
    fake.heal()

    await question(provider, name)


async def test_a_question_that_was_lost_is_put_once_more(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """A read is repeated by the SDK; what changes anything never is."""
    name = await make(provider)
    fake.script("sessions.retrieve", "dropped")
    await provider.retrieve(name)
    fake.script("sessions.create", "dropped")
    with pytest.raises(OutcomeUnknown):
        await make(provider, "k2")

    assert fake.calls["sessions.retrieve"] == 2
    assert fake.calls["sessions.create"] == 2


async def test_the_wait_that_stripe_asks_for_is_told(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """From Retry-After."""
    fake.script("sessions.list", "rate_limited:7")
    with pytest.raises(RateLimited) as caught:
        await provider.probe()

    assert caught.value.retry_after_s == 7.0


async def test_too_many_at_once_are_told_to_wait() -> None:
    """The fake's limit is a limit."""
    async with FakeStripe(rate=5) as fake, opened(fake) as provider:
        answers = await asyncio.gather(
            *(provider.probe() for _ in range(20)), return_exceptions=True
        )

    assert sum(isinstance(each, RateLimited) for each in answers) == 15


async def test_nobody_listening_is_unreachable() -> None:
    """A refused connection means that certainly nothing was sent."""
    async with FakeStripe() as fake:
        url = fake.url
    async with opened(fake, api_base=url) as provider:
        with pytest.raises(Unreachable, match="ConnectError"):
            await make(provider)


async def test_a_wrong_key_is_unauthorized_and_never_repeated(fake: FakeStripe) -> None:
    """The message is fit for a log."""
    secret = "sk_test_this_must_not_be_seen"  # noqa: S105 - it opens nothing
    async with opened(fake, api_key=secret) as provider:
        with pytest.raises(Unauthorized) as caught:
            await provider.probe()

    assert "sk_test" not in str(caught.value)
    assert "sk_test" not in repr(fake.config())
    assert caught.value.__cause__ is None


async def test_a_replay_that_cannot_be_read_is_not_called_undone(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """It was made: that reading it failed must not say otherwise."""
    payment = new_payment(provider)
    await provider.create(provider.parameters(payment), "k1")
    fake.script("sessions.retrieve", "rate_limited")

    with pytest.raises(OutcomeUnknown, match="made before"):
        await provider.create(provider.parameters(payment), "k1")


async def test_a_replay_answers_the_payment_as_it_is_now(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """Not as it was when the key was first used."""
    payment = new_payment(provider)
    made = await provider.create(provider.parameters(payment), "k1")
    fake.account.pay(made.provider_payment_id)
    again = await provider.create(provider.parameters(payment), "k1")

    assert again.status is ProviderStatus.PAID


async def test_closing_ends_what_is_under_way(fake: FakeStripe) -> None:
    """A call that waits for its answer ends as unknown; one that comes later is not sent."""
    async with opened(fake) as provider:
        fake.script("sessions.create", "timeout")
        call = asyncio.ensure_future(make(provider))
        while not fake.calls["sessions.create"]:
            await asyncio.sleep(0)
        await provider.aclose()

        with pytest.raises(OutcomeUnknown):
            await call
        with pytest.raises(Unreachable):
            await provider.probe()


async def test_every_request_says_its_version_and_nothing_of_this_machine(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """The version is ours and not the SDK's; telemetry is off."""
    for _ in range(2):
        await provider.probe()

    for seen in fake.seen:
        assert seen.headers["stripe-version"] == "2026-10-28.endive"
        assert "x-stripe-client-telemetry" not in seen.headers
        assert "telemetry_id" not in seen.headers["x-stripe-client-user-agent"]


async def test_the_mode_is_the_keys(fake: FakeStripe) -> None:
    """Live keys, restricted ones too, move real money."""
    modes = {}
    for key in ("sk_live_1", "rk_live_1", "sk_test_1", "rk_test_1"):
        async with opened(fake, api_key=key) as provider:
            modes[key] = provider.livemode

    assert [mode for key, mode in modes.items() if "live" in key] == [True, True]
    assert [mode for key, mode in modes.items() if "test" in key] == [False, False]
