"""MenuService: what may be ordered."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from maitred.server.domain import menus
from maitred.server.engine import wire
from maitred.server.engine.call import Call
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.kinds.menu import MENU, menu_ref
from maitred.server.services.catalogs import Catalogs
from maitred.server.stores.base import Head, HeadFilter
from maitred.v1 import menu_pb2 as pb


class MenuService:
    """Keeps menus and finds items on them."""

    def __init__(self, engine: Engine, catalogs: Catalogs) -> None:
        self._engine = engine
        self._catalogs = catalogs

    async def PutMenu(self, request: pb.PutMenuRequest, call: Call) -> bytes:
        """Store a menu whole."""
        command = Command(
            menu_ref(request.menu.menu_id),
            lambda menu, _now: menus.put(menu, request.menu, request.availability),
            request,
            create=True,
        )
        return (await self._engine.execute(command, call)).reply()

    async def GetMenu(self, request: pb.GetMenuRequest, call: Call) -> bytes:
        """Read a menu."""
        return wire.bodies([(await self._engine.reader.require(menu_ref(request.menu_id))).body])

    async def ListMenus(self, request: pb.ListMenusRequest, call: Call) -> bytes:
        """List menus, newest first."""
        listing = Listing(request, self._engine.tokens, call)

        async def read(after: int | None, limit: int) -> Sequence[Head]:
            return await self._engine.reads.list_heads(MENU, HeadFilter(), after, limit)

        heads, after = await fill(
            listing, read, lambda head: head.position, lambda head: len(head.body)
        )
        return wire.bodies((head.body for head in heads), listing.token(after))

    async def SetItemAvailability(
        self, request: pb.SetItemAvailabilityRequest, call: Call
    ) -> bytes:
        """Mark an item sold out or available."""
        command = Command(
            menu_ref(request.menu_id),
            lambda menu, _now: menus.set_availability(
                menu, request.item, sold_out=request.sold_out
            ),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def FindItems(self, request: pb.FindItemsRequest, call: Call) -> Message:
        """Find items by words, section, tags and price."""
        catalog = await self._catalogs.of(request.menu_id)
        return pb.FindItemsResponse(items=catalog.search.find(request))

    async def Recommend(self, request: pb.RecommendRequest, call: Call) -> Message:
        """Name items that suit a taste."""
        catalog = await self._catalogs.of(request.menu_id)
        items, matched = catalog.search.recommend(request.preference, request.limit)
        return pb.RecommendResponse(items=items, matched_preference=matched)
