"""What the client's tests share: a real server, its menu, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from maitred.client import AsyncClient, Menu, MenuItem, Money
from maitred.server.app.server import Server
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
