"""The simulated provider keeps the contract; and what only it does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maitred.server.domain.snapshots import ProviderStatus
from maitred.server.engine.clock import ManualClock
from maitred.server.payments import simulated
from maitred.server.payments.books import Refused
from maitred.server.payments.provider import (
    AnsweredWithFault,
    Notice,
    OutcomeUnknown,
    PaymentProvider,
    RateLimited,
    Rejected,
    Unreachable,
)
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.testing.providers import ProviderContract, new_payment


class TestSimulated(ProviderContract):
    """The whole contract."""

    lacks_notices = "its notices come out of the books, never from outside"

    @pytest.fixture
    async def provider(self, tmp_path: Path) -> AsyncIterator[PaymentProvider]:
        """Yield a provider with empty books."""
        provider = SimulatedProvider(tmp_path)
        yield provider
        await provider.aclose()

    async def guest_pays(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Pay through the books."""
        assert isinstance(provider, SimulatedProvider)
        simulated.pay(provider.books.directory, provider_payment_id)

    async def guest_is_declined(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Try a bad card."""
        assert isinstance(provider, SimulatedProvider)
        simulated.decline(provider.books.directory, provider_payment_id)


async def create(provider: SimulatedProvider, key: str = "k1") -> str:
    """Create a payment; its id at the provider."""
    payment = new_payment(provider)
    return (await provider.create(provider.parameters(payment), key)).provider_payment_id


async def test_its_links_cannot_be_mistaken_for_real_ones(tmp_path: Path) -> None:
    """The name in the link never resolves, and the provider says that it is simulated."""
    provider = SimulatedProvider(tmp_path)
    payment = new_payment(provider)
    made = await provider.create(provider.parameters(payment), "k1")

    assert made.url.startswith("https://simulated.invalid/pay/sim_")
    assert provider.is_simulated
    assert json.loads(provider.parameters(payment))["livemode"] is False


async def test_another_process_pays(tmp_path: Path) -> None:
    """The books are a file: who pays need not be the server."""
    provider = SimulatedProvider(tmp_path)
    name = await create(provider)
    program = (
        "import sys, pathlib; from maitred.server.payments import simulated;"
        "simulated.pay(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    person = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), name
    )
    assert await person.wait() == 0

    assert (await provider.retrieve(name)).status is ProviderStatus.PAID


@pytest.mark.parametrize(
    ("outcome", "status"), [("pay", ProviderStatus.PAID), ("decline", ProviderStatus.FAILED)]
)
async def test_guests_act_by_themselves_after_a_while(
    tmp_path: Path, outcome: str, status: ProviderStatus
) -> None:
    """With an outcome, nobody has to pay by hand."""
    clock = ManualClock()
    provider = SimulatedProvider(tmp_path, outcome=outcome, delay_s=5, clock=clock)
    name = await create(provider)
    before = (await provider.retrieve(name)).status
    clock.advance(5)

    assert before is ProviderStatus.OPEN
    assert (await provider.retrieve(name)).status is status


FAULTS = [
    ("unreachable", Unreachable, False),
    ("rate_limited", RateLimited, False),
    ("rejected", Rejected, False),
    ("timeout_before", OutcomeUnknown, False),
    ("timeout_after", OutcomeUnknown, True),
    ("error_500", AnsweredWithFault, False),
    ("error_500_after", AnsweredWithFault, True),
]


@pytest.mark.parametrize(("step", "error", "done"), FAULTS)
async def test_faults_come_as_scripted(
    tmp_path: Path, step: str, error: type[Exception], done: bool
) -> None:
    """Each fault raises its error, before or after the work was done, and only once."""
    provider = SimulatedProvider(tmp_path, script={"create": [step]})
    payment = new_payment(provider)
    parameters = provider.parameters(payment)
    with pytest.raises(error):
        await provider.create(parameters, "k1")
    found = await provider.find(payment.payment_id, 0)
    again = await provider.create(parameters, "k1")

    assert (found is not None) is done
    assert again.status is ProviderStatus.OPEN


async def test_a_kept_fault_is_repeated_for_its_key_only(tmp_path: Path) -> None:
    """As providers do that keep their answers, breakdowns too."""
    provider = SimulatedProvider(tmp_path, script={"create": ["error_500_kept"]})
    for _ in range(2):
        with pytest.raises(AnsweredWithFault):
            await create(provider, "k1")

    assert await create(provider, "k2")


async def test_a_script_in_the_directory_is_followed(tmp_path: Path) -> None:
    """Faults can be had without writing a program."""
    (tmp_path / "script.json").write_text('{"probe": ["latency:0+unreachable"]}')
    provider = SimulatedProvider(tmp_path)
    with pytest.raises(Unreachable):
        await provider.probe()

    await provider.probe()


async def test_notices_come_twice_and_backwards_if_told_to(tmp_path: Path) -> None:
    """What a receiver must bear."""
    provider = SimulatedProvider(tmp_path, duplicate_notices=True, reverse_notices=True)
    names = [await create(provider, key) for key in ("k1", "k2")]
    for name in names:
        simulated.pay(tmp_path, name)
    heard: list[Notice] = []

    async def hear(notice: Notice) -> None:
        heard.append(notice)

    await provider.deliver(hear)

    assert [notice.reference for notice in heard] == [names[1], names[1], names[0], names[0]]
    assert len({notice.event_id for notice in heard}) == 2
    assert await provider.deliver(hear) == 0


async def test_a_dead_link_is_paid_only_by_late_money(tmp_path: Path) -> None:
    """Guests are refused; slow banks are not."""
    provider = SimulatedProvider(tmp_path)
    name = await create(provider)
    await provider.expire(name)
    with pytest.raises(Refused):
        simulated.pay(tmp_path, name)

    assert simulated.pay(tmp_path, name, late=True).status is ProviderStatus.PAID
