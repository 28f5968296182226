"""Menus: what may be ordered, at what price, and how it is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from maitred.server.domain import text
from maitred.server.domain.money import check_currency
from maitred.server.domain.names import Index, candidates, fold, shadowed
from maitred.server.domain.search import Search
from maitred.server.errors import (
    InvalidField,
    ItemAmbiguous,
    ItemNotFound,
    MenuNotFound,
    ModifierAmbiguous,
    ModifierNotFound,
    Violation,
)
from maitred.v1.common_pb2 import Money
from maitred.v1.event_pb2 import Event, ItemAvailabilityChanged, MenuPut
from maitred.v1.menu_pb2 import (
    MARK_POLICY_KEEP,
    MARK_POLICY_REPLACE,
    MarkPolicy,
)
from maitred.v1.state_pb2 import Menu, MenuItem, MenuModifier

MAX_MODIFIERS = 8000
"""Modifiers that a menu may hold, those of its items included."""


def put(
    before: Menu | None, menu: Menu, marks: MarkPolicy.ValueType = MARK_POLICY_KEEP
) -> Event | None:
    """Store a menu whole; None where it is what is stored already.

    What was set item by item is no part of what is put: it stays, unless it is to be replaced.

    Raises: InvalidField, CardNumberRefused.
    """
    _require_few_modifiers(menu)
    after = Menu()
    after.CopyFrom(menu)
    after.ClearField("version")
    after.ClearField("updated_at")
    problems = _Problems()
    text.identifier(after.menu_id, "menu.menu_id")
    check_currency(after.currency, "menu.currency")
    after.title = text.label(after.title, "menu.title")
    ids = {item.item_id for item in after.items}
    problems.unique((item.item_id for item in after.items), "menu.items", "item_id")
    problems.shadowed([(item.item_id, item.name) for item in after.items], "menu.items", "item_id")
    for at, item in enumerate(after.items):
        _check_item(item, after.currency, f"menu.items[{at}]", problems)
    _check_modifiers(after.modifiers, after.currency, "menu.modifiers", problems)
    # Nothing but its name tells a preference from another.
    problems.unique((fold(p.name) for p in after.preferences), "menu.preferences", "name")
    for at, preference in enumerate(after.preferences):
        field = f"menu.preferences[{at}]"
        problems.name(preference.name, f"{field}.name")
        problems.known(preference.item_ids, ids, f"{field}.item_ids")
    problems.known(after.popular_item_ids, ids, "menu.popular_item_ids")
    problems.cards.refuse()
    problems.refuse()
    _keep_marks(after, before if marks != MARK_POLICY_REPLACE else None)
    if before is not None and _content(before) == after:
        return None
    return Event(menu_put=MenuPut(menu=after))


def set_availability(menu: Menu | None, item: str, *, sold_out: bool) -> Event | None:
    """Mark an item sold out or available again; None where it is so already.

    Raises: MenuNotFound, ItemNotFound, ItemAmbiguous.
    """
    if menu is None:
        raise MenuNotFound("there is no such menu")
    found = Catalog(menu).find_item(item)
    if found.sold_out == sold_out:
        return None
    change = ItemAvailabilityChanged(item_id=found.item_id, sold_out=sold_out, sold_out_marked=True)
    return Event(item_availability_changed=change)


class Catalog:
    """A menu with its items and modifiers at hand; made once for each version of a menu."""

    __slots__ = ("_items", "_modifiers", "_own_modifiers", "menu", "search")

    def __init__(self, menu: Menu) -> None:
        self.menu = menu
        self.search = Search(menu)
        self._items = Index((item.item_id, item.name, item) for item in menu.items)
        self._modifiers = _index(menu.modifiers)
        self._own_modifiers: dict[str, Index[MenuModifier]] = {}

    def preparing(self) -> Iterator[None]:
        """Do what takes long ahead of the first call that needs it, a little at a time."""
        yield from self._items.folding()
        yield from self._modifiers.folding()
        yield from self.search.folding()

    def find_item(self, wanted: str) -> MenuItem:
        """Look an item up by id or by name, exactly and then folded.

        Raises: ItemNotFound, ItemAmbiguous.
        """
        found = self._items.find(wanted)
        if len(found) == 1:
            return found[0]
        metadata = {"item": wanted, "menu_id": self.menu.menu_id}
        if not found:
            # An id may be any number, but what is no id must not be repeated in an error.
            text.name(wanted, "item")
            raise ItemNotFound(f"the menu has no {wanted!r}", metadata=metadata)
        fitting = candidates([item.item_id for item in found])
        raise ItemAmbiguous(
            f"{wanted!r} is the name of {len(found)} items; name one by its id: {fitting}",
            metadata={**metadata, "candidates": fitting},
        )

    def find_modifier(self, item: MenuItem, wanted: str) -> MenuModifier:
        """Look a modifier up by id or by name: the item's own first, then the menu's.

        Raises: ModifierNotFound, ModifierAmbiguous.
        """
        own = self._own_modifiers.get(item.item_id)
        if own is None:
            own = self._own_modifiers[item.item_id] = _index(item.modifiers)
        found = own.find(wanted) or self._modifiers.find(wanted)
        if len(found) == 1:
            return found[0]
        metadata = {"modifier": wanted, "item": item.item_id}
        if not found:
            text.name(wanted, "modifiers")
            raise ModifierNotFound(f"{item.name!r} cannot be had {wanted!r}", metadata=metadata)
        fitting = candidates([each.modifier_id for each in found])
        raise ModifierAmbiguous(
            f"{wanted!r} is the name of {len(found)} modifiers; name one by its id: {fitting}",
            metadata={**metadata, "candidates": fitting},
        )


def _require_few_modifiers(menu: Menu) -> None:
    count = len(menu.modifiers) + sum(len(item.modifiers) for item in menu.items)
    if count > MAX_MODIFIERS:
        description = f"must not exceed {MAX_MODIFIERS} modifiers in all, and has {count}"
        raise InvalidField(
            f"menu.items: {description}",
            violations=[Violation("menu.items", "menu.max_modifiers", description)],
        )


class _Problems:
    """Collects what is wrong with a menu, so that it is told in one go."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []
        self.cards = text.CardCheck()

    def add(self, field: str, rule: str, description: str) -> None:
        """Note one problem."""
        self._violations.append(Violation(field, rule, description))

    def name(self, value: str, field: str, *, near: bool = False) -> None:
        """Take a name in, which must be of one line.

        Raises: InvalidField.
        """
        self.cards.add(text.line(value, field), field, near=near)

    def unique(self, values: Iterable[str], field: str, part: str) -> None:
        """Note every value that stands twice."""
        seen: set[str] = set()
        for at, value in enumerate(values):
            if value in seen:
                self.add(f"{field}[{at}].{part}", "menu.unique", f"{value!r} stands twice")
            seen.add(value)

    def shadowed(self, entries: Sequence[tuple[str, str]], field: str, part: str) -> None:
        """Note every id that is the name of another entry."""
        for at in shadowed(entries):
            description = f"{entries[at][0]!r} is the name of another one"
            self.add(f"{field}[{at}].{part}", "menu.id_is_name", description)

    def known(self, ids: Sequence[str], items: set[str], field: str) -> None:
        """Note every id that no item has."""
        for at, item_id in enumerate(ids):
            if item_id not in items:
                self.add(f"{field}[{at}]", "menu.known_item", f"no item has the id {item_id!r}")

    def price(self, price: Money, currency: str, field: str) -> None:
        """Note a price that is negative or in another currency."""
        if price.minor_units < 0:
            self.add(f"{field}.minor_units", "menu.price", "must not be negative")
        if price.currency != currency:
            self.add(f"{field}.currency", "menu.currency", f"must be {currency}, the menu's")

    def refuse(self) -> None:
        """Raise what was found, if anything."""
        if self._violations:
            first = self._violations[0]
            raise InvalidField(f"{first.field}: {first.description}", violations=self._violations)


