"""`kill -9` around every call to the payment provider, to see that nobody pays twice or in vain.

A real `maitred serve` process is killed while its guests order, pay and get money back. Stripe is a
fake in this process, which no kill touches: what it holds in the end is held against what the
server holds.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.campaigns.killing import CALL_TIMEOUT_S, KillFailure
from tests.campaigns.paymentbooks import Doubled, Lost, difference
from tests.campaigns.serverprocess import ServerProcess

from maitred.server.testing.fakestripe import FakeStripe
from maitred.v1 import order_pb2, payment_pb2, session_pb2
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
)

GUESTS = 6
PATH = "/webhooks/stripe"
MOMENT_S = 10.0
"""If a moment does not come in this time, the server is killed without it."""

DRAIN_S = 60.0
"""How long the last server has for everything that is still under way."""

FAULTS = {"received": "timeout", "acted": "timeout_after", "answered": "ok"}
"""How Stripe is held still: before its effect, after it and before its answer, and not at all."""

MOMENTS = (
    *(
        f"{operation}/{step}"
        for operation in ("sessions.create", "refunds.create", "sessions.expire")
        for step in FAULTS
    ),
    "sessions.retrieve/answered",
    "webhook/acknowledged",
    "any",
)
"""When the server is killed, one after the other."""


@dataclass(slots=True)
class PaymentKillReport:
    """What a campaign did and found."""

    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    """Kills by the moment that was hit; `missed` where it did not come."""
    webhooks: int = 0
    """Acknowledged deliveries."""
    links: int = 0
    """Told to guests."""
    settled: int = 0
    refunded: int = 0
    lost: int = 0
    doubled: int = 0


@dataclass(slots=True)
class _Guest:
    session_id: str
    links: dict[str, str] = field(default_factory=dict)
    """The link of each payment as the guest was first told it."""
    current: str = ""
    """The payment whose link the guest has in hand; empty where there is none."""


class PaymentKillCampaign:
    """One data directory, one Stripe, one server after another, and guests who never give up."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.report = PaymentKillReport()
        self._directory = directory
        self._random = random.Random(seed)  # repeatable, not secret
        self._fake = FakeStripe()
        self._guests = [_Guest(f"guest-{at}") for at in range(GUESTS)]
        self._webhooks_at = f"127.0.0.1:{_free_port()}"
        self._acknowledged = asyncio.Event()
        self._undelivered = 0
        self._closing_time = False

    async def run(
        self, kills: int, progress: Callable[[PaymentKillReport], None]
    ) -> PaymentKillReport:
        """Kill the server so often; answers the report.

        Raises: KillFailure.
        """
        async with self._fake, httpx.AsyncClient(timeout=CALL_TIMEOUT_S) as http:
            self._process = self._server()
            self._ask = self._process.ask
            async with self._process.connected():
                people = [asyncio.create_task(self._courier(http))]
                people += [asyncio.create_task(self._guest(guest)) for guest in self._guests]
                try:
                    for number in range(kills):
                        await self._one_kill(MOMENTS[number % len(MOMENTS)], people)
                        progress(self.report)
                    await self._finish(people)
                finally:
                    for each in people:
                        each.cancel()
                    await asyncio.gather(*people, return_exceptions=True)
        return self.report

    def _server(self) -> ServerProcess:
        arguments = (
            "--payments=stripe",
            f"--stripe-api-base={self._fake.url}",
            "--stripe-success-url=https://house.example/thanks",
            f"--webhook-listen={self._webhooks_at}",
            "--payment-create-delays-s=0.1,0.2,0.4",
            "--payment-rate-per-s=1000",
            "--log-level=error",
        )
        # Not on the command line, which is for everybody to read.
        secrets = {
            "MAITRED_STRIPE_API_KEY": self._fake.api_key,
            "MAITRED_STRIPE_WEBHOOK_SECRETS": self._fake.webhook_secret,
        }
        return ServerProcess(self._directory, arguments, secrets)

    async def _one_kill(self, moment: str, people: list[asyncio.Task[None]]) -> None:
        async with self._process.running() as process:
            await self._check_links()
            waiting = asyncio.create_task(self._wait_for(moment))
            await asyncio.wait(
                [waiting, *people], timeout=MOMENT_S, return_when=asyncio.FIRST_COMPLETED
            )
            _raise_finished([*people, waiting])
            self.report.moments[moment if waiting.done() else "missed"] += 1
            process.send_signal(signal.SIGKILL)
            await process.wait()
            waiting.cancel()
            self._fake.heal()
            self.report.kills += 1

    async def _wait_for(self, moment: str) -> None:
        """Wait until the server is just where it is to be killed."""
        operation, _, step = moment.partition("/")
        if operation == "any":
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
            return
        if operation == "webhook":
            self._acknowledged.clear()
            await self._acknowledged.wait()
            return
        calls, effects = self._fake.calls[operation], self._effects(operation)
        self._fake.script(operation, FAULTS[step])
        while True:
            is_acted = step == "received" or self._effects(operation) > effects
            if self._fake.calls[operation] > calls and is_acted:
                break
            await asyncio.sleep(0.001)
        if step == "answered":
            # Anywhere between Stripe's answer and what the server makes of it.
            await asyncio.sleep(self._random.uniform(0.0, 0.02))

    def _effects(self, operation: str) -> int:
        """Count what calls of an operation have led to."""
        tables = self._fake.account.tables
        match operation:
            case "refunds.create":
                return len(tables["re"])
            case "sessions.expire":
                return sum(each["status"] == "expired" for each in tables["cs"].values())
            case "sessions.create":
                return len(tables["cs"])
        return self._fake.calls[operation]

    # --- guests and the courier -------------------------------------------------------------------

    async def _guest(self, guest: _Guest) -> None:
        await self._ask(
            "SessionService/CreateSession",
            session_pb2.CreateSessionRequest(
                session_id=guest.session_id, opening_balance=_usd(10**9), request_id=_request_id()
            ),
            session_pb2.CreateSessionResponse,
        )
        while not self._closing_time:
            await self._visit(guest)

    async def _visit(self, guest: _Guest) -> None:
        """Order, pay, and sometimes change one's mind."""
        await self._order(guest)
        payment = await self._link(guest)
        if self._random.random() < 0.3:
            await self._order(guest)
            payment = await self._link(guest)
        if self._random.random() < 0.2:
            self._fake.account.decline(payment.provider_payment_id)
        self._fake.account.pay(payment.provider_payment_id)
        guest.current = ""
        request = payment_pb2.CheckPaymentRequest(
            session_id=guest.session_id, payment_id=payment.payment_id
        )
        request.wait.FromSeconds(5)
        while payment.status != PAYMENT_STATUS_SUCCEEDED:
            payment = (
                await self._ask(
                    "PaymentService/CheckPayment", request, payment_pb2.CheckPaymentResponse
                )
            ).payment
        self.report.settled += 1
        if self._random.random() < 0.5:
            await self._refund(payment)

    async def _order(self, guest: _Guest) -> None:
        request = order_pb2.AddItemRequest(
            session_id=guest.session_id,
            item="Special",
            open_price=_usd(self._random.randrange(100, 5000)),
            request_id=_request_id(),
        )
        await self._ask("OrderService/AddItem", request, order_pb2.AddItemResponse)

    async def _link(self, guest: _Guest) -> Payment:
        """Ask for the link until there is one; a link that was told never changes."""
        request = payment_pb2.CreatePaymentRequest(
            session_id=guest.session_id, request_id=_request_id()
        )
        while True:
            reply = await self._ask(
                "PaymentService/CreatePayment", request, payment_pb2.CreatePaymentResponse
            )
            payment: Payment = reply.payment
            if payment.status == PAYMENT_STATUS_OPEN:
                break
            await asyncio.sleep(0.02)
        self._compare_link(guest, payment)
        guest.current = payment.payment_id
        return payment

    async def _refund(self, payment: Payment) -> None:
        amount = self._random.randrange(1, payment.received_amount.minor_units + 1)
        request = payment_pb2.RefundPaymentRequest(
            session_id=payment.session_id,
            payment_id=payment.payment_id,
            amount=_usd(amount),
            reason="cold",
            request_id=_request_id(),
        )
        await self._ask("PaymentService/RefundPayment", request, payment_pb2.RefundPaymentResponse)
        self.report.refunded += 1

    async def _courier(self, http: httpx.AsyncClient) -> None:
        """Deliver what Stripe sends, at least once, in no particular order."""
        bag: list[tuple[bytes, str]] = []
        url = f"http://{self._webhooks_at}{PATH}"
        while True:
            bag += self._fake.drain_events()
            self._undelivered = len(bag)
            if not bag:
                await asyncio.sleep(0.005)
                continue
            body, signature = bag.pop(self._random.randrange(len(bag)))
            headers = {"Stripe-Signature": signature}
            try:
                reply = await http.post(url, content=body, headers=headers)
            except httpx.HTTPError:
                bag.append((body, signature))
                await asyncio.sleep(0.02)
                continue
            if reply.status_code != 200 or self._random.random() < 0.1:
                bag.append((body, signature))
            if reply.status_code == 200:
                self.report.webhooks += 1
            elif reply.status_code != 503:
                kind = json.loads(body)["type"]
                raise KillFailure(f"{kind} was answered {reply.status_code}: {reply.text}")
            if reply.text == "accepted\n":
                self._acknowledged.set()

    # --- what must hold ---------------------------------------------------------------------------

    async def _check_links(self) -> None:
        """After a restart every guest's link is the one that the guest was told."""
        for guest in self._guests:
            if not guest.current:
                continue
            request = payment_pb2.GetPaymentRequest(
                session_id=guest.session_id, payment_id=guest.current
            )
            reply = await self._ask(
                "PaymentService/GetPayment", request, payment_pb2.GetPaymentResponse
            )
            if reply.payment.status == PAYMENT_STATUS_OPEN:
                self._compare_link(guest, reply.payment)

    def _compare_link(self, guest: _Guest, payment: Payment) -> None:
        told = guest.links.setdefault(payment.payment_id, payment.url)
        self.report.links = sum(len(each.links) for each in self._guests)
        if told != payment.url:
            raise KillFailure(f"{payment.payment_id}: the link was {told}, now {payment.url}")

    async def _finish(self, people: list[asyncio.Task[None]]) -> None:
        """Let everybody finish on a last server, then hold its books against Stripe's."""
        courier, *guests = people
        async with self._process.running():
            await self._check_links()
            self._closing_time = True
            _, late = await asyncio.wait(guests, timeout=DRAIN_S)
            _raise_finished(people)
            if late:
                raise KillFailure("a guest never came to an end")
            await self._agree(courier)
        await self._process.check()

    async def _agree(self, courier: asyncio.Task[None]) -> None:
        """Wait until both books say the same; what is under way may still bring them there."""
        deadline = time.monotonic() + DRAIN_S
        names = [guest.session_id for guest in self._guests]
        problem = "webhooks were never acknowledged"
        try:
            while time.monotonic() < deadline:
                _raise_finished([courier])
                found = await difference(self._ask, self._fake, names)
                if not found and not self._undelivered:
                    return
                problem = found or problem
                await asyncio.sleep(0.1)
        except Doubled:
            self.report.doubled += 1
            raise
        except Lost:
            self.report.lost += 1
            raise
        self.report.lost += 1
        raise Lost(problem)


def _usd(minor_units: int) -> Money:
    return Money(minor_units=minor_units, currency="USD")


def _request_id() -> str:
    return uuid.uuid4().hex


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _raise_finished(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is not None:
                raise error
