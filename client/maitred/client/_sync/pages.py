# generated: edit _async and run scripts/unasync.py
"""Listings that fetch further pages automatically."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Pager(Generic[_Item]):
    """Iterates over a whole listing; or gives it page by page."""

    def __init__(
        self,
        fetch: Callable[[str], tuple[Sequence[_Item], str]],
        page_token: str = "",
    ) -> None:
        self._fetch = fetch
        self._started = False
        self._items: deque[_Item] = deque()
        self.next_page_token = page_token
        """Continues the listing after the pages fetched so far; empty at its end."""

    def page(self) -> list[_Item]:
        """Fetch the next page; empty at the end of the listing.

        Raises: MaitredError.
        """
        if self._started and not self.next_page_token:
            return []
        items, self.next_page_token = self._fetch(self.next_page_token)
        self._started = True
        return list(items)

    def __iter__(self) -> Pager[_Item]:
        return self

    def __next__(self) -> _Item:
        while not self._items:
            if self._started and not self.next_page_token:
                raise StopIteration
            self._items.extend(self.page())
        return self._items.popleft()
