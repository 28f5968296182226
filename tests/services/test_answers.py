"""What an answer to a mutation says, for every mutation of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.support.bar import open_bar
from tests.support.requests import VALID, Prepared
from tests.support.wire import Wire, wired

from maitred.server.engine.engine import Engine
from maitred.v1.state_pb2 import Menu, Session

WHOLE = {Session.DESCRIPTOR.full_name, Menu.DESCRIPTOR.full_name}


@pytest.fixture(scope="module")
async def bar() -> AsyncIterator[tuple[Engine, Wire]]:
    """A server with a menu."""
    async with wired() as (server, wire):
        await open_bar(wire)
        yield server.engine, wire


def _states(message: Message, path: str = "") -> Iterator[str]:
    """Where a message holds whole sessions or menus."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in [value] if isinstance(value, Message) else value:
            inner = f"{path}.{field.name}"
            if field.message_type.full_name in WHOLE:
                yield inner
            yield from _states(part, inner)


@pytest.mark.parametrize("rpc", VALID)
async def test_no_answer_says_its_state_twice(bar: tuple[Engine, Wire], rpc: str) -> None:
    """At the first time and for a retry; the log keeps all of it."""
    engine, wire = bar
    prepared: Prepared = await VALID[rpc](wire)
    request: Any = prepared.request
    request.request_id = "only-once"
    first = await wire(rpc, request)
    again = await wire(rpc, request)

    for answer in (first, again):
        assert list(_states(answer)) in ([".session"], [".menu"])
        assert answer.event.WhichOneof("change")
    assert first.event == again.event
    assert not first.replayed
    assert again.replayed
    logged = await engine.events(prepared.target, first.event.version - 1, 1)
    if list(_states(logged[0])):
        change = getattr(logged[0], str(logged[0].WhichOneof("change")))
        for field in change.DESCRIPTOR.fields:
            if field.message_type is not None and field.message_type.full_name in WHOLE:
                change.ClearField(field.name)
    if rpc != "SessionService/DeleteSession":
        assert logged[0] == first.event
