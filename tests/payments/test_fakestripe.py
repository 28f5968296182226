"""The fake that Stripe's provider is tested against behaves as Stripe does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from maitred.server.domain.snapshots import ProviderStatus
from maitred.server.payments.provider import (
    OutcomeUnknown,
    Rejected,
    canonical_json,
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


Spoil = Callable[[dict[str, Any]], object]

REFUSED: dict[str, Spoil] = {
    "parameter_unknown": lambda it: it.update(sucess_url="https://house.example"),
    "payment_method_types_no_longer_supported": lambda it: it.update(payment_method_types=["card"]),
    "param=expires_at": lambda it: it.update(expires_at=it["expires_at"] - 3600 + 29 * 60),
    "expires_at": lambda it: it.update(expires_at=it["expires_at"] + 24 * 3600),
    "amount_too_small": lambda it: it.update(line_items=[_line(it, 49)]),
    "amount_too_large": lambda it: it.update(line_items=[_line(it, 100_000_000)]),
    "parameter_invalid_integer": lambda it: it.update(line_items=[_line(it, 13.5)]),
    "parameter_missing": lambda it: it.pop("mode"),
}


def _line(asked: dict[str, Any], unit_amount: object) -> dict[str, Any]:
    line = asked["line_items"][0]
    return {**line, "price_data": {**line["price_data"], "unit_amount": unit_amount}}


@pytest.mark.parametrize(("code", "spoil"), REFUSED.items())
async def test_the_fake_refuses_what_stripe_refuses(
    fake: FakeStripe, provider: StripeProvider, code: str, spoil: Spoil
) -> None:
    """And keeps no such answer: the same key works for what is right."""
    good = provider.parameters(new_payment(provider))
    bad = json.loads(good)
    spoil(bad)
    with pytest.raises(Rejected, match=code):
        await provider.create(canonical_json(bad), "k1")

    assert (await provider.create(good, "k1")).status is ProviderStatus.OPEN


async def test_a_key_is_taken_up_once_at_a_time() -> None:
    """Who sends it again meanwhile learns nothing; afterwards, what came of it."""
    async with FakeStripe(latency_s=0.05) as fake, opened(fake) as provider:
        parameters = provider.parameters(new_payment(provider))
        answers = await asyncio.gather(
            *(provider.create(parameters, "k1") for _ in range(5)), return_exceptions=True
        )
        made = [each for each in answers if not isinstance(each, BaseException)]

        assert len(made) == 1
        assert sum(type(each) is OutcomeUnknown for each in answers) == 4
        assert await provider.create(parameters, "k1") == made[0]


async def test_a_forgotten_key_makes_another_session(
    fake: FakeStripe, provider: StripeProvider
) -> None:
    """Why nothing may be sent again after a day without looking first."""
    parameters = provider.parameters(new_payment(provider))
    first = await provider.create(parameters, "k1")
    fake.forget_keys()

    assert await provider.create(parameters, "k1") != first


async def test_the_fake_runs_as_a_process_of_its_own() -> None:
    """Told by HTTP what guests do, it counts calls and hands out signed messages."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "maitred.server.testing.fakestripe", "--rate", "100"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        url = line.decode().split()[-1]
        here = FakeStripe()
        async with opened(here, api_base=url) as provider, httpx.AsyncClient(base_url=url) as guest:
            payment = new_payment(provider)
            made = await provider.create(provider.parameters(payment), "k1")
            for wanted in (payment.payment_id, "nobody"):
                answer = await guest.post("/_control/pay", params={"session": wanted})
                assert answer.status_code == (404 if wanted == "nobody" else 200)
            again = await guest.post("/_control/pay", params={"session": payment.payment_id})
            paid = await provider.retrieve(made.provider_payment_id)
            calls = (await guest.get("/_control/calls")).json()
            messages = (await guest.get("/_control/events")).json()
            notices = [
                provider.read_notice(each["body"].encode(), each["signature"]) for each in messages
            ]
    finally:
        process.terminate()
        code = await process.wait()

    assert code == 0
    assert again.status_code == 409
    assert paid.status is ProviderStatus.PAID
    assert calls == {"sessions.create": 1, "sessions.retrieve": 1}
    assert notices[-1].payment_id == payment.payment_id
