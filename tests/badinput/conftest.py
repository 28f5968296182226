"""A server whose store counts what is written, and a guest whom bad input must not touch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.bar import add, open_bar, session
from tests.support.requests import GUEST
from tests.support.wire import Wire, wired

from maitred.server.app.server import Server
from maitred.server.engine.clock import ManualClock
from maitred.server.stores import create_store
from maitred.server.testing.faulty import FaultyStore
from maitred.v1 import order_pb2, session_pb2


class House(NamedTuple):
    """A server, a connection to it, and its store."""

    server: Server
    wire: Wire
    store: FaultyStore

    async def seen(self) -> tuple[int, bytes]:
        """Everything that bad input could have changed: what was written, and the guest."""
        found = await session(self.wire, GUEST)
        return len(self.store.submitted), found.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Run a server on a file, where numbers have to fit into columns, too."""
    folder: Path = tmp_path_factory.mktemp("data")
    store = FaultyStore(create_store(f"sqlite:{folder / 'maitred.db'}"))
    async with wired(
        store=store,
        clock=ManualClock(),
        simulated_dir=str(folder),
        backup_dir=str(folder / "backups"),
        heartbeat_s=3600.0,
    ) as (server, wire):
        await open_bar(wire)
        created = session_pb2.CreateSessionRequest(session_id=GUEST, request_id="taken")
        await wire("SessionService/CreateSession", created)
        await wire("OrderService/AddItem", add(GUEST, "negroni", quantity=2))
        await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=GUEST))
        await wire("OrderService/AddItem", add(GUEST, "beer", quantity=2))
        yield House(server, wire, store)
