"""The proxy of the tests leaves nothing behind, or its warnings would fail tests of others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest

from maitred.server.testing.proxy import Proxy


@pytest.mark.parametrize("turns", range(5))
async def test_a_proxy_that_closes_ends_what_it_has_just_accepted(turns: int) -> None:
    """However far a connection has come when the proxy closes, it is closed and not forgotten."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        async with Proxy(f"127.0.0.1:{upstream.getsockname()[1]}") as proxy:
            host, _, port = proxy.address.rpartition(":")
            near = [socket.create_connection((host, int(port))) for _ in range(3)]
            for _turn in range(turns):
                await asyncio.sleep(0)

        for each in near:
            with each:
                each.settimeout(10)
                with contextlib.suppress(ConnectionResetError):
                    assert each.recv(1) == b""
    # A socket that nobody closed warns here, which is an error.
    gc.collect()
