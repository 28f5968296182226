"""The failures that payment systems die of, with Stripe at the far end: the server as a whole.

The numbers, 28 to 33, are those of the list that this server was built from.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from tests.payments.conftest import usd
from tests.support.bar import add, new_guest, open_bar, session
from tests.support.stripe import StripeBar, server_settings, until
from tests.support.wire import Wire, wired

from maitred.server.app.server import Server
from maitred.server.config import Settings, SettingsError
from maitred.server.engine.clock import ManualClock
from maitred.server.errors import PaymentNotFound, StripeUnavailable
from maitred.server.payments.provider import BadNotice
from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1 import admin_pb2
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import PAYMENT_STATUS_OPEN, PAYMENT_STATUS_SUCCEEDED, Payment


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


class House:
    """A whole server, its side door, and a guest with a beer on the tab."""

    def __init__(self, server: Server, wire: Wire, http: httpx.AsyncClient) -> None:
        self.server = server
        self.wire = wire
        self.http = http

    async def guest(self) -> str:
        """Seat a guest who orders."""
        name = await new_guest(self.wire)
        await self.wire("OrderService/AddItem", add(name))
        return name

    async def create(self, guest: str) -> Payment:
        """Ask for a guest's payment."""
        request = pb.CreatePaymentRequest(session_id=guest)
        made: Payment = (await self.wire("PaymentService/CreatePayment", request)).payment
        return made

    async def post(self, body: bytes, signature: str) -> tuple[int, str]:
        """Deliver a webhook; the status and what was said."""
        headers = {"Stripe-Signature": signature}
        reply = await self.http.post(self.server.webhook_url, content=body, headers=headers)
        return reply.status_code, reply.text.strip()

    async def settled(self) -> None:
        """Wait until every webhook that was taken in is worked off."""
        await self.server.parts.coordinator.inbox.settled_down()


@asynccontextmanager
async def house(fake: FakeStripe, directory: Path, **changes: Any) -> AsyncIterator[House]:
    """Run a whole server on the fake."""
    settings = server_settings(fake, directory, **changes)
    async with (
        wired(clock=fake.account.clock, **settings) as (server, wire),
        httpx.AsyncClient(timeout=20) as http,
    ):
        await open_bar(wire)
        yield House(server, wire, http)


# --- 28, 29: messages that are not what they should be --------------------------------------------


