"""`ProviderContract`: a test for every promise of `payments.provider.PaymentProvider`.

To hold a provider to it, subclass it in a test module (pytest-asyncio in auto mode), override the
fixture `provider`, and say in `guest_pays` and its companions how a person acts at that provider.
What cannot be done there is said in one of the class attributes: the reason of the skipped tests.
"""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

import pytest

from maitred.server.domain.snapshots import ProviderStatus, RefundState
from maitred.server.engine.clock import RandomIds, SystemClock
from maitred.server.payments.provider import BadNotice, PaymentProvider, Rejected
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import Payment

__all__ = ["ProviderContract"]

AMOUNT = 1430


def new_payment(provider: PaymentProvider, minor_units: int = AMOUNT) -> Payment:
    """A payment as it is when its parameters are built."""
    ids = RandomIds(SystemClock())
    limits = provider.limits("USD")
    payment = Payment(
        payment_id=ids.new_id(),
        session_id=f"contract-{ids.new_id()}",
        amount=Money(minor_units=minor_units, currency="USD"),
        tab_amount=Money(minor_units=minor_units - 130, currency="USD"),
        tip_amount=Money(minor_units=130, currency="USD"),
        credit_applied=Money(minor_units=0, currency="USD"),
    )
    now_s = int(time.time())
    payment.created_at.seconds = now_s
    payment.expires_at.seconds = now_s + max(limits.lifetime_min_s, 3600)
    return payment


