"""Request ids: a retry has one effect, and so has a turn that is run again."""

from __future__ import annotations

import asyncio

from maitred.client import AsyncClient
from maitred.client._request_ids import RandomIds, TurnIds
from maitred.server.app.server import Server
from maitred.server.testing.proxy import Proxy
from maitred.v1.order_pb2 import AddItemRequest, PlaceOrderRequest


def test_ids_follow_from_turn_method_arguments_and_count() -> None:
    """The same call of the same turn has the same id; whatever differs makes another."""
    request = AddItemRequest(session_id="s", item="IPA", quantity=2)

    def ids(turn: str) -> list[str]:
        made = TurnIds(turn)
        return [
            made.next_for(request),
            made.next_for(request),
            made.next_for(AddItemRequest(session_id="s", item="IPA", quantity=3)),
            made.next_for(PlaceOrderRequest(session_id="s")),
        ]

    assert ids("1") == ids("1")
    assert len({*ids("1"), *ids("2")}) == 8


def test_preconditions_are_no_arguments() -> None:
    """A turn that is run again may have seen a newer state; its ids stay."""
    first = AddItemRequest(session_id="s", item="IPA", expected_version=3, expected_reset_count=0)
    second = AddItemRequest(session_id="s", item="IPA", expected_version=9)

    assert TurnIds("t").next_for(first) == TurnIds("t").next_for(second)


def test_random_ids_differ() -> None:
    """Two calls are two requests unless somebody says otherwise."""
    request = PlaceOrderRequest(session_id="s")

    assert RandomIds().next_for(request) != RandomIds().next_for(request)


async def test_a_turn_run_again_repeats_nothing(client: AsyncClient) -> None:
    """An agent that crashed in a turn runs it from the start: what was done stays done once."""
    guest = await client.create_session()

    async def run(handle_of: AsyncClient, *, crash_after: int) -> None:
        turn = handle_of.session(guest.session_id, turn_id="message-17")
        for step in (
            lambda: turn.add_item("IPA"),
            lambda: turn.add_item("IPA"),
            lambda: turn.update_context(topic="beer"),
            turn.place_order,
        )[:crash_after]:
            await step()

    await run(client, crash_after=2)
    await run(client, crash_after=4)
    version = (await guest.refresh()).version
    await run(client, crash_after=4)
    after = await guest.refresh()

    assert after.payment.tab_total.minor_units == 1200
    assert after.version == version


async def test_a_lost_reply_is_asked_for_again(server: Server) -> None:
    """A command whose reply was lost is sent again by the client and has one effect."""
    async with Proxy(server.address) as proxy, AsyncClient(proxy.address) as client:
        guest = await client.create_session()
        proxy.drop_replies = True

        async with AsyncClient(server.address) as direct:
            watch = direct.watch_session(session_id=guest.session_id, after_version=1)
            adding = asyncio.create_task(guest.add_item("Negroni"))
            async with watch:
                await anext(watch)
            proxy.drop_replies = False
            proxy.cut()
            line = await adding
            events = [event async for event in direct.list_events(session_id=guest.session_id)]

    assert line.name == "Negroni"
    assert [event.WhichOneof("change") for event in events] == ["session_created", "line_added"]
