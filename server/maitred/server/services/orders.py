"""OrderService: orders from their first line to the kitchen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import Message

from maitred.server.domain import orders
from maitred.server.domain.menus import Catalog
from maitred.server.engine.call import Call
from maitred.server.engine.command import Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.kinds.session import session_ref
from maitred.server.kinds.tables import Table
from maitred.server.services.catalogs import Catalogs
from maitred.server.stores.base import RowFilter
from maitred.v1 import order_pb2 as pb
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Order, Session

_OPEN = 2**63 - 1
"""Position of the open order in a listing: before every placed one."""


class _Listed(NamedTuple):
    """An order with its position in a listing."""

    position: int
    order: Order


class OrderService:
    """Puts orders together and places them."""

    def __init__(self, engine: Engine, catalogs: Catalogs) -> None:
        self._engine = engine
        self._catalogs = catalogs
        self._max_tip = engine.settings.max_tip_percentage

    async def AddItem(self, request: pb.AddItemRequest, call: Call) -> bytes:
        """Add a line at the menu's price, or at the open price that staff names."""
        catalog: Catalog | None = None
        most = self._engine.caps_of(call.actor)

        async def prepare(session: Session) -> None:
            nonlocal catalog
            if not request.HasField("open_price"):
                catalog = await self._catalogs.of(session.menu_id)

        def decide(session: Session, _now: int) -> Event:
            return orders.add_item(
                session,
                request,
                catalog,
                staff=most is None,
                max_lines=self._engine.settings.max_order_lines,
                most=most,
            )

        command = Command(session_ref(request.session_id), decide, request, prepare)
        result = await self._engine.execute(command, call)
        return result.reply(pb.AddItemResponse(line=_change(result).line_added.line))

    async def RemoveItem(self, request: pb.RemoveItemRequest, call: Call) -> bytes:
        """Take a line, or a part of it, off the open order."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: orders.remove_item(session, request, self._max_tip),
            request,
        )
        result = await self._engine.execute(command, call)
        removed = _change(result).line_removed
        left = removed.line if removed.HasField("line") else None
        return result.reply(pb.RemoveItemResponse(line=left))

    async def PlaceOrder(self, request: pb.PlaceOrderRequest, call: Call) -> bytes:
        """Send the open order to the kitchen."""
        command = Command(session_ref(request.session_id), orders.place, request)
        result = await self._engine.execute(command, call)
        return result.reply(pb.PlaceOrderResponse(order=_change(result).order_placed.order))

    async def ClearOrder(self, request: pb.ClearOrderRequest, call: Call) -> bytes:
        """Empty the open order."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: orders.clear(session, self._max_tip),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def VoidLine(self, request: pb.VoidLineRequest, call: Call) -> bytes:
        """Take a line, or a part of it, off a placed order."""
        order: Order | None = None

        async def prepare(_session: Session) -> None:
            nonlocal order
            order = await self._placed(request.session_id, request.order_number)

        command = Command(
            session_ref(request.session_id),
            lambda session, _now: orders.void_line(session, request, order, self._max_tip),
            request,
            prepare,
        )
        result = await self._engine.execute(command, call)
        event = _change(result)
        if event.HasField("line_voided"):
            return result.reply(pb.VoidLineResponse(order=event.line_voided.order))
        if order is None:
            # A replay may be answered without having been prepared.
            order = await self._placed(request.session_id, request.order_number)
        return result.reply(pb.VoidLineResponse(order=order))

    async def ListOrders(self, request: pb.ListOrdersRequest, call: Call) -> Message:
        """List the open order and the placed ones, newest first."""
        listing = Listing(request, self._engine.tokens, call)
        session: Session = (await self._engine.session(request.session_id)).state
        where = RowFilter(ref=session_ref(request.session_id))

        async def read(after: int | None, limit: int) -> Sequence[_Listed]:
            rows = await self._engine.reads.list_rows(
                Table.ORDERS, where, None if after == _OPEN else after, limit
            )
            placed = [_Listed(row.position, Order.FromString(row.body)) for row in rows]
            if after is not None or not session.order.lines:
                return placed
            # Placed between the two reads, the open order is among the rows already.
            if any(each.order.number == session.order.number for each in placed):
                return placed
            return [_Listed(_OPEN, session.order), *placed][:limit]

        found, after = await fill(
            listing, read, lambda each: each.position, lambda each: each.order.ByteSize()
        )
        response = pb.ListOrdersResponse(next_page_token=listing.token(after))
        for each in found:
            order = response.orders.add()
            order.CopyFrom(each.order)
            order.paid = orders.is_paid(session, order)
            order.written_off = orders.is_written_off(session, order)
        return response

    async def _placed(self, session_id: str, number: int) -> Order | None:
        where = RowFilter(ref=session_ref(session_id), keys=(f"{session_id}/{number}",))
        rows = await self._engine.reads.list_rows(Table.ORDERS, where, None, 1)
        return Order.FromString(rows[0].body) if rows else None


def _change(result: Result) -> Event:
    """The event of a result; an empty one where nothing changed."""
    return result.parsed_event() or Event()
