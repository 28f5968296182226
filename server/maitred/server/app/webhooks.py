"""The provider's entrance: its webhooks over HTTP, and the check of our key at startup."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from maitred.server.app.listening import split_address
from maitred.server.config import Settings, SettingsError
from maitred.server.http.pace import Pace
from maitred.server.payments.provider import BadNotice, PaymentProvider, ProviderError, Unauthorized
from maitred.server.stores.base import StoreError

if TYPE_CHECKING:
    from maitred.server.http.listener import HttpListener
    from maitred.server.http.webhooks import Receipt
    from maitred.server.payments.coordinator import PaymentCoordinator

PATH: Final = "/webhooks/stripe"

KEY_CHECK_S: Final = 2.0
"""A provider that is away must not keep the server from serving all that needs no provider."""

REFUSALS_TOLD_EVERY_S: Final = 60.0

log = structlog.get_logger(__name__)


async def listen(
    settings: Settings, coordinator: PaymentCoordinator, provider: str
) -> HttpListener:
    """Take in what the provider sends, from here on.

    Raises: SettingsError, HttpBindError, MissingExtra.
    """
    from maitred.server.http.listener import HttpListener  # only where there are webhooks
    from maitred.server.http.webhooks import webhook_app

    host, port = split_address(settings.webhook_listen, "webhook_listen")
    door = _Door(coordinator, provider)
    app = webhook_app(door.take, path=PATH, max_bytes=settings.webhook_max_bytes)
    listener = HttpListener(app, host, port)
    await listener.start()
    log.info("listening_for_webhooks", url=f"{listener.url}{PATH}")
    return listener


RATE_PER_S: Final = 250.0
"""So many genuine messages are worked on in a second, which is many times what a house receives:
what is more waits, so that a burst leaves most of the loop to everybody else."""


class _Door:
    """Hands messages over and says what came of them.

    The signature is looked at first: who cannot sign takes no turn from those who can.
    """

    def __init__(self, coordinator: PaymentCoordinator, provider: str) -> None:
        self._coordinator = coordinator
        self._provider = provider
        self._pace = Pace(RATE_PER_S)
        self._refusals = 0
        self._told_s = -REFUSALS_TOLD_EVERY_S

    async def take(self, body: bytes, signature: str) -> Receipt:
        """Make a message durable."""
        from maitred.server.http.webhooks import (
            Receipt,  # the listener runs: it is imported already
        )

        try:
            notice = self._coordinator.read_notice(self._provider, body, signature)
            await self._pace.enter()
            taken = await self._coordinator.receive(self._provider, notice)
        except BadNotice as refused:
            self._refuse(str(refused))
            return Receipt.REJECTED
        except StoreError as error:
            log.warning("webhook_not_stored", kind=type(error).__name__, error=str(error))
            return Receipt.UNAVAILABLE
        if taken is None:
            return Receipt.IGNORED
        return Receipt.ACCEPTED if taken else Receipt.DUPLICATE

    def _refuse(self, why: str) -> None:
        """Tell of refused messages now and then: a wrong secret shows, strangers write no log."""
        self._refusals += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_s >= REFUSALS_TOLD_EVERY_S:
            log.warning("webhooks_refused", count=self._refusals, last=why)
            self._refusals, self._told_s = 0, now_s


async def check_key(provider: PaymentProvider) -> None:
    """Ask the provider once whether it accepts our key; one that is away is only warned about.

    Raises: SettingsError, where it does not.
    """
    try:
        async with asyncio.timeout(KEY_CHECK_S):
            await provider.probe()
    except Unauthorized as error:
        raise SettingsError(
            f"{provider.name} does not accept the key: {error}; set stripe_api_key to one that "
            "may write checkout sessions and refunds"
        ) from error
    except (ProviderError, TimeoutError) as error:
        log.warning(
            "provider_not_reached",
            provider=provider.name,
            kind=type(error).__name__,
            error=str(error),
        )
