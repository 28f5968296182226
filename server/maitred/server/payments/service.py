"""PaymentService: what is owed, and getting it paid, once."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from maitred.server.domain import balances, changes, outcomes, tips
from maitred.server.engine import wire
from maitred.server.engine.call import Call
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.kinds.session import session_ref
from maitred.server.kinds.tables import Table
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.records import Records
from maitred.server.stores.base import Row, RowFilter
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import Session

END_BEFORE_DEADLINE_S = 0.2
"""A waiting call answers a little before its deadline, so that "still open" arrives."""


class PaymentService:
    """Answers for everything that has to do with money, but for its watch."""

    def __init__(self, engine: Engine, coordinator: PaymentCoordinator) -> None:
        self._engine = engine
        self._coordinator = coordinator
        self._commands = coordinator.commands
        self._records = Records(engine)

    async def GetPaymentState(self, request: pb.GetPaymentStateRequest, call: Call) -> Message:
        """Read balance, tab, tip and the newest payment."""
        session = (await self._engine.session(request.session_id)).state
        newest = changes.newest_payment(session)
        return pb.GetPaymentStateResponse(
            state=session.payment, payment=newest, version=session.version
        )

    async def CheckFunds(self, request: pb.CheckFundsRequest, call: Call) -> Message:
        """Compare an amount with the balance."""
        session = (await self._engine.session(request.session_id)).state
        return balances.check_funds(session, request)

    async def AdjustBalance(self, request: pb.AdjustBalanceRequest, call: Call) -> bytes:
        """Raise or lower the balance."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: balances.adjust(session, request),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def SetTip(self, request: pb.SetTipRequest, call: Call) -> bytes:
        """Set or clear the tip."""
        percentages = self._engine.settings.tip_percentages
        most = self._engine.caps_of(call.actor)
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: tips.set_tip(session, request, percentages, most),
            request,
        )
        result = await self._engine.execute(command, call)
        event = result.parsed_event()
        if event is not None and event.HasField("tip_set"):
            return result.reply(pb.SetTipResponse(state=event.tip_set.payment))
        session = Session.FromString(result.body)
        return result.reply(pb.SetTipResponse(state=session.payment))

    async def CreatePayment(self, request: pb.CreatePaymentRequest, call: Call) -> bytes:
        """Ask for what is owed, or return the link that asks for it."""
        result, payment, state = await self._commands.create(request, call)
        response = pb.CreatePaymentResponse(
            next_action=outcomes.next_action(payment, state),
            payment=payment,
            outcome=outcomes.outcome_of(payment),
        )
        return result.reply(response, first=2)

    async def GetPayment(self, request: pb.GetPaymentRequest, call: Call) -> Message:
        """Read a payment."""
        session, payment = await self._coordinator.payment(request.session_id, request.payment_id)
        return pb.GetPaymentResponse(
            payment=payment,
            outcome=outcomes.outcome_of(payment),
            next_action=outcomes.next_action(payment, session.payment),
        )

    async def CheckPayment(self, request: pb.CheckPaymentRequest, call: Call) -> Message:
        """Ask the provider, and wait for the end if told to."""
        wait_s = request.wait.ToNanoseconds() / 1e9
        remaining_s = call.remaining()
        if remaining_s is not None:
            wait_s = min(wait_s, max(0.0, remaining_s - END_BEFORE_DEADLINE_S))
        checked = await self._coordinator.check(
            request.session_id,
            request.payment_id,
            wait_s,
            require_settled=request.require_settled,
        )
        return pb.CheckPaymentResponse(
            payment=checked.payment,
            state=checked.state,
            wait_expired=checked.wait_expired,
            outcome=outcomes.outcome_of(checked.payment),
            next_action=outcomes.next_action(checked.payment, checked.state),
        )

    async def CancelPayment(self, request: pb.CancelPaymentRequest, call: Call) -> bytes:
        """Withdraw an open payment."""
        result, payment, _ = await self._commands.cancel(request, call)
        return result.reply(pb.CancelPaymentResponse(payment=payment))

    async def CompletePayment(self, request: pb.CompletePaymentRequest, call: Call) -> bytes:
        """Settle what the provider confirms, or what staff has taken."""
        result, payment, _ = await self._commands.complete(request, call)
        return result.reply(pb.CompletePaymentResponse(payment=payment))

    async def RefundPayment(self, request: pb.RefundPaymentRequest, call: Call) -> bytes:
        """Give money back."""
        result, payment, refunds = await self._commands.refund(request, call)
        first = refunds[0] if refunds else None
        return result.reply(
            pb.RefundPaymentResponse(payment=payment, refund=first, refunds=refunds)
        )

    async def ListPayments(self, request: pb.ListPaymentsRequest, call: Call) -> bytes:
        """List payments, newest first."""
        listing = Listing(request, self._engine.tokens, call)
        where = RowFilter(
            ref=session_ref(request.session_id) if request.session_id else None,
            statuses=tuple(request.statuses),
            flag=1 if request.needs_reconciliation else None,
        )

        async def read(after: int | None, limit: int) -> Sequence[Row]:
            found: list[Row] = []
            while len(found) < limit:
                wanted = limit - len(found)
                rows = await self._engine.reads.list_rows(Table.PAYMENTS, where, after, wanted)
                current = [await self._records.current(row) for row in rows]
                found += (row for row in current if row.flag or not where.flag)
                if len(rows) < wanted:
                    break
                after = rows[-1].position
            return found

        rows, after = await fill(listing, read, lambda row: row.position, lambda row: len(row.body))
        return wire.bodies((row.body for row in rows), listing.token(after))

    async def ListUnmatchedPayments(
        self, request: pb.ListUnmatchedPaymentsRequest, call: Call
    ) -> bytes:
        """List payments at a provider that no session can record, newest first."""
        listing = Listing(request, self._engine.tokens, call)

        async def read(after: int | None, limit: int) -> Sequence[Row]:
            return await self._engine.reads.list_rows(Table.UNMATCHED, RowFilter(), after, limit)

        rows, after = await fill(listing, read, lambda row: row.position, lambda row: len(row.body))
        return wire.bodies((row.body for row in rows), listing.token(after))

    async def ReconcilePayment(self, request: pb.ReconcilePaymentRequest, call: Call) -> bytes:
        """Ask the provider what became of a payment, and record why."""
        result, payment, _ = await self._commands.reconcile(request, call)
        return result.reply(pb.ReconcilePaymentResponse(payment=payment))
