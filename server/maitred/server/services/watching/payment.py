"""WatchPayment: payment state and payment as they are, then every change of them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from maitred.server.domain import changes, outcomes
from maitred.server.domain.evolve import evolve_session
from maitred.server.engine import eventlog, wire
from maitred.server.engine.engine import Engine
from maitred.server.engine.hub import payment_view
from maitred.server.engine.limits import PAGE_EVENTS
from maitred.server.engine.ring import PaymentView, Topic
from maitred.server.errors import PaymentNotFound, SessionDeleted, VersionOutOfRange
from maitred.server.kinds.session import session_ref
from maitred.server.kinds.tables import Table
from maitred.server.services.watching.loop import Messages
from maitred.server.services.watching.resuming import resume_after
from maitred.server.stores.base import RowFilter
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import Payment, Session


class PaymentStream:
    """A cursor over what one session owes and pays; it only ever moves forward."""

    def __init__(self, engine: Engine, request: pb.WatchPaymentRequest) -> None:
        self._engine = engine
        self._request = request
        self._ref = session_ref(request.session_id)
        self._topic: Topic
        self._state: Session | None = None
        """The session at `seen`, while the log is read."""
        self._settled_at: int | None = None
        """Who comes late to a settled payment is shown it when the log was read up to here."""
        self.seen = 0
        self.over = False

    def attended(self) -> AbstractContextManager[Topic]:
        """Hold the topic of the session."""
        return self._engine.hub.watch(self._ref, payments=True)

    async def begin(self, topic: Topic) -> Messages:
        """Begin with what is, or with what changed since the place where the watch resumes.

        Raises: InvalidSession, SessionDeleted, PaymentNotFound, InvalidField, VersionOutOfRange.
        """
        self._topic = topic
        try:
            snapshot = await self._engine.session(self._request.session_id)
        except SessionDeleted:
            newest = await self._engine.reads.version(self._ref)
            after = resume_after(self._request, topic.payment_seal, newest)
            # Only who never saw the session is told that there is none.
            if after is None:
                raise
            self.seen = after
            return self._gone(newest)
        topic.begin(snapshot.version, snapshot.state)
        after = resume_after(self._request, topic.payment_seal, snapshot.version)
        session: Session = snapshot.state
        payment = await self._payment(session)
        if after is None:
            self.seen = snapshot.version
            return self._show(self._view(session, payment))
        self.seen = after
        if self._is_last(self._view(session, payment)):
            self._settled_at = snapshot.version
        return await self.next() if after < topic.version else await self._show_settled()

    async def next(self) -> Messages:
        """Hand out what the next event changed, from the ring; or a page of the log."""
        topic = self._topic
        entry = topic.after(self.seen)
        if entry is None or (entry.payment is None and entry.change in changes.MONEY_CHANGES):
            return await self._from_log()
        if entry.change in changes.MARKS.ends_log:
            return self._gone(entry.version)
        self.seen, self._state = entry.version, None
        if entry.payment is None or not self._wants(entry.payment.payment):
            return await self._show_settled()
        return self._show(entry.payment)

    def heartbeat(self) -> bytes:
        """Say that nothing of payments was missed up to here."""
        return pb.WatchPaymentResponse(
            version=self.seen, resume_token=self._token(), heartbeat=True
        ).SerializeToString()

    async def _from_log(self) -> Messages:
        """Fold a page of the log, to show payment and state at each version that changed them."""
        try:
            if self._state is None and self.seen:
                start = await self._engine.read(self._ref, at_version=self.seen)
                self._state = None if start is None else start.state
            rows = await self._engine.reads.events(self._ref, self.seen, PAGE_EVENTS)
        except SessionDeleted:
            return self._gone(await self._engine.reads.version(self._ref))
        if not rows:
            raise VersionOutOfRange(f"what follows version {self.seen} is no longer in the log")
        shown: list[bytes] = []
        for row in rows:
            event = eventlog.decode(row)
            change = event.WhichOneof("change") or ""
            if change in changes.MARKS.ends_log:
                return (*shown, *self._gone(row.version))
            self.seen = row.version
            session = self._state = evolve_session(self._state, event)
            if change not in changes.MONEY_CHANGES:
                continue
            payment = changes.shown_payment(change, event, session)
            if payment is not None and payment.reset_count != session.reset_count:
                # Of a former visit: only for who watches that very payment.
                payment = payment if self._request.payment_id else changes.newest_payment(session)
            if self._wants(payment):
                shown += self._show(self._view(session, payment, change))
                if self.over:
                    return shown
        return shown or await self._show_settled()

    def _show(self, view: PaymentView) -> Messages:
        self._settled_at = None
        self.over = self._is_last(view)
        named = view.payment if self._request.payment_id else None
        outcome = view.of_tab if named is None else outcomes.outcome_of(named)
        return (view.message + wire.payment_end(outcome, last=self.over),)

    async def _show_settled(self) -> Messages:
        """Tell who came late to a settled payment, once nothing else is left to show."""
        if self._settled_at is None or self.seen < self._settled_at:
            return ()
        try:
            snapshot = await self._engine.session(self._request.session_id)
        except SessionDeleted:
            return self._gone(await self._engine.reads.version(self._ref))
        payment = await self._payment(snapshot.state)
        self.seen = snapshot.version
        return self._show(self._view(snapshot.state, payment))

    def _view(self, session: Session, payment: Payment | None, change: str = "") -> PaymentView:
        return payment_view(self._topic.payment_seal, self.seen, change, session, payment)

    def _wants(self, payment: Payment | None) -> bool:
        wanted = self._request.payment_id
        return not wanted or (payment is not None and payment.payment_id == wanted)

    def _is_last(self, view: PaymentView) -> bool:
        if not self._request.end_when_settled:
            return False
        if not self._request.payment_id:
            return view.settles_tab
        return view.payment is not None and changes.is_settled(view.payment)

    def _gone(self, deleted_at: int) -> Messages:
        """End with the deletion; what it left unread is erased."""
        self.over, unread = True, self.seen + 1 < deleted_at
        if not unread:
            self.seen = max(self.seen, deleted_at)
        message = pb.WatchPaymentResponse(
            version=self.seen, resume_token=self._token(), deleted=True, unread=unread
        )
        return (message.SerializeToString(),)

    async def _payment(self, session: Session) -> Payment | None:
        wanted, newest = self._request.payment_id, changes.newest_payment(session)
        if not wanted or (newest is not None and newest.payment_id == wanted):
            return newest
        where = RowFilter(ref=self._ref, keys=(wanted,))
        rows = await self._engine.reads.list_rows(Table.PAYMENTS, where, None, 1)
        if not rows:
            raise PaymentNotFound(f"session {session.session_id!r} has no payment {wanted!r}")
        return Payment.FromString(rows[0].body)

    def _token(self) -> bytes:
        return self._topic.payment_seal.token(wire.varint(self.seen))
