"""The simulated payment provider: moves no money; for trying maitred out, and for tests.

It behaves as a careful provider does: keys make calls repeatable, links expire, a link that is
being expired may just have been paid. Its faults are scripted, by an argument or by `script.json`
in its directory: `{"create": ["timeout_after", "latency:0.2+unreachable"]}` gives each call of an
operation its steps, joined by `+`; calls beyond the last entry have none.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from maitred.server.domain.currencies import CURRENCIES
from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)
from maitred.server.engine.clock import Clock, SystemClock
from maitred.server.payments.books import Books, Refused
from maitred.server.payments.provider import (
    AnsweredWithFault,
    BadNotice,
    Declined,
    Limits,
    Notice,
    Notify,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Rejected,
    Unreachable,
    canonical_json,
)
from maitred.server.stores.base import StoreError
from maitred.v1.state_pb2 import Payment

NAME = "simulated"
NOTICE_INTERVAL_S = 0.5
"""How soon news of a payment that a person made from another process is noticed."""

Script = Mapping[str, Sequence[str]]
T = TypeVar("T")

log = structlog.get_logger(__name__)

_BEFORE: dict[str, Callable[[], ProviderError]] = {
    "unreachable": lambda: Unreachable("scripted: no connection"),
    "rate_limited": lambda: RateLimited("scripted: too many requests"),
    "rejected": lambda: Rejected("scripted: rejected"),
    "declined": lambda: Declined("scripted: declined"),
    "timeout_before": lambda: OutcomeUnknown("scripted: timed out, not done"),
    "error_500": lambda: AnsweredWithFault("scripted: server error, not done"),
    "error_500_kept": lambda: AnsweredWithFault("scripted: server error, kept for the key"),
}
_AFTER: dict[str, Callable[[], ProviderError]] = {
    "timeout_after": lambda: OutcomeUnknown("scripted: timed out, but done"),
    "error_500_after": lambda: AnsweredWithFault("scripted: server error, but done"),
}
_OTHER = ("ok", "pay_first", "pending", "kill_after")


class SimulatedProvider:
    """Takes no money, and says so in everything that it makes."""

    name = NAME
    is_simulated = True

    def __init__(
        self,
        directory: Path,
        *,
        outcome: str = "manual",
        delay_s: float = 0.0,
        clock: Clock | None = None,
        script: Script | None = None,
        duplicate_notices: bool = False,
        reverse_notices: bool = False,
    ) -> None:
        """Use the books in `directory`; `outcome` (manual, pay, decline) is what guests do."""
        self.books = Books(directory)
        self.gates: dict[str, asyncio.Event] = {}
        """An operation with a gate waits until it is set, before anything else happens."""
        self._outcome = outcome
        self._delay_s = delay_s
        self._clock = clock or SystemClock()
        self._script = script
        self._duplicate_notices = duplicate_notices
        self._reverse_notices = reverse_notices
        self._notify: Notify | None = None
        self._watch: asyncio.Task[None] | None = None

    def limits(self, currency: str) -> Limits:
        """Read the bounds; those of amounts are Stripe's."""
        rules = CURRENCIES[currency]
        return Limits(rules.smallest, rules.largest, rules.step, 60, 86_400)

    def parameters(self, payment: Payment) -> bytes:
        """Build what `create` is sent."""
        return canonical_json(
            {
                "amount": payment.amount.minor_units,
                "currency": payment.amount.currency,
                "expires_at": payment.expires_at.seconds,
                "lines": {
                    "tab": payment.tab_amount.minor_units,
                    "tip": payment.tip_amount.minor_units,
                    "credit": -payment.credit_applied.minor_units,
                },
                "livemode": False,
                "metadata": {"payment_id": payment.payment_id, "session_id": payment.session_id},
            }
        )

    async def create(self, parameters: bytes, key: str) -> ProviderSnapshot:
        """Make a simulated link."""
        books, now = self.books, self._clock.now_ns()
        steps = await self._steps("create")
        try:
            if "error_500_kept" in steps:
                await asyncio.to_thread(books.poison, key, now)
            if await asyncio.to_thread(books.is_poisoned, key, now):
                steps = ("error_500_kept",)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(error) from error
        return await self._do(
            steps,
            lambda: books.create(
                parameters, key, self._clock.now_ns(), self._outcome, self._delay_s
            ),
        )

    async def retrieve(self, reference: str) -> ProviderSnapshot:
        """Read the books."""
        return await self._do(
            await self._steps("retrieve"),
            lambda: self.books.read(reference, self._clock.now_ns()),
        )

    async def find(self, payment_id: str, created_ns: int) -> ProviderSnapshot | None:
        """Look through the books."""
        return await self._do(
            await self._steps("find"), lambda: self.books.find(payment_id, self._clock.now_ns())
        )

    async def expire(self, provider_payment_id: str) -> ProviderSnapshot:
        """Withdraw a link."""
        steps = await self._steps("expire")

        def expire() -> ProviderSnapshot:
            now_ns = self._clock.now_ns()
            if "pay_first" in steps:
                pay(self.books.directory, provider_payment_id, clock=self._clock)
            if self.books.read(provider_payment_id, now_ns).status is ProviderStatus.OPEN:
                try:
                    return self.books.move(
                        provider_payment_id,
                        now_ns,
                        (ProviderStatus.OPEN,),
                        ProviderStatus.EXPIRED,
                    )
                except Refused:
                    log.info("simulated_guest_was_faster", payment=provider_payment_id)
            return self.books.read(provider_payment_id, now_ns)

        return await self._do(steps, expire)

    async def refund(
        self, provider_payment_id: str, refund_id: str, minor_units: int, key: str
    ) -> ProviderRefund:
        """Give simulated money back."""
        steps = await self._steps("refund")
        state = RefundState.PENDING if "pending" in steps else RefundState.SUCCEEDED
        return await self._do(
            steps,
            lambda: self.books.refund(
                provider_payment_id, refund_id, minor_units, key, state, self._clock.now_ns()
            ),
        )

    async def completed(self, since_ns: int) -> AsyncIterator[ProviderSnapshot]:
        """Read what was paid; the books keep no dates, so all of it."""
        for snapshot in await self._do(
            await self._steps("completed"), lambda: self.books.paid(self._clock.now_ns())
        ):
            yield snapshot

    def read_notice(self, body: bytes, signature: str) -> Notice:
        """Refuse: simulated notices come out of the books, never from outside."""
        raise BadNotice("the simulated provider sends no messages")

    async def probe(self) -> None:
        """Look whether the books can be opened."""
        await self._do(
            await self._steps("probe"), lambda: self.books.counted("", self._clock.now_ns())
        )

    async def start(self, notify: Notify) -> None:
        """Look for news in the books every now and then."""
        self._notify = notify
        self._watch = asyncio.create_task(self._deliver_for_ever(), name="simulated-notices")

    async def deliver(self, notify: Notify | None = None) -> int:
        """Hand out the notices that nobody got yet; returns how many. At least once, as all are.

        Raises: as `notify`; what was not taken in is handed out again.
        """
        notify = notify or self._notify
        if notify is None:
            return 0
        notices = await asyncio.to_thread(self.books.notices, self._clock.now_ns())
        if not notices:
            return 0
        for seq, name in reversed(notices) if self._reverse_notices else notices:
            notice = Notice(f"{name}/{seq}", "payment.changed", reference=name)
            await notify(notice)
            if self._duplicate_notices:
                await notify(notice)
        await asyncio.to_thread(self.books.delivered, notices[-1][0], self._clock.now_ns())
        return len(notices)

    async def calls(self, operation: str) -> int:
        """Count the calls of an operation, of all servers since the books began."""
        return await asyncio.to_thread(self.books.counted, operation, self._clock.now_ns())

    async def aclose(self) -> None:
        """Stop looking for news."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    async def _deliver_for_ever(self) -> None:
        while True:
            try:
                await self.deliver()
            except (sqlite3.Error, OSError, StoreError) as error:
                log.warning("simulated_notices_failed", error=str(error))
            except Exception:  # logged; else no notice would ever come again
                log.exception("simulated_notices_crashed")
            await asyncio.sleep(NOTICE_INTERVAL_S)

    async def _steps(self, operation: str) -> tuple[str, ...]:
        gate = self.gates.get(operation)
        if gate is not None:
            await gate.wait()
        try:
            number = await asyncio.to_thread(self.books.count, operation, self._clock.now_ns())
            script = self._script
            if script is None:
                script = await asyncio.to_thread(_read_script, self.books.directory)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise _unusable(error) from error
        steps = script.get(operation, ())
        return tuple(steps[number].split("+")) if number < len(steps) else ()

    async def _do(self, steps: Sequence[str], work: Callable[[], T]) -> T:
        for step in steps:
            name, _, argument = step.partition(":")
            if name == "latency":
                await asyncio.sleep(float(argument))
            elif name == "kill_before":
                _die()
            elif name in _BEFORE:
                fault = _BEFORE[name]()
                raise fault
            elif name not in _AFTER and name not in _OTHER:
                raise Rejected(f"the script of the simulated provider has no step {name!r}")
        try:
            answer = await asyncio.to_thread(work)
        except Refused as refused:
            raise Rejected(str(refused)) from refused
        except (sqlite3.Error, OSError) as error:
            raise OutcomeUnknown(f"the simulated books failed: {error}") from error
        for step in steps:
            if step == "kill_after":
                _die()
            if step in _AFTER:
                fault = _AFTER[step]()
                raise fault
        return answer


# --- what simulated guests and banks do; for the command line and for tests -----------------------

_PAYABLE = (ProviderStatus.OPEN, ProviderStatus.PROCESSING)


def pay(
    directory: Path, which: str, *, late: bool = False, clock: Clock | None = None
) -> ProviderSnapshot:
    """Pay a link, by its id or url; `late`, also one that is dead, as slow banks do.

    Raises: Refused.
    """
    now_ns = (clock or SystemClock()).now_ns()
    dead = (ProviderStatus.EXPIRED, ProviderStatus.FAILED, ProviderStatus.CANCELED)
    allowed = _PAYABLE + (dead if late else ())
    return Books(directory).move(which, now_ns, allowed, ProviderStatus.PAID)


def decline(
    directory: Path, which: str, *, final: bool = False, clock: Clock | None = None
) -> ProviderSnapshot:
    """Try a card that is declined: the link stays, unless that was the final word.

    Raises: Refused.
    """
    now_ns = (clock or SystemClock()).now_ns()
    if final:
        return Books(directory).move(
            which, now_ns, _PAYABLE, ProviderStatus.FAILED, "card_declined"
        )
    return Books(directory).move(
        which, now_ns, (ProviderStatus.OPEN,), ProviderStatus.OPEN, "card_declined"
    )


def pay_slowly(directory: Path, which: str, *, clock: Clock | None = None) -> ProviderSnapshot:
    """Pay by a method that takes time; `pay` or a final `decline` ends it. Raises: Refused."""
    now_ns = (clock or SystemClock()).now_ns()
    return Books(directory).move(which, now_ns, (ProviderStatus.OPEN,), ProviderStatus.PROCESSING)


def dispute(directory: Path, which: str, *, clock: Clock | None = None) -> None:
    """Dispute a payment at the bank. Raises: Refused."""
    Books(directory).dispute(which, DisputeState.OPEN, (clock or SystemClock()).now_ns())


def end_dispute(directory: Path, which: str, *, won: bool, clock: Clock | None = None) -> None:
    """Decide a dispute, for the house or for the payer. Raises: Refused."""
    state = DisputeState.WON if won else DisputeState.LOST
    Books(directory).dispute(which, state, (clock or SystemClock()).now_ns())


def unpaid(directory: Path, *, clock: Clock | None = None) -> list[ProviderSnapshot]:
    """List the links that can be paid."""
    return Books(directory).open_payments((clock or SystemClock()).now_ns())


def _unusable(error: Exception) -> Unreachable:
    return Unreachable(f"the simulated books cannot be used: {error}")


def _die() -> None:
    """End this process as a power failure would, between a call and its record."""
    os.kill(os.getpid(), signal.SIGKILL)


def _read_script(directory: Path) -> Script:
    path = directory / "script.json"
    if not path.exists():
        return {}
    script: Script = json.loads(path.read_text(encoding="utf-8"))
    return script
