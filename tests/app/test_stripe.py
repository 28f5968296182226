"""A whole server that takes money by Stripe: its settings, its start, its side door, its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from maitred.client import AsyncClient, PaymentStatus, PaymentTimeout, StripeUnavailable
from maitred.server.app import webhooks
from maitred.server.app.server import Server, StartError
from maitred.server.config import Settings, SettingsError, settings_from
from maitred.server.testing.fakestripe import API_KEY, WEBHOOK_SECRET, FakeStripe
from maitred.server.testing.servers import running_server

URL = "https://house.example/thanks"
STRIPE = ["--payments", "stripe", "--stripe-success-url", URL, "--stripe-api-key"]
MENU = {
    "menu_id": "default",
    "currency": "USD",
    "items": [
        {"item_id": "tea", "name": "Tea", "price": {"minor_units": 300, "currency": "USD"}},
    ],
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeStripe]:
    """Run a Stripe of our own."""
    async with FakeStripe() as running:
        yield running


def stripe(fake: FakeStripe, **changes: Any) -> dict[str, Any]:
    """Name the settings of a server that takes money by this Stripe."""
    return {
        "payments": "stripe",
        "stripe_api_key": API_KEY,
        "stripe_success_url": URL,
        "stripe_api_base": fake.url,
        "webhook_listen": "127.0.0.1:0",
        "stripe_webhook_secrets": (WEBHOOK_SECRET,),
        **changes,
    }


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--payments", "stripe"], "requires stripe_api_key"),
        ([*STRIPE, "pk_live_1"], "not a secret or restricted key"),
        (["--payments", "stripe", "--stripe-api-key", "sk_test_1"], "requires stripe_success_url"),
        (["--stripe-api-key", "sk_live_1"], "payments are simulated but a live Stripe key is set"),
        (["--stripe-api-key", "rk_live_1"], "payments are simulated but a live Stripe key is set"),
        (["--allow-simulated-fallback"], "need payments stripe"),
        (["--webhook-listen", "127.0.0.1:0"], "need payments stripe"),
        ([*STRIPE, "sk_live_1", "--allow-simulated-fallback"], "not with a live key"),
        ([*STRIPE, "rk_live_1", "--stripe-api-base", "http://127.0.0.1:1"], "not with a live key"),
        ([*STRIPE, "sk_test_1", "--webhook-listen", "127.0.0.1:0"], "given together"),
        ([*STRIPE, "sk_test_1", "--stripe-webhook-secrets", "whsec_1"], "given together"),
        (["--webhook-tolerance-s", "0"], "webhook_tolerance_s: what was given is below 1"),
    ],
)
def test_settings_under_which_money_could_be_missed_are_refused(
    flags: list[str], message: str
) -> None:
    """Each in one line, before anything is opened."""
    with pytest.raises(SettingsError, match=message) as refused:
        settings_from(flags)

    assert "\n" not in str(refused.value)
    assert "live_1" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    """Neither by the repr of the settings nor by what is logged of them."""
    settings = settings_from(
        [
            *STRIPE,
            "sk_test_hush",
            "--stripe-webhook-secrets=whsec_hush,whsec_mute",
            "--webhook-listen=127.0.0.1:0",
        ]
    )

    assert settings.stripe_webhook_secrets == ("whsec_hush", "whsec_mute")
    assert "hush" not in repr(settings)


# --- start ----------------------------------------------------------------------------------------


async def test_a_wrong_key_ends_the_start(fake: FakeStripe) -> None:
    """Said in one line, and nothing is served."""
    with pytest.raises(SettingsError, match="stripe does not accept the key") as refused:
        async with running_server(**stripe(fake, stripe_api_key="sk_test_another")):
            pass

    assert "\n" not in str(refused.value)
    assert "sk_test_another" not in str(refused.value)


async def test_the_server_starts_while_stripe_is_away() -> None:
    """Orders need no provider; new payments are refused, and never simulated unasked."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        settings = stripe(FakeStripe(), stripe_api_base=base)
        async with running_server(**settings) as server, AsyncClient(server.address) as client:
            guest = await _guest(client)
            with pytest.raises(StripeUnavailable):
                await guest.create_payment()
            state = await guest.get_payment_state()
            health = await client.get_provider_health()

    assert state.state.tab_total.minor_units == 300
    assert not state.HasField("payment")
    assert (health.provider, health.available, health.is_simulated) == ("stripe", False, False)


