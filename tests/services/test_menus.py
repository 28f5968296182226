"""MenuService over the wire."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from tests.support.wire import failure_of

from maitred.v1 import menu_pb2 as pb
from maitred.v1 import menu_pb2_grpc
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import Menu


async def refusal(call: Awaitable[Any]) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure_of(error.value).reason


@pytest.fixture
def menus(grpc_channel: grpc.aio.Channel) -> Any:
    """The service."""
    return menu_pb2_grpc.MenuServiceStub(grpc_channel)


def bar() -> Menu:
    """A menu that no other test uses."""
    menu = Menu(menu_id=uuid.uuid4().hex, title="Bar", currency="USD")
    for item_id, name, price in (("martini", "Martini", 1300), ("water", "Water", 100)):
        menu.items.add(item_id=item_id, name=name, price=Money(minor_units=price, currency="USD"))
    menu.preferences.add(name="classy", item_ids=["martini"])
    menu.popular_item_ids.append("water")
    return menu


async def test_a_menu_is_put_and_read(menus: Any) -> None:
    """Versions count; the same menu again is no event."""
    menu = bar()
    first = await menus.PutMenu(pb.PutMenuRequest(menu=menu))
    same = await menus.PutMenu(pb.PutMenuRequest(menu=menu))
    assert (first.menu.version, same.menu.version) == (1, 1)
    assert not same.HasField("event")
    menu.title = "Pub"
    second = await menus.PutMenu(pb.PutMenuRequest(menu=menu, expected_version=1))

    read = await menus.GetMenu(pb.GetMenuRequest(menu_id=menu.menu_id))
    assert read.menu == second.menu
    assert (read.menu.version, read.menu.title) == (2, "Pub")


async def test_a_menu_is_put_on_what_was_read(menus: Any) -> None:
    """0 means that there must be none."""
    menu = bar()
    await menus.PutMenu(pb.PutMenuRequest(menu=menu, expected_version=0))
    menu.title = "Pub"

    for version in (0, 7):
        request = pb.PutMenuRequest(menu=menu, expected_version=version)
        assert await refusal(menus.PutMenu(request)) == "CONCURRENT_MODIFICATION"


async def test_a_bad_menu_is_refused(menus: Any) -> None:
    """Rules across fields are checked as well."""
    menu = bar()
    menu.items.add(item_id="WATER", name="Still", price=menu.items[0].price)

    assert await refusal(menus.PutMenu(pb.PutMenuRequest(menu=menu))) == "INVALID_FIELD"
    unknown = pb.GetMenuRequest(menu_id=menu.menu_id)
    assert await refusal(menus.GetMenu(unknown)) == "MENU_NOT_FOUND"


async def test_menus_are_listed(menus: Any) -> None:
    """Newest first."""
    ids = []
    for _ in range(3):
        reply = await menus.PutMenu(pb.PutMenuRequest(menu=bar()))
        ids.append(reply.menu.menu_id)

    page = await menus.ListMenus(pb.ListMenusRequest(page_size=2))
    rest = await menus.ListMenus(pb.ListMenusRequest(page_token=page.next_page_token))

    listed = [menu.menu_id for menu in (*page.menus, *rest.menus)]
    assert listed[:3] == ids[::-1]


async def test_items_sell_out(menus: Any) -> None:
    """They are no longer found or recommended."""
    menu = bar()
    await menus.PutMenu(pb.PutMenuRequest(menu=menu))
    find = pb.FindItemsRequest(menu_id=menu.menu_id, query="MARTINI")
    recommend = pb.RecommendRequest(menu_id=menu.menu_id, preference="Classy")
    assert [i.item_id for i in (await menus.FindItems(find)).items] == ["martini"]
    assert (await menus.Recommend(recommend)).matched_preference == "classy"
    reply = await menus.SetItemAvailability(
        pb.SetItemAvailabilityRequest(menu_id=menu.menu_id, item="martini", sold_out=True)
    )
    assert reply.menu.items[0].sold_out

    assert not (await menus.FindItems(find)).items
    recommended = await menus.Recommend(recommend)
    assert [i.item_id for i in recommended.items] == ["water"]
    assert recommended.matched_preference == ""


async def _sold_out(menus: Any, menu: Menu, policy: pb.MarkPolicy.ValueType) -> dict[str, bool]:
    request = pb.PutMenuRequest(menu=menu, availability=policy)
    return {item.item_id: item.sold_out for item in (await menus.PutMenu(request)).menu.items}


@pytest.mark.parametrize("policy", [pb.MARK_POLICY_UNSPECIFIED, pb.MARK_POLICY_KEEP])
@pytest.mark.parametrize("sold_out", [True, False])
async def test_a_sync_keeps_what_was_set(
    menus: Any, policy: pb.MarkPolicy.ValueType, sold_out: bool
) -> None:
    """A dish that staff took off, or brought back, is not changed by the next put of the menu."""
    menu = bar()
    menu.items[0].sold_out = not sold_out
    menu.items[0].sold_out_marked = True  # which is not for a request to say
    await menus.PutMenu(pb.PutMenuRequest(menu=menu))
    set_by_hand = pb.SetItemAvailabilityRequest(
        menu_id=menu.menu_id, item=menu.items[0].item_id, sold_out=sold_out
    )
    marked = (await menus.SetItemAvailability(set_by_hand)).menu

    again = await menus.PutMenu(pb.PutMenuRequest(menu=menu, availability=policy))
    assert (again.menu.version, again.HasField("event")) == (marked.version, False)
    menu.title = "Pub"
    menu.items[1].sold_out = True
    menu.items.add(item_id="new", name="New", price=menu.items[0].price, sold_out=True)
    kept = await _sold_out(menus, menu, policy)
    assert (kept["martini"], kept[menu.items[1].item_id], kept["new"]) == (sold_out, True, True)
    menu.items[1].sold_out = menu.items[2].sold_out = False
    assert (await _sold_out(menus, menu, policy))["new"] is False

    replaced = await _sold_out(menus, menu, pb.MARK_POLICY_REPLACE)
    assert replaced["martini"] is not sold_out
    menu.items[0].sold_out = sold_out
    assert (await _sold_out(menus, menu, policy))["martini"] is sold_out


async def test_a_dish_that_comes_back_comes_back_as_it_is_put(menus: Any) -> None:
    """A mark goes with its item."""
    menu = bar()
    await menus.PutMenu(pb.PutMenuRequest(menu=menu))
    await menus.SetItemAvailability(
        pb.SetItemAvailabilityRequest(menu_id=menu.menu_id, item="martini", sold_out=True)
    )
    without = Menu()
    without.CopyFrom(menu)
    del without.items[0]
    for preference in without.preferences:
        if "martini" in preference.item_ids:
            preference.item_ids.remove("martini")
            preference.item_ids.append(without.items[0].item_id)
    del without.popular_item_ids[:]
    await menus.PutMenu(pb.PutMenuRequest(menu=without))

    assert (await _sold_out(menus, menu, pb.MARK_POLICY_KEEP))["martini"] is False
