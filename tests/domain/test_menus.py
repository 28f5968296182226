"""Menus: what may stand on one, and how it is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from maitred.server.domain import menus
from maitred.server.domain.evolve import evolve_menu
from maitred.server.domain.money import money
from maitred.server.domain.search import Search
from maitred.server.errors import (
    CardNumberRefused,
    CurrencyMismatch,
    InvalidField,
    ItemAmbiguous,
    ItemNotFound,
    MenuNotFound,
    ModifierAmbiguous,
    ModifierNotFound,
)
from maitred.v1.menu_pb2 import FindItemsRequest
from maitred.v1.state_pb2 import Menu, MenuItem, MenuModifier, MenuPreference


def test_a_menu_is_stored_whole(menu: Menu) -> None:
    """What was put is what is there."""
    changed = Menu()
    changed.CopyFrom(menu)
    del changed.items[3:]
    changed.items[0].description = "rum\x00\nlime"

    event = menus.put(menu, changed)

    assert event is not None
    assert len(event.menu_put.menu.items) == 3
    assert event.menu_put.menu.items[0].description == "rum\nlime"
    assert event.menu_put.menu.version == 0


def test_the_same_menu_again_is_no_event(menu: Menu) -> None:
    """Version and time in a request count for nothing."""
    again = Menu()
    again.CopyFrom(menu)
    again.version = 7
    again.updated_at.seconds = 1

    assert menus.put(menu, again) is None


def _twice(menu: Menu) -> None:
    menu.items.append(MenuItem(item_id="martini", name="Other", price=money(1, "USD")))


def _id_is_a_name(menu: Menu) -> None:
    menu.items.append(MenuItem(item_id="LONG-ISLAND", name="Other", price=money(1, "USD")))
    menu.items.append(MenuItem(item_id="x", name="Long\u2011Island", price=money(1, "USD")))


def _blank(menu: Menu) -> None:
    menu.items[0].name = " "


def _negative(menu: Menu) -> None:
    menu.items[0].price.minor_units = -1


def _other_currency(menu: Menu) -> None:
    menu.items[0].price.currency = "EUR"


def _modifier_twice(menu: Menu) -> None:
    menu.modifiers.append(MenuModifier(modifier_id="dry", name="Bone Dry"))


def _modifier_id_is_a_name(menu: Menu) -> None:
    menu.items[0].modifiers.extend(
        [MenuModifier(modifier_id="a", name="Hot"), MenuModifier(modifier_id="hot", name="Cold")]
    )


def _negative_modifier(menu: Menu) -> None:
    menu.modifiers[1].price.minor_units = -1


def _unknown_preferred(menu: Menu) -> None:
    menu.preferences.append(MenuPreference(name="odd", item_ids=["nothing"]))


def _preference_twice(menu: Menu) -> None:
    menu.preferences.append(MenuPreference(name="CLASSY", item_ids=["martini"]))


def _unknown_popular(menu: Menu) -> None:
    menu.popular_item_ids.append("nothing")


def _currency(menu: Menu) -> None:
    menu.currency = "ZZZ"


def _control(menu: Menu) -> None:
    menu.items[0].name = "Dai\nquiri"


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_twice, "menu.items[6].item_id"),
        (_id_is_a_name, "menu.items[6].item_id"),
        (_blank, "menu.items[0].name"),
        (_negative, "menu.items[0].price.minor_units"),
        (_other_currency, "menu.items[0].price.currency"),
        (_modifier_twice, "menu.modifiers[2].modifier_id"),
        (_modifier_id_is_a_name, "menu.items[0].modifiers[1].modifier_id"),
        (_negative_modifier, "menu.modifiers[1].price.minor_units"),
        (_unknown_preferred, "menu.preferences[2].item_ids[0]"),
        (_preference_twice, "menu.preferences[2].name"),
        (_unknown_popular, "menu.popular_item_ids[2]"),
        (_currency, "menu.currency"),
        (_control, "menu.items[0].name"),
    ],
)
def test_a_bad_menu_is_refused(menu: Menu, spoil: Callable[[Menu], None], field: str) -> None:
    """Prices are never negative, ids never another's name; the violation names the field."""
    bad = Menu()
    bad.CopyFrom(menu)
    spoil(bad)

    with pytest.raises(InvalidField) as error:
        menus.put(menu, bad)

    assert field in [violation.field for violation in error.value.violations]


