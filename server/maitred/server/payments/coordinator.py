"""Payments from end to end: who is asked, when, and what becomes of the answers.

The intent is durable before the provider is asked, no lock is held meanwhile, and what it says is
recorded by the one reducer. A crash is healed by doing the same again, because every call carries a
key that was stored before it.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, NamedTuple

import structlog

from maitred.server.domain import changes, settlement
from maitred.server.engine.engine import Engine
from maitred.server.errors import (
    InvalidSession,
    MaitredError,
    PaymentNotFound,
    SessionDeleted,
)
from maitred.server.payments.commands import PaymentCommands
from maitred.server.payments.health import Health, Probe
from maitred.server.payments.jobs import Jobs, Trouble
from maitred.server.payments.poller import AFTER_EXPIRY_S, Poller
from maitred.server.payments.provider import PaymentProvider, ProviderError
from maitred.server.payments.records import Records
from maitred.server.payments.worker import Worker, needs_work
from maitred.server.stores.base import Kind, Ref, RowFilter, StoreError
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_CANCELED,
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_FAILED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    PaymentState,
)

UNSETTLED = (
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_PROCESSING,
    PAYMENT_STATUS_OUTCOME_UNKNOWN,
)
ENDED_UNPAID = (PAYMENT_STATUS_EXPIRED, PAYMENT_STATUS_CANCELED, PAYMENT_STATUS_FAILED)

DRAIN_S = 10.0
"""How long work under way may take at the end; what is left is taken up again at the next start."""

NS = 1_000_000_000

log = structlog.get_logger(__name__)


class Checked(NamedTuple):
    """What is known of a payment."""

    payment: Payment
    state: PaymentState
    wait_expired: bool


class PaymentCoordinator:
    """Everything about payments that takes more than one commit."""

    def __init__(
        self,
        engine: Engine,
        provider: PaymentProvider,
        *,
        random: Random | None = None,
        background: bool = True,
    ) -> None:
        """Take the provider over: it is started and closed with the coordinator.

        Without `background` nothing is polled unless `poll_due` is called.
        """
        self._engine = engine
        self._provider = provider
        self._background = background
        self._records = Records(engine, provider.name)
        self._worker = Worker(engine, provider, self._records, self._seen)
        self._jobs = Jobs(self._worker, self._finished)
        self._probe = Probe(provider, engine.clock)
        self.commands = PaymentCommands(
            engine, provider, self._records, self._worker, self._jobs, self._probe
        )
        self._poller = Poller(
            engine.clock,
            random or Random(),  # noqa: S311 - spreads load, hides nothing
            lambda session_id, payment_id: self._jobs.start(
                session_id, payment_id, "poll", ask=True
            ),
        )
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._hints: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take every payment up again that is not at its end, then begin to listen and to poll."""
        self._engine.committer.listeners.append(self.on_commit)
        await self._take_up()
        if self._background:
            self._poller.start()
            await self._provider.start(self.notify)

    async def aclose(self) -> None:
        """Stop listening and polling, wait for what is under way, and close the provider."""
        self._engine.committer.listeners.remove(self.on_commit)
        await self._poller.stop()
        await self._jobs.drain(DRAIN_S)
        if self._hints:
            await asyncio.wait(self._hints, timeout=DRAIN_S)
        await self._provider.aclose()

    async def payment(self, session_id: str, payment_id: str) -> Payment:
        """Read a payment; without an id, the newest. Raises: PaymentNotFound."""
        return (await self._records.load(session_id, payment_id))[1]

    async def check(self, session_id: str, payment_id: str, wait_s: float) -> Checked:
        """Ask the provider, wait for the end if told to, and answer what is known."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        _, payment = await self._records.load(session_id, payment_id)
        payment_id = payment.payment_id
        with self._news_of(payment_id) as news:
            if payment.status != PAYMENT_STATUS_SUCCEEDED or needs_work(payment):
                await self._jobs.wait(session_id, payment_id, "check", ask=True)
            if wait_s > 0:
                self._poller.hurry(payment_id)
            while True:
                news.clear()
                session, payment = await self._records.load(session_id, payment_id)
                left_s = deadline - loop.time()
                if not settlement.is_unsettled(payment) or left_s <= 0:
                    break
                await _wait(news, left_s)
        return Checked(payment, session.payment, wait_s > 0 and settlement.is_unsettled(payment))

    async def health(self) -> Health:
        """Tell whether the provider answers."""
        return await self._probe.health()

    # --- what happens by itself -----------------------------------------------------------------

    def on_commit(self, ref: Ref, change: str, event: Event, _state: Any) -> None:
        """Start the work that a durable event calls for. Cheap: most events are no payment's."""
        if ref.kind is not Kind.SESSION:
            return
        payment = changes.changed_payment(change, event)
        if payment is None:
            return
        self._poller.track(payment)
        self._wake(payment.payment_id)
        if needs_work(payment):
            self._jobs.spawn(ref.id, payment.payment_id, "sweep", ask=False)

    def notify(self, provider_payment_id: str) -> None:
        """Take a hint that a payment has news; it may come twice, late, or for nothing."""
        task = asyncio.create_task(self._follow_hint(provider_payment_id))
        self._hints.add(task)
        task.add_done_callback(self._hints.discard)

    async def poll_due(self) -> int:
        """Ask the provider about every payment that is due; answers how many."""
        return await self._poller.poll_due()

    async def settled_down(self) -> None:
        """Wait until every hint was followed; for tests and for going down."""
        while self._hints:
            await asyncio.wait(self._hints)

    async def _take_up(self) -> None:
        recent_ns = self._engine.clock.now_ns() - NS * (
            self._engine.settings.payment_expiry_seconds + AFTER_EXPIRY_S[-1]
        )
        for where in (
            RowFilter(statuses=UNSETTLED),
            RowFilter(statuses=(PAYMENT_STATUS_SUCCEEDED,), flag=1),
            RowFilter(statuses=ENDED_UNPAID, created_from_ns=recent_ns),
        ):
            async for payment in self._records.rows(where):
                unsettled = settlement.is_unsettled(payment)
                self._poller.track(payment, at_once=unsettled or needs_work(payment))

    async def _follow_hint(self, provider_payment_id: str) -> None:
        try:
            owner = await self._records.owner(provider_payment_id)
            if owner is None:
                owner = await self._adopt(provider_payment_id)
            if owner is not None:
                await self._jobs.wait(*owner, "webhook", ask=True)
        except (ProviderError, MaitredError, StoreError) as error:
            log.warning("hint_failed", provider_payment=provider_payment_id, error=str(error))

    async def _adopt(self, provider_payment_id: str) -> tuple[str, str] | None:
        """Find the payment of a hint that came before its provider id was recorded."""
        snapshot = await self._provider.retrieve(provider_payment_id)
        payment = await self._records.stored(snapshot.payment_id) if snapshot.payment_id else None
        if payment is None:
            log.error(
                "orphan_payment",
                provider_payment=provider_payment_id,
                status=snapshot.status,
                amount=snapshot.minor_units,
                currency=snapshot.currency,
            )
            return None
        await self._worker.apply(payment.session_id, payment.payment_id, snapshot, "webhook")
        return payment.session_id, payment.payment_id

    def _news_of(self, payment_id: str) -> _Waiting:
        return _Waiting(self._waiting, payment_id)

    def _seen(self, payment: Payment) -> None:
        """Follow what the worker found, for another server may have changed it."""
        self._poller.track(payment)

    def _finished(self, payment_id: str, trouble: Trouble | None) -> None:
        if isinstance(trouble, (InvalidSession, SessionDeleted, PaymentNotFound)):
            self._poller.forget(payment_id)
        self._wake(payment_id)

    def _wake(self, payment_id: str) -> None:
        for news in self._waiting.get(payment_id, ()):
            news.set()


class _Waiting:
    """An event that is set whenever something happened to a payment."""

    def __init__(self, waiting: dict[str, set[asyncio.Event]], payment_id: str) -> None:
        self._waiting = waiting
        self._payment_id = payment_id
        self._news = asyncio.Event()

    def __enter__(self) -> asyncio.Event:
        self._waiting.setdefault(self._payment_id, set()).add(self._news)
        return self._news

    def __exit__(self, *_: object) -> None:
        events = self._waiting[self._payment_id]
        events.discard(self._news)
        if not events:
            del self._waiting[self._payment_id]


async def _wait(news: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await news.wait()
    except TimeoutError:
        return
