"""Finding items of a menu, by words and by taste."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from maitred.server.domain.names import fold
from maitred.server.errors import CurrencyMismatch, Violation
from maitred.v1.menu_pb2 import FindItemsRequest
from maitred.v1.state_pb2 import Menu, MenuItem

DEFAULT_RECOMMENDATIONS = 5
"""Items that Recommend names where the caller sets no limit."""

_MOST_WORDS = 16
"""Words of a query that are looked for, the longest ones first: who writes more finds nothing."""

_LONG_WORD = 6
"""Words of this length are looked for in all items at once. That takes time in proportion to the
menu alone, while to look in each takes up to that times the length of the word.
"""

_FEW = 64
"""Among so few items it makes no difference."""


class Search:
    """A menu, folded for searching; made once for each version of a menu."""

    __slots__ = ("_all", "_ends", "_menu", "_names", "_sections", "_tags", "_tastes", "_texts")

    def __init__(self, menu: Menu) -> None:
        self._menu = menu
        self._texts: list[str] | None = None
        self._names: list[str] = []
        self._sections: list[str] = []
        self._tags: list[frozenset[str]] = []
        self._tastes: dict[str, int] = {}
        self._all = ""
        self._ends: list[int] = []

    def folding(self) -> Iterator[None]:
        """Fold the menu ahead of the first search, with a pause after each item."""
        texts, names, sections, tags = [], [], [], []
        known: dict[str, str] = {}
        for item in self._menu.items:
            if item.section not in known:
                known[item.section] = fold(item.section)
            folded_tags = [fold(tag) for tag in item.tags]
            names.append(fold(item.name))
            sections.append(known[item.section])
            tags.append(frozenset(folded_tags))
            texts.append("\n".join((names[-1], fold(item.description), sections[-1], *folded_tags)))
            yield
        tastes: dict[str, int] = {}
        for at, preference in enumerate(self._menu.preferences):
            tastes.setdefault(fold(preference.name), at)
            yield
        self._names, self._sections, self._tags, self._tastes = names, sections, tags, tastes
        self._all = "\n".join(texts)
        self._ends = list(accumulate(len(each) + 1 for each in texts))
        self._texts = texts

    def find(self, request: FindItemsRequest) -> list[MenuItem]:
        """Find items by every filter that is set: those whose name fits first, else as on the menu.

        Raises: CurrencyMismatch.
        """
        menu = self._menu
        most = _max_price(menu, request)
        texts = self._folded()
        section = fold(request.section)
        tags = {fold(tag) for tag in request.tags}
        found = [
            at
            for at, item in enumerate(menu.items)
            if (request.include_sold_out or not item.sold_out)
            and (not section or self._sections[at] == section)
            and tags <= self._tags[at]
            and (most is None or item.price.minor_units <= most)
        ]
        words = sorted(set(fold(request.query).split()), key=len, reverse=True)[:_MOST_WORDS]
        for word in words:
            if len(word) >= _LONG_WORD and len(found) > _FEW:
                holding = self._holding(word)
                found = [at for at in found if at in holding]
            else:
                found = [at for at in found if word in texts[at]]
        found.sort(key=lambda at: not all(word in self._names[at] for word in words))
        return [menu.items[at] for at in found]

    def recommend(self, preference: str, limit: int) -> tuple[list[MenuItem], str]:
        """Name items that suit a taste, and the taste that was found.

        An unknown taste, and one of which everything is sold out, gives the popular items.
        """
        most = limit or DEFAULT_RECOMMENDATIONS
        self._folded()
        at = self._tastes.get(fold(preference))
        if at is not None:
            known = self._menu.preferences[at]
            suiting = _available(self._menu, known.item_ids)
            if suiting:
                return suiting[:most], known.name
        return _available(self._menu, self._menu.popular_item_ids)[:most], ""

    def _folded(self) -> Sequence[str]:
        if self._texts is None:
            for _ in self.folding():
                pass
        return self._texts or ()

    def _holding(self, word: str) -> set[int]:
        """The items whose texts hold a word."""
        found: set[int] = set()
        at = self._all.find(word)
        while at >= 0:
            item = bisect_right(self._ends, at)
            found.add(item)
            at = self._all.find(word, self._ends[item])
        return found


def _max_price(menu: Menu, request: FindItemsRequest) -> int | None:
    if not request.HasField("max_price"):
        return None
    if request.max_price.currency != menu.currency:
        raise CurrencyMismatch(
            f"max_price is in {request.max_price.currency}, the menu in {menu.currency}",
            metadata={"expected": menu.currency, "got": request.max_price.currency},
            violations=[Violation("max_price", "currency.menu", f"must be in {menu.currency}")],
        )
    return request.max_price.minor_units


def _available(menu: Menu, item_ids: Iterable[str]) -> list[MenuItem]:
    wanted = dict.fromkeys(item_ids)
    items = {item.item_id: item for item in menu.items if item.item_id in wanted}
    return [items[each] for each in wanted if each in items and not items[each].sold_out]
