# generated: edit _async and run scripts/unasync.py
"""Menus: what may be ordered and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from google.protobuf.json_format import ParseDict

from maitred.client._money import optional_money
from maitred.client._options import RequestId
from maitred.client._sync.calls import Calls
from maitred.client._sync.pages import Pager
from maitred.v1.common_pb2 import Money
from maitred.v1.menu_pb2 import (
    FindItemsRequest,
    FindItemsResponse,
    GetMenuRequest,
    GetMenuResponse,
    ListMenusRequest,
    ListMenusResponse,
    MarkPolicy,
    PutMenuRequest,
    PutMenuResponse,
    RecommendRequest,
    RecommendResponse,
    SetItemAvailabilityRequest,
    SetItemAvailabilityResponse,
)
from maitred.v1.state_pb2 import Menu, MenuItem


class Menus:
    """The methods of the MenuService."""

    _calls: Calls

    def put_menu(
        self,
        *,
        menu: Menu | Mapping[str, Any],
        expected_version: int | None = None,
        availability: MarkPolicy.ValueType = MarkPolicy.MARK_POLICY_UNSPECIFIED,
        **options: Unpack[RequestId],
    ) -> PutMenuResponse:
        """Store a menu whole, in place of the one before; a mapping is read as its JSON.

        `expected_version=0` means that it must not exist yet. What `set_item_availability` set
        stays, unless `availability` is MARK_POLICY_REPLACE.
        """
        parsed = menu if isinstance(menu, Menu) else ParseDict(dict(menu), Menu())
        request = PutMenuRequest(
            menu=parsed, expected_version=expected_version, availability=availability, **options
        )
        return self._calls.call(request, PutMenuResponse)

    def get_menu(self, *, menu_id: str) -> Menu:
        """Read a menu.

        Raises: MenuNotFound.
        """
        return (self._calls.call(GetMenuRequest(menu_id=menu_id), GetMenuResponse)).menu

    def list_menus(self, *, page_size: int = 0, page_token: str = "") -> Pager[Menu]:
        """List menus, newest first."""

        def fetch(token: str) -> tuple[Sequence[Menu], str]:
            request = ListMenusRequest(page_size=page_size, page_token=token)
            answer = self._calls.call(request, ListMenusResponse)
            return answer.menus, answer.next_page_token

        return Pager(fetch, page_token)

    def set_item_availability(
        self,
        *,
        menu_id: str,
        item: str,
        sold_out: bool,
        expected_version: int | None = None,
        **options: Unpack[RequestId],
    ) -> SetItemAvailabilityResponse:
        """Mark an item sold out, or available again.

        Raises: MenuNotFound, ItemNotFound.
        """
        request = SetItemAvailabilityRequest(
            menu_id=menu_id,
            item=item,
            sold_out=sold_out,
            expected_version=expected_version,
            **options,
        )
        return self._calls.call(request, SetItemAvailabilityResponse)

    def find_items(
        self,
        *,
        menu_id: str,
        query: str = "",
        section: str = "",
        tags: Sequence[str] = (),
        max_price: Money | int | None = None,
        include_sold_out: bool = False,
    ) -> list[MenuItem]:
        """Find items by words, section, tags and price.

        Raises: MenuNotFound.
        """
        request = FindItemsRequest(
            menu_id=menu_id,
            query=query,
            section=section,
            tags=tags,
            max_price=optional_money(max_price, self._calls.options.currency),
            include_sold_out=include_sold_out,
        )
        return list((self._calls.call(request, FindItemsResponse)).items)

    def recommend(self, *, menu_id: str, preference: str = "", limit: int = 0) -> RecommendResponse:
        """Name items for a taste, best first; an unknown taste gives the popular ones.

        Raises: MenuNotFound.
        """
        request = RecommendRequest(menu_id=menu_id, preference=preference, limit=limit)
        return self._calls.call(request, RecommendResponse)