def _check_item(item: MenuItem, currency: str, field: str, problems: _Problems) -> None:
    text.identifier(item.item_id, f"{field}.item_id")
    problems.name(item.name, f"{field}.name")
    problems.name(item.section, f"{field}.section")
    item.description = problems.cards.add(text.clean(item.description), f"{field}.description")
    for at, tag in enumerate(item.tags):
        problems.name(tag, f"{field}.tags[{at}]", near=at > 0)
    problems.price(item.price, currency, f"{field}.price")
    _check_modifiers(item.modifiers, currency, f"{field}.modifiers", problems)


def _check_modifiers(
    modifiers: Sequence[MenuModifier], currency: str, field: str, problems: _Problems
) -> None:
    problems.unique((each.modifier_id for each in modifiers), field, "modifier_id")
    named = [(each.modifier_id, each.name) for each in modifiers]
    problems.shadowed(named, field, "modifier_id")
    for at, modifier in enumerate(modifiers):
        text.identifier(modifier.modifier_id, f"{field}[{at}].modifier_id")
        problems.name(modifier.name, f"{field}[{at}].name")
        if modifier.HasField("price"):
            problems.price(modifier.price, currency, f"{field}[{at}].price")


def _index(modifiers: Iterable[MenuModifier]) -> Index[MenuModifier]:
    return Index((each.modifier_id, each.name, each) for each in modifiers)


def _keep_marks(after: Menu, before: Menu | None) -> None:
    marked = {item.item_id: item for item in before.items if item.sold_out_marked} if before else {}
    for item in after.items:
        item.sold_out_marked = item.item_id in marked
        if item.sold_out_marked:
            item.sold_out = marked[item.item_id].sold_out


def _content(menu: Menu) -> Menu:
    content = Menu()
    content.CopyFrom(menu)
    content.ClearField("version")
    content.ClearField("updated_at")
    return content
