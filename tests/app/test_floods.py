"""What strangers may do to a server: each flood is bounded, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.app.conftest import read_failure
from tests.support.http2 import CANCEL, DATA, EMPTY_MESSAGE, RST_STREAM, connected, head

from maitred.server.app import health
from maitred.server.app.listening import FILES_KEPT, connections_allowed
from maitred.server.app.pipeline.auth import add_token
from maitred.server.app.pipeline.quotas import Quotas
from maitred.server.app.server import Server
from maitred.server.config import Settings
from maitred.server.errors import RateLimited
from maitred.v1.common_pb2 import Role

GET = "/maitred.v1.SessionService/GetSession"
INFO = "/maitred.v1.AdminService/GetServerInfo"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
PATIENCE_S = 5.0
"""An honest caller's longest wait during a flood, on a machine that is busy with other tests."""


@contextlib.asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[tuple[Server, str]]:
    """Serve with a token file; answers the token, too."""
    token = add_token(folder / "tokens", "a", Role.ROLE_ADMIN)
    server = Server(
        Settings(data="memory://", listen="127.0.0.1:0", tokens=str(folder / "tokens"), **settings)
    )
    await server.start()
    try:
        yield server, token
    finally:
        await server.stop(0)


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def longest_wait(server: Server, flood: Awaitable[object]) -> float:
    """Call as an honest client until a flood is over; answers the longest wait for an answer."""
    work = asyncio.ensure_future(flood)
    longest = 0.0
    async with grpc.aio.insecure_channel(server.address) as channel:
        check: Any = channel.unary_unary(CHECK)
        while True:
            began = time.monotonic()
            await check(b"", timeout=30)
            longest = max(longest, time.monotonic() - began)
            if work.done():
                await work
                return longest
            await asyncio.sleep(0.01)


async def test_streams_that_are_opened_and_reset_cost_little(tmp_path: Path) -> None:
    """Whoever opens and resets streams takes neither the memory nor the others' time."""
    async with serving(tmp_path) as (server, _):

        async def flood() -> None:
            async with contextlib.AsyncExitStack() as stack:
                peers = [
                    await stack.enter_async_context(connected(server.bound_port)) for _ in "ab"
                ]
                for _ in range(100):
                    for peer in peers:
                        await peer.open(head(GET), 500, CANCEL, RST_STREAM)

        before = peak_bytes()
        longest = await longest_wait(server, flood())
        grown = peak_bytes() - before

    assert longest < PATIENCE_S
    # 100 000 calls that wait for a handler would take 370 MB.
    assert grown < 160 * 2**20, grown


async def test_a_connection_holds_no_more_streams_than_it_may(tmp_path: Path) -> None:
    """What a connection opens beyond its bound is refused at once, without a handler."""
    async with (
        serving(tmp_path, max_connection_streams=20) as (server, _),
        connected(server.bound_port) as peer,
    ):
        await peer.open(head(WATCH), 100, EMPTY_MESSAGE, DATA)
        await asyncio.wait_for(peer.wait_for(80), 30)

        assert len(peer.ended) == 80


async def test_a_stranger_is_refused_before_its_body(tmp_path: Path) -> None:
    """Without a token a call ends at its head: no body is waited for."""
    async with (
        serving(tmp_path, body_timeout_s=600) as (server, _),
        connected(server.bound_port) as peer,
    ):
        await peer.open(head(GET), 50)
        await asyncio.wait_for(peer.wait_for(50), 30)


@pytest.mark.parametrize("path", [INFO, CHECK, WATCH])
async def test_a_body_that_does_not_come_ends_the_call(tmp_path: Path, path: str) -> None:
    """A head without a body stands for as long as bodies may take, and no longer."""
    async with (
        serving(tmp_path, body_timeout_s=0.3) as (server, token),
        connected(server.bound_port) as peer,
    ):
        await peer.open(head(path, ("authorization", f"Bearer {token}")), 5)
        await asyncio.wait_for(peer.wait_for(5), 30)


async def test_health_watches_are_counted_by_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address holds a quarter of the watches that need no token; Check is always answered."""
    monkeypatch.setattr(health, "MAX_WATCHES", 40)
    async with serving(tmp_path) as (server, _), connected(server.bound_port) as peer:
        await peer.open(head(WATCH), 30, EMPTY_MESSAGE, DATA)
        await asyncio.wait_for(peer.wait_for(20), 30)

        assert len(peer.ended) == 20
        assert await longest_wait(server, asyncio.sleep(0)) < PATIENCE_S


async def test_silent_connections_leave_room(tmp_path: Path) -> None:
    """Connections that say nothing are dropped, and meanwhile others connect."""
    async with serving(tmp_path, handshake_timeout_s=1) as (server, _):
        with contextlib.ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.bound_port)))
                for _ in range(300)
            ]
            assert await longest_wait(server, asyncio.sleep(0)) < PATIENCE_S
            for each in silent:
                each.settimeout(30)
                await asyncio.to_thread(_until_closed, each)


def _until_closed(peer: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while peer.recv(4096):
            pass


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """Beyond the bound a connection is closed as soon as it is accepted."""
    async with (
        serving(tmp_path, max_connections=16, handshake_timeout_s=60) as (server, _),
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(16):
            await stack.enter_async_context(connected(server.bound_port))
        _, reading = await stack.enter_async_context(_raw(server.bound_port))

        assert await asyncio.wait_for(reading.read(), 30) == b""


def test_files_are_kept_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever connections come, files for the store, backups and HTTP are left."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))

    assert connections_allowed(Settings()) == 1024 - FILES_KEPT
    assert connections_allowed(Settings(max_connections=10)) == 16
    assert connections_allowed(Settings(max_connections=5000)) == 1024 - FILES_KEPT
    assert connections_allowed(Settings(metrics_listen="127.0.0.1:0")) == 768 - FILES_KEPT


@contextlib.asynccontextmanager
async def _raw(port: int) -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamReader]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield writer, reader
    finally:
        writer.close()


async def test_a_caller_is_held_to_its_quota(tmp_path: Path) -> None:
    """One who calls too fast is told so, and when to come again; others are not affected."""
    other = add_token(tmp_path / "tokens", "b", Role.ROLE_ADMIN)
    async with (
        serving(tmp_path, caller_calls_per_s=1) as (server, token),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call: Any = channel.unary_unary(INFO)

        async def ask(who: str, times: int = 1) -> None:
            for _ in range(times):
                await call(b"", metadata=(("authorization", f"Bearer {who}"),), timeout=30)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(token, 50)
        await ask(other)

    failure = read_failure(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
    )
    assert failure.retry_after_s is not None
    assert 0 < failure.retry_after_s <= 1


def test_streams_are_counted_by_caller() -> None:
    """A caller has so many streams and no more; one that ends makes room."""
    quotas = Quotas(0, 2)
    first = quotas.open_stream("a")
    quotas.open_stream("a")
    with pytest.raises(RateLimited, match="2 streams open"):
        quotas.open_stream("a")
    quotas.open_stream("b")

    quotas.close_stream(first)
    quotas.open_stream("a")
