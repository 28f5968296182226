"""Listings that fetch further pages automatically."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class AsyncPager(Generic[_Item]):
    """Iterates over a whole listing; or gives it page by page."""

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[tuple[Sequence[_Item], str]]],
        page_token: str = "",
    ) -> None:
        self._fetch = fetch
        self._started = False
        self._items: deque[_Item] = deque()
        self.next_page_token = page_token
        """Continues the listing after the pages fetched so far; empty at its end."""

    async def page(self) -> list[_Item]:
        """Fetch the next page; empty at the end of the listing.

        Raises: MaitredError.
        """
        if self._started and not self.next_page_token:
            return []
        items, self.next_page_token = await self._fetch(self.next_page_token)
        self._started = True
        return list(items)

    def __aiter__(self) -> AsyncPager[_Item]:
        return self

    async def __anext__(self) -> _Item:
        while not self._items:
            if self._started and not self.next_page_token:
                raise StopAsyncIteration
            self._items.extend(await self.page())
        return self._items.popleft()
