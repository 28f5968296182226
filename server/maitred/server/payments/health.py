"""Whether the provider answers: asked at most twice a minute, failures remembered as well."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from maitred.server.engine.clock import Clock
from maitred.server.errors import StripeUnavailable
from maitred.server.payments.provider import PaymentProvider, ProviderError

CACHE_S = 30
PROBE_TIMEOUT_S = 5.0
NS = 1_000_000_000


class Health(NamedTuple):
    """What is known of a provider."""

    provider: str
    is_simulated: bool
    available: bool
    checked_ns: int
    detail: str


class Probe:
    """Asks the provider for a sign of life, one question at a time."""

    def __init__(self, provider: PaymentProvider, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._known: Health | None = None
        self._asking = asyncio.Lock()

    async def health(self) -> Health:
        """Answer from memory for a while, else ask."""
        async with self._asking:
            now_ns = self._clock.now_ns()
            known = self._known
            if known is None or not 0 <= now_ns - known.checked_ns < CACHE_S * NS:
                known = self._known = await self._ask(now_ns)
            return known

    async def refusal(self) -> StripeUnavailable | None:
        """The error for who wants something new of a provider that does not answer."""
        health = await self.health()
        if health.available:
            return None
        return StripeUnavailable(
            f"the payment provider {health.provider} does not answer; nothing was recorded",
            metadata={"provider": health.provider},
            retry_after_s=CACHE_S,
        )

    async def _ask(self, now_ns: int) -> Health:
        detail = ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._provider.probe()
        except (ProviderError, TimeoutError) as error:
            detail = str(error) or type(error).__name__
        return Health(self._provider.name, self._provider.is_simulated, not detail, now_ns, detail)
