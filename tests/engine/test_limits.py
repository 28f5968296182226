"""What is kept is bounded in bytes, where it is accepted: events, sessions, menus, memory."""

from __future__ import annotations

import dataclasses

import grpc
import pytest
from tests.engine.conftest import AGENT, create, turn
from tests.support.wire import Failure, Wire, wired

from maitred.server.engine import limits
from maitred.server.engine.cache import HeadCache, Latest
from maitred.server.engine.engine import Engine
from maitred.server.engine.ring import RINGS_BYTES, RingEntry, Rings, Topic
from maitred.server.engine.tokens import Tokens
from maitred.server.errors import RequestTooLarge
from maitred.server.kinds.session import SESSION, session_ref
from maitred.v1 import menu_pb2, order_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money

ADD = "OrderService/AddItem"


def line(request_id: str = "") -> order_pb2.AddItemRequest:
    """A line of some hundred bytes."""
    price = Money(minor_units=1, currency="USD")
    return order_pb2.AddItemRequest(
        session_id="s1", item="x" * 100, open_price=price, request_id=request_id
    )


async def test_a_full_session_refuses_lines_and_can_still_place() -> None:
    """The refusal names size and bound; a retry of what was accepted is answered all the same."""
    asked = session_pb2.GetSessionRequest(session_id="s1")
    async with wired() as (server, wire):
        kinds = server.engine.kinds
        kinds[SESSION] = dataclasses.replace(kinds[SESSION], most_bytes=8000)  # type: ignore[index]  # only here
        created = session_pb2.CreateSessionRequest(session_id="s1")
        await wire("SessionService/CreateSession", created)
        accepted = 0
        while not isinstance(outcome := await wire.outcome(ADD, line(f"r{accepted}")), Failure):
            accepted += 1
        again = await wire(ADD, line(f"r{accepted - 1}"))
        session = await wire("SessionService/GetSession", asked)
        await wire("OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id="s1"))
        after = await wire(ADD, line("after"))

    assert (outcome.status, outcome.reason) == ("RESOURCE_EXHAUSTED", "SESSION_FULL")
    assert int(outcome.metadata["size"]) > int(outcome.metadata["limit"]) == 8000
    assert again.replayed
    assert session.session.ByteSize() <= 8000
    assert after.line.line_number == accepted + 1


async def test_an_event_that_no_message_holds_cannot_come_to_be(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused where every event is made, with its size and the bound."""
    monkeypatch.setattr(limits, "EVENT_BYTES", 2000)
    await create(engine)
    with pytest.raises(RequestTooLarge) as refused:
        await engine.execute(turn(text="x" * 3000), AGENT)

    assert int(refused.value.metadata["size"]) > int(refused.value.metadata["limit"]) == 2000
    assert (await engine.session("s1")).version == 1


async def test_the_largest_menu_can_be_read_by_everybody() -> None:
    """What PutMenu accepts, its answer and GetMenu carry to a client with gRPC's defaults."""
    menu = state_pb2.Menu(menu_id="big", title="Big", currency="USD")
    at, price = 0, Money(minor_units=100, currency="USD")
    while menu.ByteSize() < 1_000_000:
        at += 1
        menu.items.add(item_id=f"i{at}", name=f"Item {at}", description="d" * 1000, price=price)
    async with (
        wired() as (server, _),
        grpc.aio.insecure_channel(server.address) as plain,
    ):
        wire = Wire(plain)
        put = await wire("MenuService/PutMenu", menu_pb2.PutMenuRequest(menu=menu))
        got = await wire("MenuService/GetMenu", menu_pb2.GetMenuRequest(menu_id="big"))

    assert put.ByteSize() < 4 * limits.MIB
    assert len(got.menu.items) == at


@pytest.mark.parametrize("held", [1, 50])
def test_the_cache_of_heads_is_bounded_in_bytes(held: int) -> None:
    """Few large states or many small ones: what is held stays under the bound."""
    cache = HeadCache(10_000, 1_000_000)
    for number in range(500):
        size = 100_000 // held
        head = Latest(number % 7 + 1, 0, b"", bytes(size), None, None, None)
        cache.put(session_ref(f"s{number % 100}"), head)
        if number % 3 == 0:
            cache.drop(session_ref(f"s{number % 50}"))
        assert cache.held_bytes <= 1_000_000

    for number in range(100):
        cache.drop(session_ref(f"s{number}"))
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_rings_are_bounded_in_bytes_together() -> None:
    """Who watches many large sessions finds their older events in the store and not in memory."""
    rings, tokens = Rings(), Tokens(b"k", b"")
    topics = [Topic(tokens.seal(str(at)), tokens.seal(str(at))) for at in range(100)]
    for version in range(1, 20):
        for topic in topics:
            entry = RingEntry(version, "turn_recorded", bytes(100_000), bytes(100_000), None)
            rings.add(topic, entry, None)
            assert rings.held_bytes <= RINGS_BYTES
            assert topic.after(version - 1) is entry

    assert rings.held_bytes == sum(topic.ring_bytes for topic in topics)
    for topic in topics:
        rings.drop(topic)
    assert rings.held_bytes == 0
