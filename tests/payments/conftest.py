"""A bar with a till: a real engine, a simulated provider, and a clock that stands still."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from maitred.server.config import Settings
from maitred.server.domain import orders, sessions
from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.engine.call import Actor, Call
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.payments import simulated
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.gateway import Gateway, Gateways
from maitred.server.payments.service import PaymentService
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.stores import create_store
from maitred.v1 import payment_pb2 as pb
from maitred.v1.common_pb2 import Money, Role
from maitred.v1.order_pb2 import AddItemRequest
from maitred.v1.session_pb2 import CreateSessionRequest
from maitred.v1.state_pb2 import Payment, Session

DEFAULTS = sessions.Defaults("default", 100_000, "USD", 3600)


def call(role: Role.ValueType = Role.ROLE_AGENT) -> Call:
    """A call of somebody with a role."""
    return Call(actor=Actor("tester", role), method="test")


STAFF = call(Role.ROLE_STAFF)


def usd(minor_units: int) -> Money:
    """An amount in US dollars."""
    return Money(minor_units=minor_units, currency="USD")


class Bar:
    """A server without a transport; `crash` leaves it as a killed process would."""

    def __init__(self, url: str, books: Path) -> None:
        self.url = url
        self.books = books
        self.clock = ManualClock()
        self.abandoned: list[tuple[Engine, PaymentCoordinator]] = []
        self.store = create_store(url)
        self.build({})

    def build(self, script: dict[str, list[str]], **provider: Any) -> None:
        """Put new objects over the same data."""
        settings = dataclasses.replace(
            Settings(), heartbeat_s=60.0, payment_create_delays_s=(), payment_rate_per_s=10_000.0
        )
        self.engine = Engine(self.store, settings, clock=self.clock)
        self.provider = SimulatedProvider(self.books, clock=self.clock, script=script, **provider)
        self.gateways = Gateways(Gateway(self.provider, settings, self.clock))
        self.coordinator = PaymentCoordinator(
            self.engine, self.gateways, random=Random(7), background=False, notice_pause_s=0
        )
        self.service = PaymentService(self.engine, self.coordinator)

    async def start(self) -> None:
        """Open for guests."""
        await self.engine.start()
        await self.coordinator.start()
        await self.coordinator.taken_up()

    async def restart(self, **script: list[str]) -> None:
        """Stop cleanly and start on the same data."""
        await self.stop()
        if not self.url.startswith("memory"):
            self.store = create_store(self.url)
        self.build(script)
        await self.start()

    async def stop(self) -> None:
        """Close."""
        await self.coordinator.aclose()
        await self.gateways.aclose()
        await self.engine.stop()

    async def session(self, name: str = "s1") -> Session:
        """Read a session."""
        state: Session = (await self.engine.session(name)).state
        return state

    async def seat(self, cents: int = 1300, name: str = "s1") -> None:
        """Create a session with something on its tab."""
        request = CreateSessionRequest(session_id=name)
        await self.engine.execute(
            Command(
                session_ref(name),
                lambda state, _now: sessions.create(state, request, name, DEFAULTS),
                request,
                create=True,
            ),
            call(),
        )
        await self.order(cents, name)

    async def order(self, cents: int, name: str = "s1") -> None:
        """Put something on the tab."""
        request = AddItemRequest(session_id=name, item="Special", open_price=usd(cents))
        await self.engine.execute(
            Command(
                session_ref(name),
                lambda state, _now: orders.add_item(
                    state, request, None, staff=True, max_lines=100
                ),
            ),
            STAFF,
        )

    async def create(self, name: str = "s1", **fields: Any) -> pb.CreatePaymentResponse:
        """Ask for the payment of the tab."""
        request = pb.CreatePaymentRequest(session_id=name, **fields)
        return pb.CreatePaymentResponse.FromString(
            await self.service.CreatePayment(request, call())
        )

    async def check(self, wait_s: float = 0.0, name: str = "s1") -> pb.CheckPaymentResponse:
        """Ask what became of the newest payment."""
        request = pb.CheckPaymentRequest(session_id=name)
        request.wait.FromNanoseconds(round(wait_s * 1e9))
        answer = await self.service.CheckPayment(request, call())
        assert isinstance(answer, pb.CheckPaymentResponse)
        return answer

    async def payment(self, payment_id: str = "", name: str = "s1") -> Payment:
        """Read a payment."""
        return (await self.coordinator.payment(name, payment_id))[1]

    def pay(self, payment: Payment, **how: Any) -> ProviderSnapshot:
        """Pay as a guest does, without anybody being told."""
        which = payment.url or payment.provider_payment_id
        return simulated.pay(self.books, which, clock=self.clock, **how)

    async def hear(self) -> None:
        """Deliver the provider's notices and follow them to their end."""
        await self.provider.deliver(partial(self.coordinator.inbox.receive, self.provider.name))
        await self.coordinator.inbox.settled_down()

    async def poll(self, seconds: float) -> int:
        """Let time pass, then poll what is due."""
        self.clock.advance(seconds)
        return await self.coordinator.poll_due()


@pytest.fixture(params=["memory", "sqlite"])
async def bar(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bar]:
    """An open bar over each embedded engine, with a guest who has ordered for $13.00."""
    url = "memory://" if request.param == "memory" else f"sqlite:{tmp_path / 'maitred.db'}"
    bar = Bar(url, tmp_path / "books")
    await bar.start()
    await bar.seat()
    yield bar
    await bar.stop()
