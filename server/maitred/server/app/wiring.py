"""The composition root: which handlers serve which service, and what they are built from."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from maitred.server.app.admin import AdminService
from maitred.server.app.backups import Backups
from maitred.server.app.webhooks import check_key
from maitred.server.config import Settings, SettingsError
from maitred.server.domain.currencies import CURRENCIES
from maitred.server.engine.clock import Clock, Ids, SystemClock
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.engine.timekeeping import warn_if_behind
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.gateway import Gateway, Gateways
from maitred.server.payments.provider import PaymentProvider
from maitred.server.payments.service import PaymentService
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.services.catalogs import Catalogs
from maitred.server.services.conversations import ConversationService
from maitred.server.services.menus import MenuService
from maitred.server.services.orders import OrderService
from maitred.server.services.sessions import SessionService
from maitred.server.services.watching.service import WatchService
from maitred.server.stores.base import Store, StoreInfo
from maitred.v1 import admin_pb2, conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2


@dataclass(slots=True)
class Parts:
    """What a server consists of, behind its transport."""

    engine: Engine
    sweeper: Sweeper
    gateways: Gateways
    coordinator: PaymentCoordinator
    backups: Backups
    services: Mapping[ServiceDescriptor, Sequence[object]]
    scratch: Path | None = None
    """A directory that goes with the server."""
    _engine_runs: bool = False
    _payments_run: bool = False

    async def start(self) -> StoreInfo:
        """Open the store and begin what runs by itself.

        Raises: StoreError.
        """
        info = await self.engine.start()
        self._engine_runs = True
        await warn_if_behind(self.engine)
        if info.backup:
            await asyncio.to_thread(self.backups.tidy)
        await self.coordinator.start()
        self._payments_run = True
        self.sweeper.start()
        return info

    async def stop(self) -> None:
        """End what runs by itself, then close the store."""
        await self.sweeper.stop()
        if self._payments_run:
            self._payments_run = False
            await self.coordinator.aclose()
        await self.gateways.aclose()
        if self._engine_runs:
            self._engine_runs = False
            await self.engine.stop()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def books_directory(settings: Settings) -> Path | None:
    """Find the simulated provider's books; None where the data is in memory and so are they."""
    if settings.simulated_dir:
        return Path(settings.simulated_dir)
    path = settings.data
    if path.lower().startswith("memory:"):
        return None
    if path.lower().startswith(("redis:", "rediss:", "postgresql:", "postgres:")):
        # It names no folder of this machine; several servers set `simulated_dir` to one they share.
        return Path.cwd()
    if path.lower().startswith("sqlite:"):
        path = path[len("sqlite:") :].removeprefix("//")
    return Path(path).absolute().parent


async def open_provider(settings: Settings, clock: Clock | None = None) -> PaymentProvider | None:
    """Open the provider of real payments and try the key; None where payments are simulated.

    Its SDK is imported here, beside the event loop. Raises: SettingsError.
    """
    if settings.payments != "stripe":
        return None
    from maitred.server.payments.stripe import StripeConfig, open_stripe  # only where it is used

    try:
        provider = await open_stripe(
            StripeConfig(
                api_key=settings.stripe_api_key,
                webhook_secrets=settings.stripe_webhook_secrets,
                success_url=settings.stripe_success_url,
                cancel_url=settings.stripe_cancel_url,
                api_base=settings.stripe_api_base,
                tolerance_s=settings.webhook_tolerance_s,
                clock=clock or SystemClock(),
            )
        )
    except (ImportError, ValueError) as error:
        raise SettingsError(f"payments stripe: {error}") from error
    try:
        await check_key(provider)
    except BaseException:
        await provider.aclose()
        raise
    return provider


def choose_gateways(
    engine: Engine, simulated: SimulatedProvider, stripe: PaymentProvider | None
) -> Gateways:
    """Say who takes new payments; simulated ones are never mixed with real ones unasked."""
    settings, clock = engine.settings, engine.clock
    if stripe is None:
        return Gateways(Gateway(simulated, settings, clock))
    fallback = settings.allow_simulated_fallback
    return Gateways(
        Gateway(stripe, settings, clock),
        Gateway(simulated, settings, clock) if fallback else None,
    )


def wire(
    settings: Settings,
    store: Store,
    clock: Clock | None = None,
    ids: Ids | None = None,
    stripe: PaymentProvider | None = None,
) -> Parts:
    """Put the engine and all handlers together; nothing runs yet. Raises: SettingsError."""
    if settings.currency not in CURRENCIES:
        raise SettingsError(f"currency: {settings.currency!r} is not supported")
    engine = Engine(store, settings, clock=clock, ids=ids)
    books, scratch = books_directory(settings), None
    if books is None:
        books = scratch = Path(tempfile.mkdtemp(prefix="maitred-"))
    simulated = SimulatedProvider(
        books,
        outcome=settings.simulated_outcome,
        delay_s=settings.simulated_delay_s,
        clock=engine.clock,
    )
    gateways = choose_gateways(engine, simulated, stripe)
    coordinator = PaymentCoordinator(engine, gateways)
    sweeper = Sweeper(engine)
    backups = Backups(settings.backup_dir)
    watches = WatchService(engine)
    catalogs = Catalogs(engine)
    handlers: dict[ServiceDescriptor, Sequence[object]] = {
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"]: [
            AdminService(engine, sweeper, backups, coordinator.health)
        ],
        session_pb2.DESCRIPTOR.services_by_name["SessionService"]: [
            SessionService(engine),
            watches,
        ],
        conversation_pb2.DESCRIPTOR.services_by_name["ConversationService"]: [
            ConversationService(engine)
        ],
        menu_pb2.DESCRIPTOR.services_by_name["MenuService"]: [MenuService(engine, catalogs)],
        order_pb2.DESCRIPTOR.services_by_name["OrderService"]: [OrderService(engine, catalogs)],
        payment_pb2.DESCRIPTOR.services_by_name["PaymentService"]: [
            PaymentService(engine, coordinator),
            watches,
        ],
    }
    return Parts(engine, sweeper, gateways, coordinator, backups, handlers, scratch)