async def test_s28_messages_of_another_mode_or_account_are_none_of_ours(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """Genuine, acknowledged so that they end, and without any effect."""
    async with house(fake, tmp_path) as server:
        guest = await server.guest()
        payment = await server.create(guest)
        fake.account.pay(payment.provider_payment_id)
        answers = []
        for body, _ in fake.drain_events():
            for change in ({"livemode": True}, {"account": "acct_other"}):
                foreign = json.dumps({**json.loads(body), **change}).encode()
                answers.append(await server.post(foreign, fake.sign(foreign)))
        await server.settled()
        state = await session(server.wire, guest)

    assert set(answers) == {(200, "ignored")}
    assert state.latest_payment.status == PAYMENT_STATUS_OPEN
    assert fake.calls["sessions.retrieve"] == 0


async def test_s29_messages_that_prove_nothing_are_refused(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """Unsigned, signed by somebody else, changed, or no event at all: 400, never 500."""
    async with house(fake, tmp_path) as server:
        payment = await server.create(await server.guest())
        fake.account.pay(payment.provider_payment_id)
        body, signature = fake.drain_events()[-1]
        bad = [
            (body, "t=1,v1=ab"),
            (body, fake.sign(body, secret="whsec_of_somebody_else")),  # noqa: S106 - opens nothing
            (body + b" ", signature),
            *((each, fake.sign(each)) for each in (b"no json", b"[]", b"{}", b"null")),
            (b"\xff\xfe", signature),
        ]
        answers = [await server.post(*each) for each in bad]

    assert set(answers) == {(400, "rejected")}


async def test_s29_kinds_that_are_not_known_do_no_harm(fake: FakeStripe, tmp_path: Path) -> None:
    """A new kind about a payment is a reason to look; any other is acknowledged."""
    async with house(fake, tmp_path) as server:
        guest = await server.guest()
        payment = await server.create(guest)
        fake.account.pay(payment.provider_payment_id)
        event = json.loads(fake.drain_events()[-1][0])
        answers = []
        for name, kind in (("evt_a", "checkout.session.teleported"), ("evt_b", "weather.changed")):
            body = json.dumps({**event, "id": name, "type": kind}).encode()
            answers.append(await server.post(body, fake.sign(body)))
        await server.settled()
        state = await session(server.wire, guest)

    assert answers == [(200, "accepted"), (200, "ignored")]
    assert state.latest_payment.status == PAYMENT_STATUS_SUCCEEDED


async def test_s29_a_state_that_is_not_known_changes_nothing(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """Until Stripe says something that this server understands."""
    payment = (await bar.create()).payment
    stored = fake.account.tables["cs"][payment.provider_payment_id]
    stored["status"] = "levitating"
    await bar.poll(3)
    between = await bar.payment()
    stored["status"] = "open"
    fake.account.pay(payment.provider_payment_id)
    await bar.poll(4)

    assert between == payment
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_thin_messages_are_as_good_as_whole_ones(fake: FakeStripe, tmp_path: Path) -> None:
    """They say where to look, and that is all that is read of the others."""
    async with house(fake, tmp_path) as server:
        guest = await server.guest()
        payment = await server.create(guest)
        fake.account.pay(payment.provider_payment_id)
        answers = [await server.post(*each) for each in fake.drain_events(thin_ones=True)]
        await server.settled()
        state = await session(server.wire, guest)

    assert set(answers) == {(200, "accepted")}
    assert state.latest_payment.status == PAYMENT_STATUS_SUCCEEDED


# --- 30, 31: the provider itself ------------------------------------------------------------------


async def test_s30_a_revoked_key_keeps_what_is_open_and_refuses_what_is_new(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """No fallback, nothing recorded, and it heals when somebody mends the key."""
    await bar.seat(900, "s2")
    kept = (await bar.create()).payment
    key, fake.api_key = fake.api_key, "sk_test_another"
    checked = await bar.check()
    with pytest.raises(StripeUnavailable):
        await bar.create("s2")
    with pytest.raises(PaymentNotFound):
        await bar.payment(name="s2")
    health = await bar.coordinator.health()
    joined = (await bar.create()).payment
    fake.api_key = key
    bar.clock.advance(31)
    healed = (await bar.create("s2")).payment

    assert checked.payment == joined == kept
    assert (health.provider, health.available, health.is_simulated) == ("stripe", False, False)
    assert "sk_test" not in health.detail
    assert (healed.status, healed.is_simulated) == (PAYMENT_STATUS_OPEN, False)


async def test_s30_a_key_revoked_while_a_link_is_made_leaves_the_intent(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The caller is told; with a good key the same payment goes on."""
    fake.script("sessions.create", "unauthorized")
    with pytest.raises(StripeUnavailable):
        await bar.create(request_id="r1")
    kept = await bar.payment()
    payment = (await bar.create(request_id="r1")).payment

    assert (payment.payment_id, payment.status) == (kept.payment_id, PAYMENT_STATUS_OPEN)
    assert payment.request.attempt == 1


async def test_s30_the_health_of_the_provider_is_told(fake: FakeStripe, tmp_path: Path) -> None:
    """To who asks the server."""
    async with house(fake, tmp_path, payment_probe_ttl_s=0.0) as server:
        request = admin_pb2.GetProviderHealthRequest()
        well = await server.wire("AdminService/GetProviderHealth", request)
        fake.api_key = "sk_test_another"
        ill = await server.wire("AdminService/GetProviderHealth", request)

    assert (well.available, ill.available) == (True, False)


async def test_s30_a_server_does_not_start_with_a_key_that_stripe_refuses(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """A wrong key shows at once and not to the first guest."""
    changes = {"stripe_api_key": "sk_test_wrong"}
    with pytest.raises(SettingsError, match="does not accept the key"):
        async with house(fake, tmp_path, **changes):
            pass


@pytest.mark.parametrize(
    "settings",
    [
        {"payments": "simulated", "stripe_api_key": "sk_live_1"},
        {"payments": "simulated", "stripe_api_key": "rk_live_1"},
        {"payments": "simulated", "allow_simulated_fallback": True},
        {"payments": "stripe"},
        {"payments": "stripe", "stripe_api_key": "sk_live_1", "allow_simulated_fallback": True},
    ],
)
def test_s31_settings_that_could_simulate_real_money_are_refused(settings: dict[str, Any]) -> None:
    """Before anything is opened."""
    with pytest.raises(SettingsError):
        Settings(stripe_success_url="https://house.example/", **settings)


async def test_s31_a_fallback_is_asked_for_and_shows(fake: FakeStripe, tmp_path: Path) -> None:
    """A simulated payment says so in every place; the next one is real again."""
    bar = await StripeBar.open(tmp_path, fake, allow_simulated_fallback=True)
    await bar.seat(900, "s2")
    await bar.seat(900, "s3")
    real = (await bar.create()).payment
    key, fake.api_key = fake.api_key, "sk_test_another"
    await bar.check()
    with capture_logs() as logs:
        simulated = (await bar.create("s2")).payment
    fake.api_key = key
    bar.clock.advance(31)
    again = (await bar.create("s3")).payment
    checked = await bar.check(name="s2")
    await bar.stop()

    assert (simulated.is_simulated, simulated.provider) == (True, "simulated")
    assert simulated.url.startswith("https://simulated.invalid/")
    assert not real.is_simulated
    assert (again.is_simulated, again.provider) == (False, "stripe")
    assert (checked.payment.provider, checked.payment.status) == ("simulated", PAYMENT_STATUS_OPEN)
    assert [each["log_level"] for each in logs if each["event"] == "fell_back"] == ["warning"]


# --- 32: clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_s32_a_clock_that_is_wrong_stops_webhooks_and_not_payments(
    bar: StripeBar, fake: FakeStripe, seconds: int
) -> None:
    """A message of another time is refused, for it may be a replay; polling settles."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    body, _ = fake.drain_events()[-1]
    now_s = bar.clock.now_ns() // 10**9
    with pytest.raises(BadNotice):
        await bar.take(body, fake.sign(body, at_s=now_s + seconds))
    within = await bar.take(body, fake.sign(body, at_s=now_s + seconds // 2))
    await bar.poll(3)

    assert within
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_s32_polling_alone_settles_where_every_webhook_is_refused(
    bar: StripeBar, fake: FakeStripe
) -> None:
    """The skew may last for ever."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    for body, _ in fake.drain_events():
        with pytest.raises(BadNotice):
            await bar.take(body, fake.sign(body, at_s=1))
    await bar.poll(3)

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


# --- 33: load -------------------------------------------------------------------------------------


async def test_s33_twenty_guests_at_once_each_pay_once(fake: FakeStripe, tmp_path: Path) -> None:
    """Links, orders, payments and webhooks all at the same time."""
    async with house(fake, tmp_path, payment_rate_per_s=1000.0) as server:

        async def visit() -> str:
            guest = await server.guest()
            payment = await server.create(guest)
            fake.account.pay(payment.provider_payment_id)
            events = fake.drain_events() * 2
            replies = await asyncio.gather(*(server.post(*each) for each in events))
            assert {status for status, _ in replies} == {200}
            await server.wire("OrderService/AddItem", add(guest, "olives"))
            return guest

        guests = await asyncio.gather(*(visit() for _ in range(20)))
        await server.settled()
        states = [await session(server.wire, guest) for guest in guests]

    assert [state.ledger.received for state in states] == [400] * 20
    assert [state.payment.tab_total for state in states] == [usd(333)] * 20


async def test_s33_a_database_that_somebody_else_holds_is_waited_for(
    fake: FakeStripe, tmp_path: Path
) -> None:
    """Webhooks are acknowledged when they are durable, and not before."""
    async with house(fake, tmp_path) as server:
        guest = await server.guest()
        payment = await server.create(guest)
        fake.account.pay(payment.provider_payment_id)
        other = sqlite3.connect(tmp_path / "maitred.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        inbox = server.server.parts.coordinator.inbox
        posting = [asyncio.create_task(server.post(*each)) for each in fake.drain_events()]
        await asyncio.wait(posting, timeout=0.3)
        early = [each.result() for each in posting if each.done()]
        other.execute("ROLLBACK")
        other.close()
        answers = await asyncio.gather(*posting)
        await until(lambda: not len(inbox))
        state = await session(server.wire, guest)

    assert early == []
    assert set(answers) == {(200, "accepted")}
    assert state.ledger.received == 400
