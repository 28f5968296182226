"""TLS on the way to a database: what the URL says is what the driver insists on.

The databases that come from pip speak none, so that TLS ends at a door in front of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer

from maitred.server.stores.base import Committed, Store, StoreUnavailable
from maitred.server.stores.postgres import PostgresStore
from maitred.server.stores.redis import RedisStore
from maitred.server.testing.samples import new_commit, new_ref, put

SSL_REQUEST = struct.pack("!II", 8, 80877103)
"""How PostgreSQL's protocol asks for TLS, see its chapter on message formats."""

Open = Callable[[int, Path], Store]
"""Names a store behind a port, that trusts an authority."""


class Door:
    """Ends TLS in front of a database, and counts who came in."""

    def __init__(self, behind: str, context: ssl.SSLContext, *, asks_first: bool) -> None:
        self._behind = behind.rpartition(":")
        self._context = context
        self._asks_first = asks_first
        self._visits: set[asyncio.Task[None]] = set()
        self.entered = 0

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[int]:
        """Listen; answers the port."""
        context = None if self._asks_first else self._context
        server = await asyncio.start_server(self._visit, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for visit in self._visits:
                visit.cancel()
            await asyncio.gather(*self._visits, return_exceptions=True)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            if self._asks_first:
                assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(self._context)
            self.entered += 1
            await self._carry(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            self._visits.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._behind
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = [
            asyncio.create_task(_pass(reader, far_writer)),
            asyncio.create_task(_pass(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


class House(NamedTuple):
    """A database behind a door, and who vouches for it."""

    door: Door
    store: Open
    root: Path


@pytest.fixture(params=["postgres", "redis"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    """A database that is reached by TLS only."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    root = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(root))
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        prefix = f"tls-{tmp_path.name}"

        def redis_store(port: int, trusted: Path) -> Store:
            url = f"rediss://localhost:{port}/0?prefix={prefix}&ssl_ca_certs={trusted}"
            return RedisStore(url)

        return House(Door(redis.address, context, asks_first=False), redis_store, root)

    postgres: PostgresServer = request.getfixturevalue("postgres")
    database = postgres.create_database().partition("?")[0].rpartition("/")[2]

    def postgres_store(port: int, trusted: Path) -> Store:
        insist = f"sslmode=verify-full&sslrootcert={trusted}&gssencmode=disable"
        return PostgresStore(f"postgresql://maitred@localhost:{port}/{database}?{insist}")

    return House(Door(postgres.address, context, asks_first=True), postgres_store, root)


async def test_a_database_is_reached_by_tls(house: House) -> None:
    """Every connection of a store, also those that listen, is encrypted and verified."""
    async with house.door.opened() as port:
        store = house.store(port, house.root)
        await store.open()
        ref = new_ref()
        committed = await put(store, new_commit(ref, 0))
        versions = await store.versions([ref])
        await store.close()

    assert committed == Committed()
    assert versions == {ref: 1}
    assert house.door.entered > 1


async def test_a_database_that_nobody_vouches_for_is_refused(house: House, tmp_path: Path) -> None:
    """A certificate of another authority is no database; the line names the certificate."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with house.door.opened() as port:
        store = house.store(port, other)
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await store.open()

    assert house.door.entered == 0
