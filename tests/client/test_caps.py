"""An agent cannot raise its own limits by any rpc; staff is above them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.client.conftest import small_menu

from maitred.client import AsyncClient, MenuItem, Money, PermissionDenied, RateLimited
from maitred.server.app.pipeline.auth import add_token
from maitred.server.testing.servers import running_server
from maitred.v1.common_pb2 import Role
from maitred.v1.state_pb2 import PaymentMethod

CASH = PaymentMethod.PAYMENT_METHOD_CASH


class House(NamedTuple):
    """The same server as an agent and as staff see it."""

    agent: AsyncClient
    other: AsyncClient
    staff: AsyncClient


def usd(minor_units: int) -> Money:
    """An amount of the house's currency."""
    return Money(minor_units=minor_units, currency="USD")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A server with narrow caps."""
    tokens = tmp_path / "tokens"
    agent, other = (add_token(tokens, name, Role.ROLE_AGENT) for name in ("anna", "bob"))
    staff = add_token(tokens, "carl", Role.ROLE_STAFF)
    async with (
        running_server(
            tokens=str(tokens),
            opening_balance_minor=5_000,
            max_opening_balances=("20000", "KWD:1000", "IDR:5000000000"),
            max_idle_seconds=7200,
            max_resets=2,
            max_sessions_per_hour=8,
            max_tab_lines=4,
        ) as server,
        AsyncClient(server.address, token=agent) as first,
        AsyncClient(server.address, token=other) as second,
        AsyncClient(server.address, token=staff) as third,
    ):
        menu = small_menu()
        menu.items.append(MenuItem(item_id="tap", name="Tap", price=usd(0)))
        await third.put_menu(menu=menu)
        yield House(first, second, third)


@pytest.mark.parametrize(
    ("amount", "most"),
    [
        (usd(20_001), 20_000),
        (usd(10**12), 20_000),
        (Money(minor_units=1001, currency="KWD"), 1000),
        (Money(minor_units=5_000_000_001, currency="IDR"), 5_000_000_000),
        (Money(minor_units=20_001, currency="JPY"), 20_000),
    ],
)
async def test_an_opening_balance_is_capped_in_every_currency(
    house: House, amount: Money, most: int
) -> None:
    """The first visit and the next ones under the same id; staff gives what it likes."""
    with pytest.raises(PermissionDenied) as refused:
        await house.agent.create_session(session_id="table-7", opening_balance=amount)
    largest = Money(minor_units=most, currency=amount.currency)
    guest = await house.agent.create_session(session_id="table-7", opening_balance=largest)
    await guest.close()
    with pytest.raises(PermissionDenied):
        await house.agent.create_session(session_id="table-7", opening_balance=amount)
    rich = await house.staff.create_session(session_id="table-7", opening_balance=amount)

    assert refused.value.metadata["required_role"] == "STAFF"
    assert refused.value.metadata["maximum"] == str(most)
    assert (await rich.refresh()).payment.balance == amount


async def test_a_session_is_kept_for_no_longer_than_the_cap(house: House) -> None:
    """Neither from the beginning nor later on."""
    with pytest.raises(PermissionDenied):
        await house.agent.create_session(idle_seconds=7201)
    guest = await house.agent.create_session(idle_seconds=7200)
    with pytest.raises(PermissionDenied):
        await guest.extend(idle_seconds=7201)
    longer = await house.staff.session(guest.session_id).extend(idle_seconds=86_400)

    assert longer.idle_seconds == 86_400
    # Counted anew, and not given: what staff has allowed stays.
    assert (await guest.extend()).idle_seconds == 86_400


async def test_resets_refill_the_balance_so_often_and_no_more(house: House) -> None:
    """Until the next visit; staff may always, and its resets are not counted."""
    guest = await house.agent.create_session(session_id="table-7")
    for _ in range(2):
        await guest.reset()
    await house.staff.session("table-7").reset()
    await guest.refresh()
    with pytest.raises(PermissionDenied) as refused:
        await guest.reset()
    again = await house.staff.session("table-7").reset()
    await guest.refresh()
    await guest.close()
    visit = await house.agent.create_session(session_id="table-7")
    fresh = await visit.reset()

    assert refused.value.metadata == {"required_role": "STAFF", "maximum": "2"}
    assert (again.agent_resets, again.reset_count) == (2, 4)
    assert fresh.agent_resets == 1


async def test_each_agent_begins_so_many_sessions_in_an_hour(house: House) -> None:
    """New ones and visits alike, whatever the id; what begins nothing is not counted."""
    request_id = "opened-once"
    guest = await house.agent.create_session(request_id=request_id)
    for _ in range(9):
        replayed = await house.agent.create_session(request_id=request_id)
        assert replayed.session_id == guest.session_id
    for _ in range(9):
        with pytest.raises(PermissionDenied):
            await house.agent.create_session(opening_balance=usd(10**9))
    for _ in range(7):
        table = await house.agent.create_session(session_id="table-7")
        await table.close()
    with pytest.raises(RateLimited) as refused:
        await house.agent.create_session(session_id="table-7")
    with pytest.raises(RateLimited):
        await house.agent.create_session()

    assert (refused.value.retry_after or 0) > 60
    await house.other.create_session()
    for _ in range(9):
        await house.staff.create_session()


async def test_free_lines_are_bounded_until_the_tab_is_paid(house: House) -> None:
    """Placing, clearing and removing make no room; paying does, and staff is above it."""
    guest = await house.agent.create_session()
    await guest.add_item("Tap")
    await guest.place_order()
    await guest.add_item("Tap")
    await guest.clear_order()
    line = await guest.add_item("IPA")
    await guest.remove_item(line.line_number)
    await guest.add_item("IPA")
    with pytest.raises(PermissionDenied) as refused:
        await guest.add_item("Tap")
    staff = house.staff.session(guest.session_id)
    await staff.add_item("Tap")
    await staff.complete_payment(method=CASH, reason="paid at the bar")
    await guest.add_item("Tap")

    assert refused.value.metadata == {"required_role": "STAFF", "maximum": "4"}


async def test_a_tip_set_on_a_large_tab_does_not_stay_on_a_small_one(house: House) -> None:
    """A fixed tip within its cap follows the tab down, by every road; staff's stays as it is."""
    guest = await house.agent.create_session()
    first = await guest.add_item("Negroni", quantity=2)
    await guest.add_item("IPA")
    await guest.set_tip(amount=usd(2800))
    await guest.remove_item(first.line_number, quantity=1)
    removed = (await guest.get_payment_state()).state
    await guest.place_order()
    staff = house.staff.session(guest.session_id)
    await staff.void_line(1, first.line_number, reason="spilt")
    voided = (await guest.get_payment_state()).state
    await staff.set_tip(amount=usd(5000))
    third = await guest.add_item("IPA")
    await guest.remove_item(third.line_number)
    kept = (await guest.get_payment_state()).state

    assert (removed.tab_total.minor_units, removed.tip_amount.minor_units) == (1700, 1700)
    assert (voided.tab_total.minor_units, voided.tip_amount.minor_units) == (600, 600)
    assert (kept.tab_total.minor_units, kept.tip_amount.minor_units) == (600, 5000)