def test_a_card_number_on_a_menu_is_refused(menu: Menu) -> None:
    """Descriptions are no messages."""
    menu.items[0].description = "4242 4242 4242 4242"

    with pytest.raises(CardNumberRefused):
        menus.put(None, menu)


def test_an_item_sells_out_and_comes_back(menu: Menu) -> None:
    """By id or name; what is so already is no event."""
    event = menus.set_availability(menu, "MARTINI", sold_out=True)
    assert event is not None
    event.version = 2
    after = evolve_menu(menu, event)

    assert [item.item_id for item in after.items if item.sold_out] == ["martini"]
    assert menus.set_availability(after, "martini", sold_out=True) is None
    assert menus.set_availability(after, "martini", sold_out=False) is not None
    with pytest.raises(ItemNotFound):
        menus.set_availability(after, "absinthe", sold_out=True)
    with pytest.raises(MenuNotFound):
        menus.set_availability(None, "martini", sold_out=True)


def test_an_id_comes_before_a_name(menu: Menu) -> None:
    """An item named as another's id does not hide it."""
    menu.items[0].name = "martini"

    assert menus.Catalog(menu).find_item("martini").item_id == "martini"


def test_the_item_that_is_missing_is_quoted(menu: Menu) -> None:
    """The error says what was looked for."""
    with pytest.raises(ItemNotFound) as error:
        menus.Catalog(menu).find_item("Absinthe")

    assert "'Absinthe'" in error.value.message
    assert error.value.metadata["item"] == "Absinthe"


def test_names_that_are_equal_are_told_apart_by_ids(menu: Menu) -> None:
    """Two dishes of one name may stand on a menu; who asks for it is told which there are."""
    menu.items.append(MenuItem(item_id="tall", name="Martini", price=money(1500, "USD")))
    menu.items.append(MenuItem(item_id="vegan", name="martini ", price=money(1400, "USD")))
    assert menus.put(None, menu) is not None
    catalog = menus.Catalog(menu)

    for wanted, ids in (("Martini", "martini tall"), ("MARTINI", "martini tall vegan")):
        with pytest.raises(ItemAmbiguous) as error:
            catalog.find_item(wanted)
        assert error.value.metadata["candidates"] == ids
        assert ids in error.value.message
        with pytest.raises(ItemAmbiguous):
            menus.set_availability(menu, wanted, sold_out=True)
    assert catalog.find_item("martini ").item_id == "vegan"
    assert [catalog.find_item(each).item_id for each in ids.split()] == ids.split()


def test_modifiers_that_are_equal_are_told_apart_by_ids(menu: Menu) -> None:
    """As items are."""
    item = menu.items[0]
    item.modifiers.extend(
        [MenuModifier(modifier_id="a", name="Hot"), MenuModifier(modifier_id="b", name="hot")]
    )
    assert menus.put(None, menu) is not None
    catalog = menus.Catalog(menu)

    assert catalog.find_modifier(item, "hot").modifier_id == "b"
    with pytest.raises(ModifierAmbiguous) as error:
        catalog.find_modifier(item, "HOT")
    assert error.value.metadata["candidates"] == "a b"


def test_many_candidates_fit_into_an_error(menu: Menu) -> None:
    """The first few are named, however long their ids are."""
    for at in range(2000):
        menu.items.add(item_id=f"{at:04}" + "\u00e9" * 120, name="Pie", price=money(1, "USD"))

    with pytest.raises(ItemAmbiguous) as error:
        menus.Catalog(menu).find_item("Pie")

    assert len(error.value.metadata["candidates"]) <= 256
    assert set(error.value.metadata["candidates"].split()) <= {i.item_id for i in menu.items}


@pytest.mark.parametrize(
    "name", ["\u3164", "\u200d\ufe0f", "\u2800 \u115f", "\u0301", "\u00ad", " "]
)
@pytest.mark.parametrize(
    "where",
    ["title", "items.name", "items.section", "items.tags", "items.modifiers.name", "items.item_id",
     "modifiers.name", "modifiers.modifier_id", "preferences.name", "menu_id"],
)  # fmt: skip
def test_what_cannot_be_seen_is_no_name(menu: Menu, where: str, name: str) -> None:
    """Nobody can read, say or choose it."""
    menu.items[0].modifiers.add(modifier_id="m", name="M")
    menu.items[0].tags.append("tag")
    *path, last = where.split(".")
    message = menu
    for step in path:
        message = getattr(message, step)[0]
    if last == "tags":
        menu.items[0].tags[0] = name
    else:
        setattr(message, last, name)

    with pytest.raises(InvalidField):
        menus.put(None, menu)


