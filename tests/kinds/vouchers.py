"""The service of vouchers, as one would add it: parse, run, answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from tests.kinds import voucher as kind
from tests.kinds.voucher import KIND, RECEIPTS, VOUCHER, pb

from maitred.server.domain import balances
from maitred.server.engine import wire
from maitred.server.engine.call import Call
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.kinds.session import session_ref
from maitred.server.services.watching.aggregate import LogStream
from maitred.server.services.watching.loop import deliver
from maitred.server.stores.values import Claim, Head, HeadFilter, Ref
from maitred.v1.payment_pb2 import AdjustBalanceRequest
from maitred.v1.state_pb2 import Session


class VoucherService:
    """Makes vouchers, and turns them into balance."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.needs_joint_commits("VoucherService")
        assert KIND.life is not None
        self._life = KIND.life

    async def CreateVoucher(self, request: Any, call: Call) -> bytes:
        """Make a voucher."""
        ref = KIND.ref(request.voucher_id)
        command = Command(
            ref,
            lambda state, now_ns: kind.create(state, request, now_ns),
            request,
            claims=lambda _event: (Claim(RECEIPTS, ref.id, ref.id),),
            create=True,
        )
        return (await self._engine.execute(command, call)).reply()

    async def GetVoucher(self, request: Any, call: Call) -> bytes:
        """Read a voucher."""
        return (await self._engine.reader.require(KIND.ref(request.voucher_id))).body

    async def ListVouchers(self, request: Any, call: Call) -> bytes:
        """List vouchers, newest first."""
        statuses = (request.status,) if request.status else ()
        where = HeadFilter(statuses=statuses, owner=request.session_id or None)
        listing = Listing(request, self._engine.tokens, call)

        async def read(after: int | None, limit: int) -> Sequence[Head]:
            page = partial(self._engine.reads.list_heads, VOUCHER, where, after, limit)
            return await self._engine.expiry.listed(self._life, page, statuses)

        heads, after = await fill(listing, read, lambda head: head.position, lambda _head: 0)
        return wire.bodies((head.body for head in heads), listing.token(after))

    async def RedeemVoucher(self, request: Any, call: Call) -> bytes:
        """Add what a voucher is worth to the balance of a session: both change, or neither."""
        voucher, session = KIND.ref(request.voucher_id), session_ref(request.session_id)

        def decide(states: Mapping[Ref, Any], _now_ns: int) -> Mapping[Ref, Any]:
            worth = states[voucher].worth
            adjust = AdjustBalanceRequest(delta=worth, reason=f"voucher {voucher.id}")
            adjusted = balances.adjust(states[session], adjust)
            return {voucher: kind.redeem(states[voucher], session.id), session: adjusted}

        command = Command(voucher, decide, request, others=(session,))
        result = await self._engine.execute(command, call)
        after = Session.FromString(result.others[session].body)
        return result.reply(pb.RedeemVoucherResponse(session=after))

    async def DeleteVoucher(self, request: Any, call: Call) -> bytes:
        """Erase a voucher."""
        ref = KIND.ref(request.voucher_id)
        command = Command(ref, lambda _state, _now: kind.delete(), request, ended=True)
        return (await self._engine.forget(command, call)).reply()

    async def WatchVoucher(self, request: Any, call: Call) -> AsyncGenerator[bytes, None]:
        """Stream a voucher: every version once and in order, or the newest state."""
        ref = KIND.ref(request.voucher_id)
        stream = LogStream(self._engine, ref, request, pb.WatchVoucherResponse)
        async with aclosing(deliver(self._engine.hub, stream)) as messages:
            async for message in messages:
                yield message
