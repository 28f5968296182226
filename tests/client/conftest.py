"""What the client's tests share: real servers, their menu, and clients of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import pytest
from tests.support.shared import Shared

from maitred.client import AsyncClient, Menu, MenuItem, Money
from maitred.server.app.server import Server
from maitred.server.stores.base import StoreInfo
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.servers import running_server


def small_menu() -> Menu:
    """A menu of three drinks; one is sold out."""
    prices = {"Negroni": 1100, "IPA": 600, "Water": 100}
    return Menu(
        menu_id="default",
        title="Bar",
        currency="USD",
        items=[
            MenuItem(
                item_id=name.lower(),
                name=name,
                price=Money(minor_units=price, currency="USD"),
                sold_out=name == "Water",
            )
            for name, price in prices.items()
        ],
    )


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    """The real server on a free port, in memory, with quick heartbeats and a menu."""
    async with running_server(heartbeat_s=0.05) as running:
        async with AsyncClient(running.address) as client:
            await client.put_menu(menu=small_menu())
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    """A client of the server."""
    async with AsyncClient(server.address) as connected:
        yield connected


class House:
    """Servers that share one store, each behind a proxy and with its own record of writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exits = AsyncExitStack()
        self._store = MemoryStore()
        self._info: StoreInfo | None = None
        self.servers: list[Server] = []
        self.writes: list[Shared] = []

    async def __aenter__(self) -> Self:
        self._info = await self._store.open()
        self._exits.push_async_callback(self._store.close)
        for _ in range(2):
            await self.start()
        async with AsyncClient(self.servers[0].address) as client:
            await client.put_menu(menu=small_menu())
        self.writes[0].submitted.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def start(self, listen: str = "127.0.0.1:0") -> Server:
        """Start one more server."""
        assert self._info is not None
        store = Shared(self._store, self._info)
        server = await self._exits.enter_async_context(
            running_server(
                store=store, listen=listen, heartbeat_s=0.05, simulated_dir=str(self._folder)
            )
        )
        self.servers.append(server)
        self.writes.append(store)
        return server

    async def proxy(self, server: Server) -> Proxy:
        """Put a proxy before a server."""
        return await self._exits.enter_async_context(Proxy(server.address))

    @property
    def addresses(self) -> list[str]:
        """Where the servers listen."""
        return [server.address for server in self.servers]

    def sessions_written(self, position: int) -> list[str]:
        """List the session of every commit of a server."""
        commits = self.writes[position].submitted
        return [append.ref.id for commit in commits for append in commit.appends]

    def writer_of(self, session_id: str) -> int:
        """Find the server that wrote to a session last."""
        (position,) = [
            at for at in range(len(self.servers)) if session_id in self.sessions_written(at)
        ]
        return position

    async def reached(self, position: int, session_id: str, version: int) -> None:
        """Wait until a server has brought a session to a version."""
        engine = self.servers[position].engine
        while (await engine.session(session_id)).version < version:
            await asyncio.sleep(0.01)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Two servers of the same data and the same simulated provider."""
    async with House(tmp_path) as opened:
        yield opened
