"""Clients that retry by themselves: what an empty request_id does, and how a server refuses it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.bar import add, new_guest, open_bar, session
from tests.support.requests import VALID
from tests.support.wire import Failure, Wire

from maitred.server.config import Settings
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.servers import running_server
from maitred.v1 import session_pb2

SETTINGS = Settings(listen="127.0.0.1:0", data="memory://", grace_s=0.0)
DOCUMENTED = Path(__file__).parents[2] / "docs" / "clients.md"


def documented() -> str:
    """The service config of the documentation, as JSON."""
    found = re.search(r"```json\n(.*?)```", DOCUMENTED.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.dumps(json.loads(found.group(1)))


async def lines_after_a_lost_answer(request_id: str) -> int:
    """Add one item through a proxy that loses the first answer; a channel retries by itself."""
    options = [("grpc.service_config", documented()), ("grpc.enable_retries", 1)]
    async with (
        running_server(SETTINGS) as server,
        grpc.aio.insecure_channel(server.address) as direct,
        Proxy(server.address) as proxy,
        grpc.aio.insecure_channel(proxy.address, options) as channel,
    ):
        wire, retrying = Wire(direct), Wire(channel)
        await open_bar(wire)
        guest = await new_guest(wire)
        await session(retrying, guest)
        proxy.drop_replies = True
        request = add(guest, request_id=request_id)
        call = asyncio.ensure_future(retrying("OrderService/AddItem", request))
        while not (await session(wire, guest)).order.lines:
            await asyncio.sleep(0)
        proxy.drop_replies = False
        proxy.cut()
        await call
        return len((await session(wire, guest)).order.lines)


@pytest.mark.parametrize(("request_id", "lines"), [("", 2), ("one", 1)])
async def test_a_retry_of_the_clients_own_acts_once_with_an_id(request_id: str, lines: int) -> None:
    """A lost answer and the documented service config: twice without an id, once with one."""
    assert await lines_after_a_lost_answer(request_id) == lines


async def test_a_server_may_require_request_ids() -> None:
    """Every rpc that changes something is refused without one; reads are not."""
    strict = dataclasses.replace(SETTINGS, require_request_id=True)
    async with (
        running_server(SETTINGS) as lenient,
        running_server(strict) as server,
        grpc.aio.insecure_channel(lenient.address) as preparing,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await open_bar(Wire(preparing))
        wire = Wire(channel)
        for rpc, prepare in VALID.items():
            request: Any = (await prepare(Wire(preparing))).request
            refused = await wire.outcome(rpc, request)
            assert isinstance(refused, Failure), rpc
            assert (refused.reason, refused.fields) == ("INVALID_FIELD", ("request_id",)), rpc
        create = session_pb2.CreateSessionRequest(session_id="table-7", request_id="r")
        await wire("SessionService/CreateSession", create)
        assert (await session(wire, "table-7")).version == 1
