"""Which handlers serve which service: the one list of everything that is put together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

from maitred.server.app.admin import AdminService
from maitred.server.config import Settings
from maitred.server.engine.clock import Clock, Ids
from maitred.server.engine.engine import Engine
from maitred.server.engine.sweeper import Sweeper
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.provider import PaymentProvider
from maitred.server.payments.service import PaymentService
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.services.conversations import ConversationService
from maitred.server.services.menus import MenuService
from maitred.server.services.orders import OrderService
from maitred.server.services.sessions import SessionService
from maitred.server.services.watches import WatchService
from maitred.server.stores.base import Store, StoreInfo
from maitred.v1 import admin_pb2, conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2


@dataclass(slots=True)
class Parts:
    """What a server consists of, behind its transport."""

    engine: Engine
    sweeper: Sweeper
    provider: PaymentProvider
    coordinator: PaymentCoordinator
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
        if self._engine_runs:
            self._engine_runs = False
            await self.engine.stop()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def books_directory(settings: Settings) -> Path | None:
    """Find the simulated provider's books; None where the data is in memory and so are they."""
    if settings.simulated_dir:
        return Path(settings.simulated_dir)
    if settings.data.lower().startswith("memory:"):
        return None
    if settings.data.lower().startswith(("redis:", "rediss:")):
        return Path.cwd()
    path = settings.data
    if path.lower().startswith("sqlite:"):
        path = path[len("sqlite:") :].removeprefix("//")
    return Path(path).absolute().parent


def wire(settings: Settings, store: Store, clock: Clock | None, ids: Ids | None) -> Parts:
    """Put the engine and all handlers together; nothing runs yet."""
    engine = Engine(store, settings, clock=clock, ids=ids)
    books, scratch = books_directory(settings), None
    if books is None:
        books = scratch = Path(tempfile.mkdtemp(prefix="maitred-"))
    provider = SimulatedProvider(
        books,
        outcome=settings.simulated_outcome,
        delay_s=settings.simulated_delay_s,
        clock=engine.clock,
    )
    coordinator = PaymentCoordinator(engine, provider)
    sweeper = Sweeper(engine)
    watches = WatchService(engine)
    handlers: dict[ServiceDescriptor, Sequence[object]] = {
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"]: [
            AdminService(engine, sweeper, coordinator.health)
        ],
        session_pb2.DESCRIPTOR.services_by_name["SessionService"]: [
            SessionService(engine),
            watches,
        ],
        conversation_pb2.DESCRIPTOR.services_by_name["ConversationService"]: [
            ConversationService(engine)
        ],
        menu_pb2.DESCRIPTOR.services_by_name["MenuService"]: [MenuService(engine)],
        order_pb2.DESCRIPTOR.services_by_name["OrderService"]: [OrderService(engine)],
        payment_pb2.DESCRIPTOR.services_by_name["PaymentService"]: [
            PaymentService(engine, coordinator),
            watches,
        ],
    }
    return Parts(engine, sweeper, provider, coordinator, handlers, scratch)