def test_joiners_do_not_hide_a_name(menu: Menu) -> None:
    """A name is found with and without the joiners that a script may have."""
    menu.items[0].name = "می\u200cخواهم"

    assert menus.Catalog(menu).find_item("میخواهم").item_id == "daiquiri"


def test_an_items_own_modifier_comes_first(menu: Menu) -> None:
    """The item's list hides the menu's."""
    menu.items[1].modifiers.append(
        MenuModifier(modifier_id="m-dry", name="DRY", price=money(50, "USD"))
    )
    catalog = menus.Catalog(menu)

    assert catalog.find_modifier(menu.items[1], "dry").modifier_id == "m-dry"
    assert catalog.find_modifier(menu.items[0], "dry").modifier_id == "dry"
    with pytest.raises(ModifierNotFound):
        catalog.find_modifier(menu.items[0], "burnt")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["daiquiri", "martini", "tap-beer", "water", "penny", "dime"]),
        ({"query": "CANDY"}, ["penny", "dime"]),
        ({"query": "candy penny"}, ["penny"]),
        ({"query": "cocktails"}, ["daiquiri", "martini"]),
        ({"query": "water"}, ["water", "martini"]),
        ({"query": "absinthe"}, []),
        ({"section": "beer"}, ["tap-beer"]),
        ({"tags": ["Sour"]}, ["daiquiri"]),
        ({"tags": ["sour", "sweet"]}, []),
        ({"max_price": money(100, "USD")}, ["water", "penny", "dime"]),
        ({"section": "cocktails", "max_price": money(1000, "USD")}, ["daiquiri"]),
    ],
)
def test_items_are_found(menu: Menu, filters: dict[str, object], expected: list[str]) -> None:
    """Every filter fits; items whose name fits come first."""
    menu.items[1].description = "never with water"

    found = Search(menu).find(FindItemsRequest(**filters))  # type: ignore[arg-type]  # table

    assert [item.item_id for item in found] == expected


def test_sold_out_items_are_found_on_request(menu: Menu) -> None:
    """A sold-out item is left out unless asked for."""
    menu.items[3].sold_out = True

    assert Search(menu).find(FindItemsRequest(query="water")) == []
    assert len(Search(menu).find(FindItemsRequest(query="water", include_sold_out=True))) == 1


def test_a_price_is_compared_in_its_currency(menu: Menu) -> None:
    """An amount in another currency is refused."""
    with pytest.raises(CurrencyMismatch):
        Search(menu).find(FindItemsRequest(max_price=money(1, "EUR")))


@pytest.mark.parametrize(
    ("preference", "limit", "expected", "matched"),
    [
        ("CLASSY", 0, ["martini"], "Classy"),
        ("fruity", 0, ["daiquiri", "martini"], "fruity"),
        ("fruity", 1, ["daiquiri"], "fruity"),
        ("salty", 0, ["martini", "daiquiri"], ""),
        ("", 1, ["martini"], ""),
    ],
)
def test_recommendations(
    menu: Menu, preference: str, limit: int, expected: list[str], matched: str
) -> None:
    """A taste in any case; an unknown one gives the popular items."""
    items, found = Search(menu).recommend(preference, limit)

    assert ([item.item_id for item in items], found) == (expected, matched)


def test_what_is_sold_out_is_not_recommended(menu: Menu) -> None:
    """A taste of which everything is sold out gives the popular items."""
    menu.items[1].sold_out = True

    items, found = Search(menu).recommend("classy", 0)

    assert ([item.item_id for item in items], found) == (["daiquiri"], "")


def test_modifiers_are_bounded_in_all() -> None:
    """However few each item has, a menu holds no more modifiers than can be checked in time."""
    menu = Menu(menu_id="m", currency="USD")
    for at in range(81):
        item = menu.items.add(item_id=f"i{at}", name=f"item {at}", price=money(1, "USD"))
        for number in range(100):
            item.modifiers.add(modifier_id=f"{number}", name=f"modifier {number}")

    with pytest.raises(InvalidField) as error:
        menus.put(None, menu)

    assert error.value.violations[0].rule == "menu.max_modifiers"
