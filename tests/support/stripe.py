"""A bar whose guests pay at Stripe: a real engine, the real provider, and a fake at the far end."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Self

from tests.payments.conftest import STAFF, Bar, call

from maitred.server.config import Settings
from maitred.server.engine.call import Call
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.gateway import Gateway, Gateways
from maitred.server.payments.service import PaymentService
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.payments.stripe import StripeProvider, open_stripe
from maitred.server.stores import create_store
from maitred.server.testing.fakestripe import FakeStripe
from maitred.server.testing.faulty import FaultyStore
from maitred.v1 import payment_pb2 as pb
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Payment

PATIENCE_S = 20.0
"""Longest that anything is waited for; what takes so long on any machine will never come."""

Object = dict[str, Any]


async def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true. Raises: TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it never came true")
        await asyncio.sleep(0.001)


def server_settings(fake: FakeStripe, directory: Path, **more: Any) -> dict[str, Any]:
    """Settings of a whole server whose guests pay at the fake, and which hears of it."""
    return {
        "data": f"sqlite:{directory / 'maitred.db'}",
        "payments": "stripe",
        "stripe_api_key": fake.api_key,
        "stripe_api_base": fake.url,
        "stripe_success_url": "https://house.example/thanks",
        "stripe_webhook_secrets": (fake.webhook_secret,),
        "webhook_listen": "127.0.0.1:0",
        **more,
    }


class StripeBar(Bar):
    """A server without a transport, on SQLite, whose provider is Stripe over HTTP.

    `changes` are settings that differ from those of a `Bar`. `store` may be made faulty.
    """

    def __init__(
        self, directory: Path, fake: FakeStripe, stripe: StripeProvider, changes: dict[str, Any]
    ) -> None:
        self.fake = fake
        self.stripe = stripe
        self.differences = changes
        self.notice_pause_s = 0.0
        super().__init__(f"sqlite:{directory / 'maitred.db'}", directory / "books")

    @classmethod
    async def open(cls, directory: Path, fake: FakeStripe, **changes: Any) -> Self:
        """Open for guests; the one of `s1` has ordered for $13.00."""
        bar = cls(directory, fake, await open_stripe(fake.config()), changes)
        await bar.start()
        await bar.seat()
        return bar

    def build(self, script: dict[str, list[str]], **provider: Any) -> None:
        """Put new objects over the same data."""
        clock = self.fake.account.clock
        assert isinstance(clock, ManualClock)
        self.clock = clock
        given: dict[str, Any] = {
            "heartbeat_s": 60.0,
            "payment_create_delays_s": (),
            "payment_rate_per_s": 10_000.0,
            "payments": "stripe",
            "stripe_api_key": self.fake.api_key,
            "stripe_success_url": "https://house.example/thanks",
        }
        self.settings = dataclasses.replace(Settings(), **{**given, **self.differences})
        self.faulty = FaultyStore(self.store)
        self.engine = Engine(self.faulty, self.settings, clock=clock)
        self.gateway = Gateway(self.stripe, self.settings, clock)
        fallback = None
        if self.settings.allow_simulated_fallback:
            self.provider = SimulatedProvider(self.books, clock=clock, script=script, **provider)
            fallback = Gateway(self.provider, self.settings, clock)
        self.gateways = Gateways(self.gateway, fallback)
        self.coordinator = self.another_coordinator()
        self.service = PaymentService(self.engine, self.coordinator)

    def another_coordinator(self) -> PaymentCoordinator:
        """Put a coordinator over the same data; to be started by who asked for it."""
        return PaymentCoordinator(
            self.engine,
            self.gateways,
            random=Random(7),
            background=False,
            notice_pause_s=self.notice_pause_s,
        )

    async def restart(self, **script: list[str]) -> None:
        """Stop cleanly and start on the same data."""
        await self.stop()
        await self.resume()

    async def crash(self) -> None:
        """Abandon whatever is under way, as a killed process does; `resume` comes after it."""
        tasks = [job.task for job in self.coordinator._jobs._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.stop()

    async def resume(self) -> None:
        """Start a new server on the data."""
        self.store = create_store(self.url)
        self.stripe = await open_stripe(self.fake.config())
        self.build({})
        await self.start()

    # --- what guests do, and what Stripe sends --------------------------------------------------

    def sessions(self, status: str = "") -> list[Object]:
        """List what Stripe holds, oldest first."""
        found = self.fake.account.tables["cs"].values()
        return [each for each in found if status in ("", each["status"])]

    def revive(self, payment: Payment) -> None:
        """Let a dead link live: what was under way at a bank comes after everything else."""
        session = self.fake.account.tables["cs"][payment.provider_payment_id]
        now_s = self.clock.now_ns() // 10**9
        session.update(status="open", expires_at=now_s + 60, url=payment.url or "https://late")

    async def changes(self, change: str, name: str = "s1") -> int:
        """Count the events of a kind in a session's log."""
        number = Event.DESCRIPTOR.fields_by_name[change].number
        log = await self.engine.store.events(session_ref(name), 0, 1000)
        return sum(event.change == number for event in log)

    async def paid(self, name: str = "s1") -> Payment:
        """Have a guest pay what is owed, and hear of it."""
        payment = (await self.create(name)).payment
        self.fake.account.pay(payment.provider_payment_id)
        await self.deliver()
        return await self.payment(payment.payment_id, name)

    async def take(self, body: bytes, signature: str) -> bool | None:
        """Take a webhook in."""
        notice = self.coordinator.read_notice("stripe", body, signature)
        return await self.coordinator.receive("stripe", notice)

    async def deliver(self, *, thin_ones: bool = False) -> list[bool | None]:
        """Deliver what Stripe sends, and follow it to its end; what was said to each."""
        taken = [await self.take(*each) for each in self.fake.drain_events(thin_ones=thin_ones)]
        await self.coordinator.inbox.settled_down()
        return taken

    # --- what agents and staff do ---------------------------------------------------------------

    async def cancel(self, payment_id: str = "", **fields: Any) -> pb.CancelPaymentResponse:
        """Cancel a payment."""
        request = pb.CancelPaymentRequest(
            session_id="s1", payment_id=payment_id, reason="no", **fields
        )
        reply = await self.service.CancelPayment(request, call())
        return pb.CancelPaymentResponse.FromString(reply)

    async def complete(self, by: Call = STAFF, **fields: Any) -> pb.CompletePaymentResponse:
        """Complete a payment."""
        request = pb.CompletePaymentRequest(session_id="s1", **fields)
        reply = await self.service.CompletePayment(request, by)
        return pb.CompletePaymentResponse.FromString(reply)

    async def refund(
        self, payment: Payment, minor_units: int | None = None, **fields: Any
    ) -> pb.RefundPaymentResponse:
        """Give money back; all that is left, unless told otherwise."""
        request = pb.RefundPaymentRequest(
            session_id=payment.session_id, payment_id=payment.payment_id, reason="cold", **fields
        )
        if minor_units is not None:
            request.amount.CopyFrom(Money(minor_units=minor_units, currency="USD"))
        reply = await self.service.RefundPayment(request, STAFF)
        return pb.RefundPaymentResponse.FromString(reply)

    async def reconcile(self, payment: Payment) -> pb.ReconcilePaymentResponse:
        """Have the provider asked."""
        request = pb.ReconcilePaymentRequest(
            session_id=payment.session_id, payment_id=payment.payment_id, reason="looked"
        )
        reply = await self.service.ReconcilePayment(request, STAFF)
        return pb.ReconcilePaymentResponse.FromString(reply)
