"""Handles over the real server: short, with a memory, and fenced by what they saw."""

from __future__ import annotations

import asyncio

import pytest

from maitred.client import (
    AsyncClient,
    Client,
    ConcurrentModification,
    InsufficientFunds,
    InvalidQuantity,
    InvalidSession,
    ItemSoldOut,
    Money,
    NothingToPay,
    PaymentStatus,
    Phase,
    assistant,
    tool,
    user,
)
from maitred.server.app.server import Server
from maitred.server.testing.servers import running_server


async def test_a_visit(client: AsyncClient) -> None:
    """What a guest does is on the handle, and each answer moves its state on."""
    guest = await client.create_session(opening_balance=5000, labels={"table": "7"})
    line = await guest.add_item("Negroni", quantity=2)
    left = await guest.remove_item(line.line_number, quantity=1)
    gone = await guest.remove_item(line.line_number)
    await guest.add_item("IPA")
    order = await guest.place_order()
    state = await guest.set_tip(15)
    conversation = await guest.record_turn(
        [user("an IPA"), tool("add_item", "6.00"), assistant("Cheers")]
    )

    assert (line.total.minor_units, line.name) == (2200, "Negroni")
    assert left is not None
    assert left.quantity == 1
    assert gone is None
    assert order.number == 1
    assert state.tip_amount.minor_units == 90
    assert conversation.phase == Phase.PHASE_ORDER_TAKING
    assert guest.state is not None
    assert guest.state.version == 8
    assert guest.state.payment.total == Money(minor_units=690, currency="USD")
    assert [message.text for message in [m async for m in guest.list_messages()]] == [
        "an IPA",
        "6.00",
        "Cheers",
    ]


async def test_a_handle_tells_a_new_visit(client: AsyncClient) -> None:
    """Who keys by table is told that the table was left; who joins an open visit is not."""
    first = await client.create_session(session_id="table-7")
    joined = await client.create_session(session_id="table-7")
    await first.close()
    second = await client.create_session(session_id="table-7")

    assert [each.new_visit for each in (first, joined, second)] == [False, False, True]
    assert second.turn("t1").new_visit


async def test_refusals_are_typed(client: AsyncClient) -> None:
    """A refusal is caught by its class and tells what stands in the contract."""
    guest = await client.create_session(opening_balance=500)
    with pytest.raises(InsufficientFunds) as caught:
        await guest.add_item("IPA")
    with pytest.raises(ItemSoldOut):
        await guest.add_item("Water")
    with pytest.raises(NothingToPay):
        await guest.create_payment()

    assert {"balance", "price"} <= caught.value.metadata.keys()


async def test_a_quantity_of_zero_is_not_one(client: AsyncClient) -> None:
    """Zero is told from "not said", and refused."""
    guest = await client.create_session()
    with pytest.raises(InvalidQuantity):
        await guest.add_item("IPA", quantity=0)
    line = await guest.add_item("IPA")
    with pytest.raises(InvalidQuantity):
        await guest.remove_item(line.line_number, quantity=0)

    assert (await guest.refresh()).order.lines[0].quantity == 1


async def test_a_reset_fences_whoever_did_not_see_it(client: AsyncClient) -> None:
    """What was decided before a reset is refused after it, until the handle has seen it."""
    guest = await client.create_session()
    await client.session(guest.session_id).reset()
    with pytest.raises(ConcurrentModification):
        await guest.add_item("IPA")
    await guest.refresh()
    line = await guest.add_item("IPA")

    assert line.name == "IPA"


async def test_a_version_can_be_expected(client: AsyncClient) -> None:
    """Preconditions go with any command."""
    guest = await client.create_session()
    await guest.add_item("IPA", expected_version=1)
    with pytest.raises(ConcurrentModification) as caught:
        await guest.add_item("IPA", expected_version=1)

    assert caught.value.metadata["current_version"] == "2"


async def test_the_state_never_goes_back(client: AsyncClient) -> None:
    """Answers that overtake one another leave the newest state."""
    guest = await client.create_session()
    await asyncio.gather(*(guest.add_item("IPA") for _ in range(20)))

    assert guest.state is not None
    assert guest.state.version == 21


async def test_lists_turn_their_pages(client: AsyncClient) -> None:
    """A listing is one iteration, however many pages it has; or page by page with a token."""
    guest = await client.create_session()
    for _ in range(5):
        await guest.add_item("IPA")
    versions = [event.version async for event in guest.list_events(page_size=2)]
    pager = client.list_events(session_id=guest.session_id, page_size=4)
    first = await pager.page()
    resumed = client.list_events(
        session_id=guest.session_id, page_size=4, page_token=pager.next_page_token
    )
    rest = [event.version async for event in resumed]
    end = await resumed.page()

    assert versions == [1, 2, 3, 4, 5, 6]
    assert [event.version for event in first] == [1, 2, 3, 4]
    assert rest == [5, 6]
    assert end == []


async def test_a_payment_is_watched_to_its_end() -> None:
    """A watch that ends when settled hands out the settled state last, also to who comes late."""
    async with (
        running_server(simulated_outcome="pay", simulated_delay_s=0.05) as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session()
        await guest.add_item("Tea", open_price=300)
        payment = await guest.create_payment()
        updates = [each async for each in guest.watch_payment(end_when_settled=True)]
        late = [each async for each in guest.watch_payment(end_when_settled=True)]
        checked = await guest.check_payment(wait=5)

    assert payment.amount.minor_units == 300
    assert updates[-1].settled
    assert updates[-1].payment is not None
    assert updates[-1].payment.status == PaymentStatus.PAYMENT_STATUS_SUCCEEDED
    assert [each.settled for each in late] == [True]
    assert checked.payment.status == PaymentStatus.PAYMENT_STATUS_SUCCEEDED
    assert not checked.wait_expired


async def test_the_blocking_twin_serves_a_guest(server: Server) -> None:
    """All of it without asyncio, from a thread."""

    def visit() -> tuple[int, int, list[str]]:
        with Client(server.address) as client:
            guest = client.create_session()
            with guest.turn("turn-1") as turn:
                turn.add_item("Negroni")
                turn.place_order()
                turn.record_turn([user("a Negroni"), assistant("Cheers")])
            with guest.watch(after_version=0) as watch:
                changes = [next(watch) for _ in range(4)]
            with pytest.raises(InvalidSession):
                client.get_session(session_id="nobody")
            state = guest.refresh()
            names = [getattr(item, "change", "") for item in changes]
            return state.version, state.payment.tab_total.minor_units, names

    version, tab, names = await asyncio.to_thread(visit)

    assert (version, tab) == (4, 1100)
    assert names == ["session_created", "line_added", "order_placed", "turn_recorded"]
