"""Orders: putting them together and placing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from maitred.client._async.calls import AsyncCalls
from maitred.client._async.pages import AsyncPager
from maitred.client._money import optional_money
from maitred.client._options import Mutation
from maitred.v1.common_pb2 import Money
from maitred.v1.order_pb2 import (
    AddItemRequest,
    AddItemResponse,
    ClearOrderRequest,
    ClearOrderResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    PlaceOrderRequest,
    PlaceOrderResponse,
    RemoveItemRequest,
    RemoveItemResponse,
    VoidLineRequest,
    VoidLineResponse,
)
from maitred.v1.state_pb2 import Order


class AsyncOrders:
    """The methods of the OrderService."""

    _calls: AsyncCalls

    async def add_item(
        self,
        *,
        session_id: str,
        item: str,
        quantity: int = 1,
        modifiers: Sequence[str] = (),
        note: str = "",
        open_price: Money | int | None = None,
        **options: Unpack[Mutation],
    ) -> AddItemResponse:
        """Add a line at the menu's price, and charge it to the balance and the tab.

        Raises: ItemNotFound, ItemAmbiguous, ItemSoldOut, ModifierNotFound, ModifierAmbiguous,
        InsufficientFunds, InvalidQuantity.
        """
        request = AddItemRequest(
            session_id=session_id,
            item=item,
            quantity=quantity,
            modifiers=modifiers,
            note=note,
            open_price=optional_money(open_price, self._calls.options.currency),
            **options,
        )
        return await self._calls.call(request, AddItemResponse)

    async def remove_item(
        self,
        *,
        session_id: str,
        line_number: int,
        quantity: int | None = None,
        **options: Unpack[Mutation],
    ) -> RemoveItemResponse:
        """Take a line, or a part of it, off the open order and give its price back.

        Raises: LineNotFound, OrderLinePaid, InvalidQuantity.
        """
        request = RemoveItemRequest(
            session_id=session_id,
            line_number=line_number,
            quantity=quantity,
            **options,
        )
        return await self._calls.call(request, RemoveItemResponse)

    async def place_order(
        self, *, session_id: str, **options: Unpack[Mutation]
    ) -> PlaceOrderResponse:
        """Send the open order to the kitchen.

        Raises: OrderEmpty.
        """
        request = PlaceOrderRequest(session_id=session_id, **options)
        return await self._calls.call(request, PlaceOrderResponse)

    async def clear_order(
        self, *, session_id: str, **options: Unpack[Mutation]
    ) -> ClearOrderResponse:
        """Empty the open order and give its price back."""
        request = ClearOrderRequest(session_id=session_id, **options)
        return await self._calls.call(request, ClearOrderResponse)

    async def void_line(
        self,
        *,
        session_id: str,
        order_number: int,
        line_number: int,
        reason: str,
        quantity: int | None = None,
        **options: Unpack[Mutation],
    ) -> VoidLineResponse:
        """Take a line, or a part of it, off a placed order; staff only.

        Raises: OrderNotFound, LineNotFound, OrderLinePaid, InvalidQuantity.
        """
        request = VoidLineRequest(
            session_id=session_id,
            order_number=order_number,
            line_number=line_number,
            quantity=quantity,
            reason=reason,
            **options,
        )
        return await self._calls.call(request, VoidLineResponse)

    def list_orders(
        self, *, session_id: str, page_size: int = 0, page_token: str = ""
    ) -> AsyncPager[Order]:
        """List the orders of a session, newest first, the open one included."""

        async def fetch(token: str) -> tuple[Sequence[Order], str]:
            request = ListOrdersRequest(
                session_id=session_id, page_size=page_size, page_token=token
            )
            answer = await self._calls.call(request, ListOrdersResponse)
            return answer.orders, answer.next_page_token

        return AsyncPager(fetch, page_token)