async def test_a_fallback_that_was_asked_for_says_that_it_is_simulated() -> None:
    """For development only: each payment made then carries the mark."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        settings = stripe(FakeStripe(), stripe_api_base=base, allow_simulated_fallback=True)
        async with running_server(**settings) as server, AsyncClient(server.address) as client:
            payment = await (await _guest(client)).create_payment()

    assert (payment.provider, payment.is_simulated) == ("simulated", True)
    assert payment.status == PaymentStatus.PAYMENT_STATUS_OPEN


async def test_a_webhook_port_that_is_taken_ends_the_start(fake: FakeStripe) -> None:
    """The message names the address and what to do; what was opened is closed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server(
            Settings(listen="127.0.0.1:0", data="memory://", **stripe(fake, webhook_listen=where))
        )
        with pytest.raises(StartError, match=f"cannot serve HTTP on {where}"):
            await server.start()


# --- money ----------------------------------------------------------------------------------------


async def test_a_guest_pays_and_the_webhook_settles(fake: FakeStripe, tmp_path: Path) -> None:
    """From the link to the end of the watch, with every message sent twice."""
    settings = stripe(fake, data=f"sqlite:{tmp_path / 'm.db'}", payment_poll_interval_s=30.0)
    async with running_server(**settings) as server, AsyncClient(server.address) as client:
        guest = await _guest(client)
        payment = await guest.create_payment()
        fake.account.pay(payment.provider_payment_id)
        async with httpx.AsyncClient() as sender:
            answers = [
                (await _post(sender, server, *message)).status_code
                for message in fake.drain_events() * 2
            ]
            forged = await _post(sender, server, b'{"id":"evt_1"}', "t=1,v1=00")
        updates = [update async for update in guest.watch_payment(end_when_settled=True)]
        session = await guest.refresh()
        events = [event async for event in guest.list_events()]

    assert set(answers) == {200}
    assert forged.status_code == 400
    assert updates[-1].settled
    assert session.ledger.received == 300
    assert session.latest_payment.provider == "stripe"
    assert not session.latest_payment.is_simulated
    assert [event.WhichOneof("change") for event in events].count("payment_succeeded") == 1


async def test_unsigned_messages_take_no_turns(
    fake: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many strangers send, a genuine message is worked on as if they had not."""
    # Sixteen messages may follow each other; the next would wait for a quarter of an hour.
    monkeypatch.setattr(webhooks, "RATE_PER_S", 0.001)
    async with running_server(**stripe(fake)) as server, AsyncClient(server.address) as client:
        guest = await _guest(client)
        payment = await guest.create_payment()
        async with httpx.AsyncClient() as sender:
            forged = [await _post(sender, server, b"{}", "t=1,v1=00") for _ in range(40)]
            fake.account.pay(payment.provider_payment_id)
            genuine = [await _post(sender, server, *each) for each in fake.drain_events()]

    assert {each.status_code for each in forged} == {400}
    assert {each.status_code for each in genuine} == {200}


async def test_without_webhooks_polling_settles(fake: FakeStripe) -> None:
    """No public address is needed: a call that waits, or the poller alone, finds out."""
    settings = stripe(fake, webhook_listen="", stripe_webhook_secrets=())
    async with running_server(**settings, payment_poll_interval_s=0.05) as server:
        async with AsyncClient(server.address) as client:
            guest = await _guest(client)
            payment = await guest.create_payment()
            waiting = asyncio.create_task(guest.check_payment(wait=20))
            fake.account.pay(payment.provider_payment_id)
            checked = await waiting
        webhook_url = server.webhook_url

    assert checked.payment.status == PaymentStatus.PAYMENT_STATUS_SUCCEEDED
    assert not checked.wait_expired
    assert webhook_url == ""


async def test_a_provider_that_does_not_answer_is_a_timeout(fake: FakeStripe) -> None:
    """With tab and balance as they were; "still open" is an answer unless settled is required."""
    settings = stripe(fake, payment_poll_interval_s=0.05, payment_poll_timeout_s=0.1)
    async with running_server(**settings) as server, AsyncClient(server.address) as client:
        guest = await _guest(client)
        await guest.create_payment()
        still_open = await guest.check_payment(wait=0.2)
        with pytest.raises(PaymentTimeout, match="did not settle"):
            await guest.check_payment(wait=0.2, require_settled=True)
        fake.latency_s = 5.0
        before = await guest.refresh()
        with pytest.raises(PaymentTimeout, match="did not answer"):
            await guest.check_payment(wait=0.3)
        after = await guest.refresh()

    assert still_open.wait_expired
    assert after.payment == before.payment
    assert after.version == before.version


async def _guest(client: AsyncClient) -> Any:
    """Seat a guest who owes $3."""
    await client.put_menu(menu=MENU)
    guest = await client.create_session()
    await guest.add_item("Tea")
    return guest


async def _post(
    sender: httpx.AsyncClient, server: Server, body: bytes, signature: str
) -> httpx.Response:
    return await sender.post(
        server.webhook_url, content=body, headers={"stripe-signature": signature}
    )
