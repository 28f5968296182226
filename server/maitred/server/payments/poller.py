"""When to poll a provider: soon at first, then less often, and again after a link expires.

What is due is decided by the injected clock; timers only wake the loop up. A hint of the provider's
makes a payment due at once, so that polling is what is left when no hint comes.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import structlog

from maitred.server.domain import attention, refunds, settlement
from maitred.server.engine.clock import Clock
from maitred.server.payments.jobs import Trouble
from maitred.server.telemetry import metrics
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
)

DELAYS_S = (2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0)
"""Pauses between questions; the last one stays."""

JITTER = 0.1
"""Every pause is so much longer or shorter, lest all payments of a restart be asked at once."""

AFTER_EXPIRY_S = (0, 60, 600)
"""A link is asked about when it dies, and again for money that was under way just then."""

RUNNING = 16
"""More questions at a time would only wait for each other: the provider's rate bounds them."""

LONGEST_SLEEP_S = 30.0
NS = 1_000_000_000

log = structlog.get_logger(__name__)

Start = Callable[[str, str], "asyncio.Task[Trouble | None]"]


@dataclass(slots=True)
class Tracked:
    """One payment that will be asked about."""

    session_id: str
    payment_id: str
    expires_ns: int
    due_ns: int
    settled: bool
    tries: int = 0
    entered: int = 0
    """Number of its place in the order; an older place counts for nothing."""


class Poller:
    """Keeps the times at which payments are due, and starts their work."""

    def __init__(
        self, clock: Clock, random: Random, start: Start, on_duty: Callable[[], bool]
    ) -> None:
        """Take `start(session_id, payment_id)`, which begins the work and answers its task.

        Off duty nothing is tracked and nothing asked: another server does both.
        """
        self._clock = clock
        self._random = random
        self._start = start
        self._on_duty = on_duty
        self._tracked: dict[str, Tracked] = {}
        self._running: set[str] = set()
        self._order: list[tuple[int, int, str]] = []
        """A heap of (due, number of the place, payment id)."""
        self._places = 0
        self._news = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many payments are tracked."""
        return len(self._tracked)

    def start(self) -> None:
        """Ask in the background."""
        self._loop = asyncio.create_task(self._run(), name="payment-poller")

    async def stop(self) -> None:
        """End the asking; what is under way goes on."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    def track(self, payment: Payment, *, at_once: bool = False) -> None:
        """Take a payment up as it is now, or let go of it where nothing more can come."""
        if not self._on_duty():
            return
        name = payment.payment_id
        settled = not settlement.is_unsettled(payment)
        entry = self._tracked.get(name)
        if is_done(payment):
            self._tracked.pop(name, None)
            return
        if entry is None:
            entry = Tracked(payment.session_id, name, 0, 0, settled)
            self._tracked[name] = entry
        entry.expires_ns = payment.expires_at.ToNanoseconds()
        entry.settled = settled and not refunds.pending_refunds(payment)
        if at_once:
            self._place(entry, self._clock.now_ns())
        else:
            self._schedule(entry)

    def tracks(self, payment_id: str) -> bool:
        """Whether a payment will be asked about."""
        return payment_id in self._tracked

    def clear(self) -> None:
        """Let go of all payments."""
        self._tracked.clear()
        self._order.clear()

    def forget(self, payment_id: str) -> None:
        """Let go of a payment that is no more."""
        self._tracked.pop(payment_id, None)

    def due_ns(self, payment_id: str) -> int | None:
        """Tell when a payment will be asked about; None where it will not."""
        entry = self._tracked.get(payment_id)
        return None if entry is None else entry.due_ns

    async def poll_due(self) -> int:
        """Ask about what is due now, not too much at a time; returns how much it was."""
        tasks = self._launch_due()
        if tasks:
            await asyncio.wait(tasks)
        return len(tasks)

    def _launch_due(self) -> list[asyncio.Task[Trouble | None]]:
        tasks = []
        while len(self._running) < RUNNING and self._on_duty():
            entry = self._first()
            if entry is None or entry.due_ns > self._clock.now_ns():
                break
            self._running.add(entry.payment_id)
            entry.tries += 1
            self._schedule(entry)
            try:
                task = self._start(entry.session_id, entry.payment_id)
            except Exception:  # logged and counted; its time comes again
                metrics.ROWS_SKIPPED.labels("poll").inc()
                log.exception("poll_not_started", payment=entry.payment_id)
                self._running.discard(entry.payment_id)
                continue
            task.add_done_callback(partial(self._finished, entry.payment_id))
            tasks.append(task)
        return tasks

    def _first(self) -> Tracked | None:
        """Find the payment that is due first, of those that are not being asked about."""
        while self._order:
            _, place, payment_id = self._order[0]
            entry = self._tracked.get(payment_id)
            if entry is not None and entry.entered == place:
                if payment_id not in self._running:
                    return entry
                # It gets a new place when the answer is there.
                entry.entered = 0
            heapq.heappop(self._order)
        return None

    def _place(self, entry: Tracked, due_ns: int) -> None:
        self._places += 1
        entry.due_ns, entry.entered = due_ns, self._places
        heapq.heappush(self._order, (due_ns, self._places, entry.payment_id))
        self._news.set()

    def _finished(self, payment_id: str, _task: asyncio.Task[Trouble | None]) -> None:
        self._running.discard(payment_id)
        entry = self._tracked.get(payment_id)
        if entry is not None and not entry.entered:
            self._place(entry, entry.due_ns)
        self._news.set()

    def _schedule(self, entry: Tracked) -> None:
        """Set the next time after now; forget a settled payment after its last one."""
        now_ns = self._clock.now_ns()
        marks = [
            entry.expires_ns + after_s * NS
            for after_s in AFTER_EXPIRY_S
            if entry.expires_ns and entry.expires_ns + after_s * NS > now_ns
        ]
        if entry.settled:
            if marks:
                self._place(entry, marks[0])
            else:
                self._tracked.pop(entry.payment_id, None)
            return
        pause_s = DELAYS_S[min(entry.tries, len(DELAYS_S) - 1)]
        pause_s *= 1 + self._random.uniform(-JITTER, JITTER)
        self._place(entry, min([now_ns + round(pause_s * NS), *marks[:1]]))

    async def _run(self) -> None:
        while True:
            self._news.clear()
            self._launch_due()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _pause_s(self) -> float | None:
        if len(self._running) >= RUNNING:
            return None
        entry = self._first()
        if entry is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.05, (entry.due_ns - self._clock.now_ns()) / NS))


def is_done(payment: Payment) -> bool:
    """Whether no question to the provider can bring anything new."""
    if payment.status == PAYMENT_STATUS_SUCCEEDED:
        return not refunds.pending_refunds(payment)
    if attention.has(payment, ATTENTION_AMOUNT_MISMATCH):
        return True
    return not settlement.is_unsettled(payment) and not payment.provider_payment_id
