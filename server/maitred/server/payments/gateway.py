"""The only path to a provider: rate-limited, with timeouts, waiting guests first.

Every call goes through a `Gateway`, which also learns from it whether the provider is there.
`Gateways` knows which one takes new payments, and which one an old payment is asked of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import structlog

from maitred.server.config import Settings
from maitred.server.domain.snapshots import ProviderRefund, ProviderSnapshot
from maitred.server.engine.clock import Clock
from maitred.server.errors import MaitredError
from maitred.server.payments.health import Probe
from maitred.server.payments.provider import (
    Operation,
    OutcomeUnknown,
    PaymentProvider,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorized,
    Unreachable,
)
from maitred.server.payments.throttle import Priority, Throttle, Urgency
from maitred.server.telemetry import metrics
from maitred.v1.state_pb2 import Payment

CONCURRENT_CALLS = 32
"""More at a time would only wait for each other at the provider."""

LISTED_A_CALL = 100
"""What providers put on a page of a listing: so often a listing counts as a call."""

_QUESTIONS = frozenset({Operation.RETRIEVE, Operation.FIND, Operation.PROBE})
"""What changes nothing at the provider."""

T = TypeVar("T")

Sending = Callable[[], None]
"""Called when the turn of a question has come, just before it is sent."""

log = structlog.get_logger(__name__)


class Gateway:
    """One provider, as it is called."""

    def __init__(self, provider: PaymentProvider, settings: Settings, clock: Clock) -> None:
        self.provider = provider
        self.name = provider.name
        self.probe = Probe(provider, clock, self._probe, ttl_s=settings.payment_probe_ttl_s)
        self._rate_per_s = settings.payment_rate_per_s
        self._timeouts_s = dict.fromkeys(Operation, settings.payment_create_timeout_s) | {
            Operation.RETRIEVE: settings.payment_poll_timeout_s,
            Operation.PROBE: settings.payment_probe_timeout_s,
        }
        self._throttles: dict[Operation, Throttle] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_CALLS)

    async def create(self, parameters: bytes, key: str, urgency: Urgency) -> ProviderSnapshot:
        """Make a link. Raises: ProviderError, as `PaymentProvider.create`."""
        return await self._call(
            Operation.CREATE, urgency, lambda: self.provider.create(parameters, key)
        )

    async def retrieve(
        self, reference: str, urgency: Urgency, sending: Sending | None = None
    ) -> ProviderSnapshot:
        """Read a payment. Raises: ProviderError, as `PaymentProvider.retrieve`."""
        return await self._call(
            Operation.RETRIEVE, urgency, lambda: self.provider.retrieve(reference), sending
        )

    async def find(self, payment: Payment, urgency: Urgency) -> ProviderSnapshot | None:
        """Look for what was made for a payment. Raises: ProviderError."""
        created_ns = payment.created_at.ToNanoseconds()
        return await self._call(
            Operation.FIND, urgency, lambda: self.provider.find(payment.payment_id, created_ns)
        )

    async def expire(
        self, provider_payment_id: str, urgency: Urgency, sending: Sending | None = None
    ) -> ProviderSnapshot:
        """Make a link unusable. Raises: ProviderError, as `PaymentProvider.expire`."""
        return await self._call(
            Operation.EXPIRE, urgency, lambda: self.provider.expire(provider_payment_id), sending
        )

    async def refund(
        self, payment: Payment, refund_id: str, minor_units: int, key: str, urgency: Urgency
    ) -> ProviderRefund:
        """Give money back. Raises: ProviderError, as `PaymentProvider.refund`."""
        return await self._call(
            Operation.REFUND,
            urgency,
            lambda: self.provider.refund(payment.provider_payment_id, refund_id, minor_units, key),
        )

    async def completed(self, since_ns: int) -> AsyncIterator[ProviderSnapshot]:
        """Iterate over what was made since then and has been paid. Raises: ProviderError."""
        count = 0
        with _in_words_of_providers(Operation.FIND):
            async for snapshot in self.provider.completed(since_ns):
                if count % LISTED_A_CALL == 0:
                    await self._throttle(Operation.FIND).enter(Urgency(Priority.ROUTINE))
                count += 1
                yield snapshot

    async def _probe(self) -> None:
        with _in_words_of_providers(Operation.PROBE):
            async with self._limit(Operation.PROBE):
                await self.provider.probe()

    async def _call(
        self,
        operation: Operation,
        urgency: Urgency,
        call: Callable[[], Awaitable[T]],
        sending: Sending | None = None,
    ) -> T:
        await self._throttle(operation).enter(urgency)
        async with self._slots:
            try:
                with _in_words_of_providers(operation):
                    async with self._limit(operation):
                        if sending is not None:
                            sending()
                        answer = await call()
            except ProviderError as error:
                self._learn_from(error)
                raise
        self.probe.answered()
        return answer

    def _learn_from(self, error: ProviderError) -> None:
        if isinstance(error, (Rejected, RateLimited)):
            self.probe.answered()
        else:
            self.probe.failed(error, for_good=isinstance(error, Unauthorized))

    @asynccontextmanager
    async def _limit(self, operation: Operation) -> AsyncIterator[None]:
        timeout_s = self._timeouts_s[operation]
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer within {timeout_s:g} s") from error

    def _throttle(self, operation: Operation) -> Throttle:
        throttle = self._throttles.get(operation)
        if throttle is None:
            throttle = self._throttles[operation] = Throttle(self._rate_per_s)
        return throttle


@contextmanager
def _in_words_of_providers(operation: Operation) -> Iterator[None]:
    """Turn whatever a provider's code throws into what callers know how to go on from.

    What may have been done before it broke is not known, which is never wrong; a question that was
    broken off may be asked again.
    """
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:
        metrics.PROVIDER_FAULTS.inc()
        log.exception("provider_broke_down", operation=operation)
        said = f"the provider's code broke down: {type(error).__name__}"
        if operation in _QUESTIONS:
            raise Unreachable(said) from error
        raise OutcomeUnknown(said) from error


class Gateways:
    """Who takes new payments, and who is asked about old ones."""

    def __init__(self, primary: Gateway, fallback: Gateway | None = None) -> None:
        """Take the gateway of new payments, and one to use while that one does not answer."""
        self.primary = primary
        self.fallback = fallback
        self.all = (primary,) if fallback is None else (primary, fallback)

    def named(self, name: str) -> Gateway | None:
        """Find the gateway of a provider; None where this server is not set up for it."""
        return next((gateway for gateway in self.all if gateway.name == name), None)

    def of(self, payment: Payment) -> Gateway:
        """Find the gateway of a payment.

        Raises: Unreachable, where this server is not set up for its provider.
        """
        gateway = self.named(payment.provider)
        if gateway is None:
            raise Unreachable(
                f"this server is not set up for the provider {payment.provider!r} of the payment"
            )
        return gateway

    async def aclose(self) -> None:
        """Close the providers; calls under way end with OutcomeUnknown."""
        for gateway in self.all:
            await gateway.provider.aclose()

    async def for_new_payments(self) -> tuple[Gateway, MaitredError | None]:
        """Choose who takes a new payment, and why that cannot be done now."""
        refusal = await self.primary.probe.refusal()
        if refusal is None or self.fallback is None:
            return self.primary, refusal
        log.warning("fell_back", provider=self.primary.name, to=self.fallback.name)
        return self.fallback, await self.fallback.probe.refusal()
