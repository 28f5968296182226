"""pytest-grpc's fixtures, overridden: the real server on a free port and asyncio channels to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from maitred.server.app.server import Server
from maitred.server.config import Settings
from maitred.server.engine.clock import ManualClock
from maitred.server.testing.servers import running_server

CreateChannel = Callable[..., grpc.aio.Channel]


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    """The clock of the server, which stands still until a test moves it."""
    return ManualClock()


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings of the server; a module may override them."""
    return Settings(listen="127.0.0.1:0", data="memory://", grace_s=0.0)


@pytest.fixture(scope="module")
async def grpc_server(settings: Settings, clock: ManualClock) -> AsyncIterator[Server]:
    """The whole server, with every service of the contract."""
    async with running_server(settings, clock=clock) as server:
        yield server


@pytest.fixture(scope="module")
def grpc_addr(grpc_server: Server) -> str:
    """Where the server listens; the plugin's own guess could be taken by somebody else."""
    return grpc_server.address


@pytest.fixture(scope="module")
def grpc_create_channel(grpc_addr: str) -> CreateChannel:
    """Make further channels."""

    def create(
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] | None = None,
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(grpc_addr, options)
        return grpc.aio.secure_channel(grpc_addr, credentials, options)

    return create


@pytest.fixture(scope="module")
async def grpc_channel(grpc_create_channel: CreateChannel) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the server."""
    async with grpc_create_channel() as channel:
        yield channel
