"""Makes a database of open payments: the server's own engine, without a wire and without waiting.

The links are those of an account like the one of Stripe's stand-in, which can be given the same
sessions in the same order, and then knows them by the same ids.
"""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from pathlib import Path

import structlog

from benchmarks.fakestripe import SUCCESS_URL
from benchmarks.measure import progress
from maitred.server.config import Settings
from maitred.server.domain import orders, payments, sessions, settlement
from maitred.server.domain.snapshots import Terms
from maitred.server.engine.call import SYSTEM_CALL
from maitred.server.engine.clock import SystemClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.payments.records import Records
from maitred.server.payments.stripe import StripeConfig, terms, translation
from maitred.server.stores import create_store
from maitred.server.testing.fakestripe import API_KEY
from maitred.server.testing.fakestripe.account import Account, public
from maitred.v1 import order_pb2, session_pb2
from maitred.v1.common_pb2 import Money

LIFETIME_S = 12 * 3600
"""No link may die while it is measured."""

AT_A_TIME = 256
PRICE = 1250


def make(path: Path, stripe_sessions: Path, count: int) -> None:
    """Write so many sessions with an open payment each, and what Stripe knows of them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    stripe_sessions.write_bytes(b"".join(each + b"\n" for each in asyncio.run(_make(path, count))))


async def _make(path: Path, count: int) -> list[bytes]:
    """Write the database; the parameters of each link, in the order of its id."""
    engine = Engine(create_store(f"sqlite:{path}"), Settings(cache_sessions=count))
    await engine.start()
    try:
        house = _House(engine)
        show = progress("payments")
        for start in range(0, count, AT_A_TIME):
            numbers = range(start, min(count, start + AT_A_TIME))
            await asyncio.gather(*(house.open_payment(f"guest-{number}") for number in numbers))
            show(numbers.stop, count)
    finally:
        await engine.stop()
    return house.sent


class _House:
    """Takes orders and asks for money, as the services do."""

    def __init__(self, engine: Engine) -> None:
        self.sent: list[bytes] = []
        self._engine = engine
        self._records = Records(engine)
        self._account = Account(SystemClock())
        self._defaults = sessions.Defaults("default", 100_000, "USD", LIFETIME_S)
        bounds = terms.limits("USD")
        config = StripeConfig(api_key=API_KEY, success_url=SUCCESS_URL)
        self._terms = Terms(
            provider="stripe",
            is_simulated=False,
            minimum=bounds.minimum,
            maximum=bounds.maximum,
            lifetime_s=LIFETIME_S,
            parameters=partial(terms.parameters, config=config),
        )

    async def open_payment(self, name: str) -> None:
        """Open a session, order one thing and make a link for it."""
        request = session_pb2.CreateSessionRequest(session_id=name)
        await self._engine.execute(
            Command(
                session_ref(name),
                lambda state, _now: sessions.create(state, request, name, self._defaults),
                create=True,
            ),
            SYSTEM_CALL,
        )
        line = order_pb2.AddItemRequest(
            item="Negroni", open_price=Money(minor_units=PRICE, currency="USD")
        )
        await self._engine.execute(
            Command(
                session_ref(name),
                lambda state, _now: orders.add_item(state, line, None, staff=True, max_lines=1),
            ),
            SYSTEM_CALL,
        )
        payment_id = self._engine.ids.new_id()
        await self._engine.execute(
            Command(
                session_ref(name),
                lambda state, now_ns: payments.request_payment(
                    state, now_ns, payment_id, self._terms
                ),
            ),
            SYSTEM_CALL,
        )
        _, payment = await self._records.load(name, payment_id)
        parameters = payment.request.parameters
        self.sent.append(parameters)
        link = translation.snapshot(public(self._account.add_session(json.loads(parameters), "")))
        await self._records.change(
            name,
            payment_id,
            lambda session, stored, now_ns: settlement.apply_snapshot(
                session, stored, link, "create", now_ns
            ),
        )
