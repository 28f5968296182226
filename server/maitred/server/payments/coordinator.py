"""Coordinates payments: which provider is called and when, and what becomes of its responses.

The intent is durable before the provider is asked, no lock is held meanwhile, and what it says is
recorded by the one reducer. A crash is healed by doing the same again, because every call carries a
key that was stored before it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from functools import partial
from random import Random
from typing import Any, NamedTuple

import structlog

from maitred.server.domain import changes, settlement
from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.engine.engine import Engine
from maitred.server.errors import (
    InvalidSession,
    PaymentNotFound,
    PaymentTimeout,
    SessionDeleted,
    ShuttingDown,
)
from maitred.server.kinds.session import SESSION
from maitred.server.payments.commands import PaymentCommands
from maitred.server.payments.duty import Duty
from maitred.server.payments.gateway import Gateways
from maitred.server.payments.health import Health
from maitred.server.payments.inbox import PAUSE_S, Inbox, Owner
from maitred.server.payments.jobs import Jobs, Trouble
from maitred.server.payments.matching import Matching
from maitred.server.payments.poller import AFTER_EXPIRY_S, Poller
from maitred.server.payments.provider import BadNotice, Notice
from maitred.server.payments.records import Records
from maitred.server.payments.sweep import Sweep
from maitred.server.payments.throttle import Priority
from maitred.server.payments.unmatched import Unmatched
from maitred.server.payments.worker import Worker, needs_work
from maitred.server.stores.base import Ref, RowFilter
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
    Session,
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

TAKE_UP_AGAIN_S = 5.0
"""How soon the open payments are read again where the store could not read them at the start."""

FIND_EVERY_S, FIND_ALL_EVERY_S = 5.0, 60.0
"""Who is on duty looks for payments that other servers opened: for new ones, and for all."""

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
        gateways: Gateways,
        *,
        random: Random | None = None,
        background: bool = True,
        notice_pause_s: float = PAUSE_S,
    ) -> None:
        """Prepare; the providers are started with the coordinator and closed by their owner.

        Without `background` nothing is polled unless `poll_due` is called.
        """
        self._engine = engine
        self._gateways = gateways
        self._background = background
        self._records = Records(engine)
        unmatched = Unmatched(engine)
        self._matching = Matching(gateways, self._records, unmatched, self._apply)
        self.inbox = Inbox(engine, self._matching.owner, self._look, pause_s=notice_pause_s)
        self._worker = Worker(engine, gateways, self._records, self.inbox, self._seen)
        self._jobs = Jobs(self._worker, self._finished)
        self.commands = PaymentCommands(engine, gateways, self._records, self._worker, self._jobs)
        self.sweep = Sweep(engine, gateways, self._records, self._worker, self.inbox, unmatched)
        self._poller = Poller(
            engine.clock,
            random or Random(),  # noqa: S311 - spreads load, hides nothing
            lambda session_id, payment_id: self._jobs.start(
                session_id, payment_id, "poll", ask=True
            ),
            lambda: self.duty.held,
        )
        self.duty = Duty(engine, self._routine, self._poller.clear)
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._taking_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen and to poll; what is open is taken up meanwhile."""
        self._engine.committer.listeners.append(self.on_commit)
        self._taking_up = asyncio.create_task(self._take_up(), name="payments-taken-up")
        if self._background:
            self._poller.start()
            self.sweep.start()
            if self._is_shared:
                self.duty.start()
            for gateway in self._gateways.all:
                await gateway.provider.start(partial(self.inbox.receive, gateway.name))

    async def aclose(self) -> None:
        """Stop listening and polling, and wait for what is under way."""
        self._engine.committer.listeners.remove(self.on_commit)
        if self._taking_up is not None:
            self._taking_up.cancel()
            await asyncio.gather(self._taking_up, return_exceptions=True)
        await self.sweep.stop()
        if self._is_shared:
            await self.duty.aclose()
        await self.inbox.aclose()
        await self._poller.stop()
        await self._jobs.drain(DRAIN_S)

    @property
    def _is_shared(self) -> bool:
        info = self._engine.info
        return info is not None and not info.exclusive

    async def taken_up(self) -> None:
        """Wait until everything that was open at the start is being looked after.

        Of payments only where this server is alone; else who is on duty looks after them.
        """
        if self._taking_up is not None:
            await asyncio.wait([self._taking_up])

    async def payment(self, session_id: str, payment_id: str) -> tuple[Session, Payment]:
        """Read a payment and its session; without an id, the newest of this visit.

        Raises: InvalidSession, SessionDeleted, PaymentNotFound.
        """
        return await self._records.load(session_id, payment_id, ended=True)

    async def check(
        self, session_id: str, payment_id: str, wait_s: float, *, require_settled: bool = False
    ) -> Checked:
        """Ask the provider, again and again if told to wait, and answer what is known.

        Raises: PaymentTimeout, where the provider did not answer once in the time given or, if
        settled is what it has to be, where it is not.
        """
        settings, loop = self._engine.settings, asyncio.get_running_loop()
        wait_s = min(wait_s, settings.payment_check_wait_s)
        deadline = loop.time() + wait_s
        polls, answered = 0, False
        session, payment = await self._records.load(session_id, payment_id)
        payment_id = payment.payment_id
        with self._news_of(payment_id) as news:
            while payment.status != PAYMENT_STATUS_SUCCEEDED or needs_work(payment):
                if polls < settings.payment_check_polls:
                    polls += 1
                    left_s = deadline - loop.time() if wait_s > 0 else None
                    answered |= await self._ask(session_id, payment_id, left_s)
                news.clear()
                session, payment = await self._records.load(session_id, payment_id)
                left_s = deadline - loop.time()
                if not settlement.is_unsettled(payment) or left_s <= 0:
                    break
                await _wait(news, min(left_s, settings.payment_poll_interval_s))
        expired = wait_s > 0 and settlement.is_unsettled(payment)
        if (settlement.is_unsettled(payment) and require_settled) or (expired and not answered):
            raise PaymentTimeout(
                "the payment did not settle in time; it is as it was"
                if answered
                else "the payment provider did not answer in time; the payment is as it was",
                metadata={"payment_id": payment_id},
                retry_after_s=settings.payment_poll_interval_s,
            )
        return Checked(payment, session.payment, expired)

    async def health(self) -> Health:
        """Tell whether the provider of new payments answers."""
        return await self._gateways.primary.probe.health()

    # --- what happens by itself -----------------------------------------------------------------

    def on_commit(self, ref: Ref, change: str, event: Event, _state: Any) -> None:
        """Start the work that a durable event calls for. Cheap: most events are no payment's."""
        if ref.kind != SESSION:
            return
        payment = changes.changed_payment(change, event)
        if payment is None:
            return
        self._poller.track(payment)
        self._wake(payment.payment_id)
        if needs_work(payment):
            _job = self._jobs.start(ref.id, payment.payment_id, "sweep", ask=False)

    def read_notice(self, provider: str, body: bytes, signature: str) -> Notice:
        """Verify and read a message that came from outside; cheap, and nothing is kept of it.

        Raises: BadNotice.
        """
        gateway = self._gateways.named(provider)
        if gateway is None:
            raise BadNotice(f"no provider {provider!r} takes payments here")
        return gateway.provider.read_notice(body, signature)

    async def receive(self, provider: str, notice: Notice) -> bool | None:
        """Take a message in; durable on return.

        True where it is new, False where it was known, None where it is not for this server.
        Raises: StoreError, where it could not be made durable.
        """
        if notice.foreign or not (notice.reference or notice.payment_id):
            log.debug("notice_ignored", kind=notice.kind, reason=notice.foreign or "no payment's")
            return None
        return await self.inbox.receive(provider, notice)

    async def poll_due(self) -> int:
        """Ask the provider about payments that are due; returns how many."""
        return await self._poller.poll_due()

    async def _take_up(self) -> None:
        """Find every payment that is not at its end. There may be many: nobody waits for this."""
        while True:
            try:
                await self.inbox.take_up()
                if not self._is_shared:
                    await self._track_open()
            except Exception as error:  # noqa: BLE001  # logged, and tried again
                log.warning("take_up_failed", kind=type(error).__name__, error=str(error))
                await asyncio.sleep(TAKE_UP_AGAIN_S)
            else:
                return

    async def _routine(self) -> None:
        """Take up all open payments, then those that other servers open. Raises: StoreError."""
        await self._track_open()
        for count in itertools.count(1):
            await asyncio.sleep(FIND_EVERY_S)
            await self.find_new(every=count % (FIND_ALL_EVERY_S // FIND_EVERY_S) == 0)

    async def find_new(self, *, every: bool) -> None:
        """Track payments of other servers: with `every`, not only what is quite new.

        They are asked about when their time comes and not at once, for their own server may be
        in the midst of creating them. Raises: StoreError.
        """
        since_ns = self._engine.clock.now_ns() - round(FIND_ALL_EVERY_S * NS)
        recent = (RowFilter(statuses=UNSETTLED, created_from_ns=since_ns),)
        for where in self._open() if every else recent:
            async for payment in self._records.rows(where):
                if not self._poller.tracks(payment.payment_id) and not self._is_strange(payment):
                    self._poller.track(payment)

    def _is_strange(self, payment: Payment) -> bool:
        return bool(payment.provider_payment_id) and not self._gateways.named(payment.provider)

    def _open(self) -> tuple[RowFilter, ...]:
        """What selects the payments that are not at their end."""
        recent_ns = self._engine.clock.now_ns() - NS * (
            self._engine.settings.payment_expiry_seconds + AFTER_EXPIRY_S[-1]
        )
        return (
            RowFilter(statuses=UNSETTLED),
            RowFilter(statuses=(PAYMENT_STATUS_SUCCEEDED,), flag=1),
            RowFilter(statuses=ENDED_UNPAID, created_from_ns=recent_ns),
        )

    async def _track_open(self) -> None:
        strangers: Counter[str] = Counter()
        for where in self._open():
            async for payment in self._records.rows(where):
                if self._is_strange(payment):
                    strangers[payment.provider] += 1
                    continue
                unsettled = settlement.is_unsettled(payment)
                self._poller.track(payment, at_once=unsettled or needs_work(payment))
        for provider, count in strangers.items():
            log.warning("payments_of_another_provider", provider=provider, payments=count)

    async def _apply(self, owner: Owner, snapshot: ProviderSnapshot) -> None:
        await self._worker.apply(owner.session_id, owner.payment_id, snapshot, "webhook")

    async def _look(self, owner: Owner) -> Exception | None:
        """Have a payment looked at because a notice came."""
        task = self._jobs.start(*owner, "webhook", ask=True, priority=Priority.NEWS)
        await asyncio.wait([task])
        if task.cancelled():
            return ShuttingDown("the server is shutting down")
        return task.result()

    async def _ask(self, session_id: str, payment_id: str, within_s: float | None) -> bool:
        """Have a payment looked at for somebody who waits; whether the provider answered."""
        try:
            async with asyncio.timeout(within_s):
                return await self._jobs.wait(session_id, payment_id, "check", ask=True) is None
        except TimeoutError:
            return False

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
