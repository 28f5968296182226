"""A real server on each embedded store, and a bar on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.bar import open_bar
from tests.support.wire import Wire, wired

from maitred.server.app.server import Server


class Bar(NamedTuple):
    """A server with a menu, and a connection to it."""

    server: Server
    wire: Wire


@pytest.fixture(params=["memory", "sqlite"], scope="module")
async def bar(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bar]:
    """Run a server for the module; every test brings its own guests."""
    folder: Path = tmp_path_factory.mktemp("data")
    data = "memory://" if request.param == "memory" else f"sqlite:{folder / 'maitred.db'}"
    async with wired(data=data, simulated_dir=str(folder), heartbeat_s=3600.0) as (server, wire):
        await open_bar(wire)
        yield Bar(server, wire)