class ProviderContract:
    """Every promise of the protocol, for one provider."""

    lacks_guests: ClassVar[str] = ""
    """Nobody can pay in a test."""
    lacks_keys: ClassVar[str] = ""
    """The provider forgets keys at once, as some doubles do."""
    lacks_find: ClassVar[str] = ""
    """Payments cannot be looked for."""
    lacks_refunds: ClassVar[str] = ""
    """Nothing can be given back."""
    lacks_notices: ClassVar[str] = ""
    """No messages come from outside, as from a provider that hands them out by itself."""

    @pytest.fixture
    async def provider(self) -> PaymentProvider:
        """Override: yield a provider, and close it afterwards."""
        raise NotImplementedError("override the fixture `provider`")

    async def guest_pays(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Override: pay a link as a guest does."""
        raise NotImplementedError("override `guest_pays`, or say in `lacks_guests` why not")

    async def guest_is_declined(self, provider: PaymentProvider, provider_payment_id: str) -> None:
        """Override: try a card that is declined."""
        raise NotImplementedError("override `guest_is_declined`, or say in `lacks_guests` why not")

    async def messages(
        self, provider: PaymentProvider, provider_payment_id: str
    ) -> list[tuple[bytes, str]]:
        """Override: what was sent about a payment so far, oldest first: bodies and signatures."""
        raise NotImplementedError("override `messages`, or say in `lacks_notices` why not")

    async def test_parameters_are_the_same_bytes_every_time(
        self, provider: PaymentProvider
    ) -> None:
        """Building parameters is pure: what is sent again is what was sent."""
        payment = new_payment(provider)

        assert provider.parameters(payment) == provider.parameters(payment)

    async def test_a_new_link_is_open(self, provider: PaymentProvider) -> None:
        """The answer has the amount, the currency, a link and our own id."""
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")

        assert made.status is ProviderStatus.OPEN
        assert made.provider_payment_id
        assert made.url.startswith("http")
        assert (made.minor_units, made.currency) == (AMOUNT, "USD")
        assert made.payment_id == payment.payment_id
        assert await provider.retrieve(made.provider_payment_id) == made

    async def test_the_same_key_makes_one_link(self, provider: PaymentProvider) -> None:
        """Sent again, one after the other or at once, it is the same payment."""
        _skip(self.lacks_keys)
        payment = new_payment(provider)
        parameters, key = provider.parameters(payment), f"{payment.payment_id}:create:1"
        made = [await provider.create(parameters, key)]
        made += await asyncio.gather(*(provider.create(parameters, key) for _ in range(4)))

        assert len({each.provider_payment_id for each in made}) == 1

    async def test_a_key_is_bound_to_its_parameters(self, provider: PaymentProvider) -> None:
        """The same key with other parameters is refused: certainly nothing was made."""
        _skip(self.lacks_keys)
        payment, other = new_payment(provider), new_payment(provider, AMOUNT + 1)
        key = f"{payment.payment_id}:create:1"
        await provider.create(provider.parameters(payment), key)

        with pytest.raises(Rejected):
            await provider.create(provider.parameters(other), key)

    async def test_what_was_created_is_found_by_our_id(self, provider: PaymentProvider) -> None:
        """A lost answer is found again; what was never created is not."""
        _skip(self.lacks_find)
        payment = new_payment(provider)
        created_ns = payment.created_at.ToNanoseconds()
        before = await provider.find(payment.payment_id, created_ns)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")

        assert before is None
        assert await provider.find(payment.payment_id, created_ns) == made

    async def test_an_unknown_payment_is_rejected(self, provider: PaymentProvider) -> None:
        """Asked for what it does not know, the provider says so."""
        with pytest.raises(Rejected):
            await provider.retrieve("cs_test_nobody_ever_made_this_one")

    async def test_an_expired_link_stays_expired(self, provider: PaymentProvider) -> None:
        """Expiring twice is the same as once."""
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        answers = [await provider.expire(made.provider_payment_id) for _ in range(2)]

        assert {answer.status for answer in answers} == {ProviderStatus.EXPIRED}
        assert (await provider.retrieve(made.provider_payment_id)).status is ProviderStatus.EXPIRED

    async def test_a_paid_link_cannot_be_expired(self, provider: PaymentProvider) -> None:
        """Who expires what was paid is told that it was paid."""
        _skip(self.lacks_guests)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        await self.guest_pays(provider, made.provider_payment_id)
        answer = await provider.expire(made.provider_payment_id)

        assert answer.status is ProviderStatus.PAID
        assert (answer.minor_units, answer.currency) == (AMOUNT, "USD")

    async def test_a_declined_card_leaves_the_link_open(self, provider: PaymentProvider) -> None:
        """The guest may try again."""
        _skip(self.lacks_guests)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        await self.guest_is_declined(provider, made.provider_payment_id)
        declined = await provider.retrieve(made.provider_payment_id)
        await self.guest_pays(provider, made.provider_payment_id)
        paid = await provider.retrieve(made.provider_payment_id)

        assert declined.status is ProviderStatus.OPEN
        assert paid.status is ProviderStatus.PAID

    async def test_a_refund_key_gives_back_once(self, provider: PaymentProvider) -> None:
        """The same key again is the same refund, and it shows on the payment."""
        _skip(self.lacks_guests or self.lacks_refunds)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        name, key = made.provider_payment_id, f"{payment.payment_id}:refund:r1"
        await self.guest_pays(provider, name)
        refunds = [await provider.refund(name, "r1", 500, key) for _ in range(2)]
        seen = (await provider.retrieve(name)).refunds

        assert refunds[0].provider_refund_id == refunds[1].provider_refund_id
        assert refunds[0].state is not RefundState.FAILED
        assert [(each.refund_id, each.minor_units) for each in seen] == [("r1", 500)]

    async def test_no_more_is_given_back_than_came(self, provider: PaymentProvider) -> None:
        """A refund beyond what is left is refused."""
        _skip(self.lacks_guests or self.lacks_refunds)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        await self.guest_pays(provider, made.provider_payment_id)
        await provider.refund(made.provider_payment_id, "r1", AMOUNT, f"{payment.payment_id}:r1")

        with pytest.raises(Rejected):
            await provider.refund(made.provider_payment_id, "r2", 1, f"{payment.payment_id}:r2")

    async def test_what_was_paid_is_listed(self, provider: PaymentProvider) -> None:
        """Whoever missed every message finds here what was paid, and nothing else."""
        _skip(self.lacks_guests)
        payment, unpaid = new_payment(provider), new_payment(provider)
        made = [
            await provider.create(provider.parameters(each), f"{each.payment_id}:create:1")
            for each in (payment, unpaid)
        ]
        name = made[0].provider_payment_id
        await self.guest_pays(provider, name)
        created_ns = payment.created_at.ToNanoseconds()
        listed = [each async for each in provider.completed(created_ns)]

        assert listed == [await provider.retrieve(name)]

    async def test_a_message_leads_to_its_payment(self, provider: PaymentProvider) -> None:
        """Whatever a message is about, its reference is enough to read the payment."""
        _skip(self.lacks_guests or self.lacks_notices)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        await self.guest_pays(provider, made.provider_payment_id)
        messages = await self.messages(provider, made.provider_payment_id)
        notices = [provider.read_notice(*each) for each in messages]
        found = [await provider.retrieve(each.reference) for each in notices]

        assert notices
        assert {each.foreign for each in notices} == {""}
        assert len({each.event_id for each in notices}) == len(notices)
        assert [provider.read_notice(*each) for each in messages] == notices
        assert set(found) == {await provider.retrieve(made.provider_payment_id)}

    async def test_a_message_that_was_touched_is_refused(self, provider: PaymentProvider) -> None:
        """One byte more, or another's signature, and nothing of it is believed."""
        _skip(self.lacks_guests or self.lacks_notices)
        payment = new_payment(provider)
        made = await provider.create(provider.parameters(payment), f"{payment.payment_id}:create:1")
        await self.guest_pays(provider, made.provider_payment_id)
        body, signature = (await self.messages(provider, made.provider_payment_id))[-1]

        for touched in ((body + b" ", signature), (body, ""), (body[1:], signature)):
            with pytest.raises(BadNotice):
                provider.read_notice(*touched)

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"\xff", b"{" * 10_000])
    async def test_strangers_bytes_are_no_message(
        self, provider: PaymentProvider, body: bytes
    ) -> None:
        """Whatever somebody sends who has no secret, the answer is the same."""
        with pytest.raises(BadNotice):
            provider.read_notice(body, "t=1,v1=00")

    async def test_a_provider_gives_a_sign_of_life(self, provider: PaymentProvider) -> None:
        """A probe that returns is one."""
        await provider.probe()


def _skip(reason: str) -> None:
    if reason:
        pytest.skip(reason)
