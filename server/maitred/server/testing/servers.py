"""A real server in this process, for tests and for whoever builds on maitred."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from maitred.server.app.server import Server
from maitred.server.config import Settings
from maitred.server.engine.clock import Clock, Ids
from maitred.server.stores.base import Store


@asynccontextmanager
async def running_server(
    settings: Settings | None = None,
    *,
    store: Store | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    **changes: Any,
) -> AsyncIterator[Server]:
    """Run a server on a free port, in memory unless the settings say otherwise.

    Settings may be given whole, or one by one: `running_server(data="sqlite:x.db")`. With a
    `ManualClock` time stands still until it is moved. The server is stopped without grace.
    """
    chosen = settings or Settings(listen="127.0.0.1:0", data="memory://", grace_s=0.0)
    server = Server(dataclasses.replace(chosen, **changes), store=store, clock=clock, ids=ids)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)
