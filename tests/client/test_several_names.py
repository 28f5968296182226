"""Addresses of every kind over real servers: names, paths, both IPs, certificates, a killed one."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trustme
from tests.client.conftest import House, small_menu

from maitred.client import TLS, AsyncClient, MaitredError, Retries, SessionEvent
from maitred.server.testing.servers import running_server


class Names(asyncio.DatagramProtocol):
    """A name server that answers every question for an IPv4 address with the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = [socket.inet_aton(each) for each in addresses]
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to answer with."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        assert self._transport is not None
        end = data.index(0, 12) + 5
        question = data[12:end]
        found = self._addresses if question[-4:-2] == b"\x00\x01" else []
        # The name by reference to the question, type A, class IN, a minute to live.
        records = [b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + each for each in found]
        counts = bytes((0, 1, 0, len(records), 0, 0, 0, 0))
        answer = data[:2] + b"\x84\x00" + counts + question + b"".join(records)
        self._transport.sendto(answer, addr)


async def test_all_addresses_of_a_name_are_used(house: House) -> None:
    """A name with several addresses is several servers, and one of them may go."""
    port = house.servers[0].bound_port
    await house.start(f"127.0.0.2:{port}")
    loop = asyncio.get_running_loop()
    names, _ = await loop.create_datagram_endpoint(
        lambda: Names("127.0.0.1", "127.0.0.2"), ("127.0.0.1", 0)
    )
    at = names.get_extra_info("sockname")[1]
    async with AsyncClient(f"dns://127.0.0.1:{at}/maitred.example:{port}") as client:
        while not (house.writes[0].submitted and house.writes[2].submitted):
            await client.create_session()
        await house.servers[2].stop(0)
        guests = [await client.create_session() for _ in range(4)]
    names.close()

    assert len(guests) == 4


async def test_addresses_of_different_kinds(house: House, tmp_path: Path) -> None:
    """A name, an IP address and the path of a socket may stand in one list."""
    port = house.servers[0].bound_port
    path = tmp_path / "m.sock"
    async with (
        running_server(listen="", unix_socket=str(path)),
        AsyncClient(f"localhost:{port},unix:{path},{house.addresses[1]}") as client,
    ):
        for _ in range(6):
            await client.create_session()

    assert [len(house.sessions_written(position)) for position in range(2)] == [2, 2]


async def test_each_server_shows_a_certificate_of_its_own_name(tmp_path: Path) -> None:
    """TLS expects of each server the name in its address, and no other."""
    ca = trustme.CA()
    root = TLS(root_certificates=ca.cert_pem.bytes())

    @asynccontextmanager
    async def secured(name: str) -> AsyncIterator[int]:
        issued = ca.issue_cert(name)
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        async with running_server(tls_cert=str(cert), tls_key=str(key)) as server:
            yield server.bound_port

    async with secured("localhost") as first, secured("127.0.0.1") as second:
        async with AsyncClient(
            [f"localhost:{first}", f"127.0.0.1:{second}"], tls=root, retries=Retries(attempts=1)
        ) as client:
            infos = [await client.get_server_info() for _ in range(4)]
        async with AsyncClient(
            [f"127.0.0.1:{first}", f"localhost:{second}"], tls=root, retries=Retries(attempts=1)
        ) as client:
            with pytest.raises(MaitredError):
                await client.get_server_info()

    assert len(infos) == 4


@asynccontextmanager
async def process(path: Path, data: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `maitred serve` on a socket, and kill it in the end."""
    environment = {name: value for name, value in os.environ.items() if "MAITRED" not in name}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "maitred.server", "serve", "--listen=", f"--unix-socket={path}",
        f"--data=sqlite:{data}", "--log-level=error", env=environment,
    )  # fmt: skip
    try:
        yield server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def test_kill_9_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Guests and a watch of a killed server go on at the one that takes its data over.

    One file has one server at a time, so the second begins when the first is dead.
    """
    sockets = [tmp_path / "a.sock", tmp_path / "b.sock"]
    patient = Retries(attempts=1000, first_wait=0.05, longest_wait=0.2)
    counts: Counter[str] = Counter()
    versions: list[int] = []

    async def order(session_id: str) -> None:
        guest = client.session(session_id)
        for number in range(60):
            await guest.update_context(topic=f"topic {number}")
            counts[session_id] += 1

    async def follow() -> None:
        async with client.watch_session(session_id="s0", after_version=0) as watch:
            async for item in watch:
                assert isinstance(item, SessionEvent)
                versions.append(item.version)
                if item.version == 61:
                    return

    async with AsyncClient(
        [f"unix:{each}" for each in sockets], retries=patient, timeout=60.0
    ) as client:
        async with process(sockets[0], tmp_path / "m.db") as first:
            await client.put_menu(menu=small_menu())
            for number in range(4):
                await client.create_session(session_id=f"s{number}")
            guests = [asyncio.create_task(order(f"s{number}")) for number in range(4)]
            following = asyncio.create_task(follow())
            while counts.total() < 40:
                await asyncio.sleep(0)
            first.kill()
            await first.wait()
        async with process(sockets[1], tmp_path / "m.db"):
            await asyncio.gather(*guests, following)
            logs = [await client.get_session(session_id=f"s{number}") for number in range(4)]

    assert [each.version for each in logs] == [61] * 4
    assert versions == list(range(1, 62))
