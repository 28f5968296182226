"""Provider health: checked at most twice a minute; failures are cached, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from maitred.server.engine.clock import Clock
from maitred.server.errors import StripeUnavailable
from maitred.server.payments.provider import PaymentProvider, ProviderError

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

    def __init__(
        self,
        provider: PaymentProvider,
        clock: Clock,
        ask: Callable[[], Awaitable[None]],
        *,
        ttl_s: float,
    ) -> None:
        """Take how the provider is asked, and for how long its answer holds, a failure too."""
        self._provider = provider
        self._clock = clock
        self._ask = ask
        self._ttl_s = ttl_s
        self._known: Health | None = None
        self._asking = asyncio.Lock()

    async def health(self) -> Health:
        """Answer from memory for a while, else ask."""
        async with self._asking:
            now_ns = self._clock.now_ns()
            known = self._known
            if known is None or not 0 <= now_ns - known.checked_ns < self._ttl_s * NS:
                known = await self._find_out(now_ns)
                self._known = known
            return known

    def answered(self) -> None:
        """Take note that the provider answered: a failure that is remembered is out of date."""
        if self._known is not None and not self._known.available:
            self._known = None

    def failed(self, error: ProviderError, *, for_good: bool) -> None:
        """Take note of a failure; `for_good`, it holds for a while, else the next one asks anew."""
        if for_good:
            self._known = self._health(self._clock.now_ns(), _say(error))
        elif self._known is not None and self._known.available:
            self._known = None

    async def refusal(self) -> StripeUnavailable | None:
        """The error for who wants something new of a provider that does not answer."""
        health = await self.health()
        if health.available:
            return None
        return StripeUnavailable(
            f"the payment provider {health.provider} does not answer; nothing was recorded",
            metadata={"provider": health.provider},
            retry_after_s=self._ttl_s,
        )

    async def _find_out(self, now_ns: int) -> Health:
        try:
            await self._ask()
        except ProviderError as error:
            return self._health(now_ns, _say(error))
        return self._health(now_ns, "")

    def _health(self, now_ns: int, detail: str) -> Health:
        return Health(self._provider.name, self._provider.is_simulated, not detail, now_ns, detail)


def _say(error: ProviderError) -> str:
    return str(error) or type(error).__name__
