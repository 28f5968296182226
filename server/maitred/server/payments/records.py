"""Payments as the engine keeps them: the newest in its session, the others in their rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog
from google.protobuf.message import DecodeError, Message

from maitred.server.domain import attention, changes
from maitred.server.engine.call import SYSTEM_CALL, Call
from maitred.server.engine.command import Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.errors import InvalidSession, PaymentNotFound, SessionDeleted
from maitred.server.kinds.projections import payment_row
from maitred.server.kinds.session import PROVIDER, session_ref
from maitred.server.kinds.tables import Table
from maitred.server.stores.base import Claim, Commit, Outcome, Row, RowFilter, StoreError
from maitred.server.telemetry import metrics
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Payment, Session

Decide = Callable[[Session, Payment, int], Event | None]

PAGE = 200

log = structlog.get_logger(__name__)


class Records:
    """Finds payments, and changes them through the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(
        self, session_id: str, payment_id: str, *, ended: bool = False
    ) -> tuple[Session, Payment]:
        """Read a payment and its session; without an id, as `changes.find_payment` says.

        Raises: InvalidSession, SessionDeleted, PaymentNotFound.
        """
        session: Session = (await self._engine.session(session_id)).state
        return session, await self._of(session, payment_id, ended=ended)

    async def change(
        self,
        session_id: str,
        payment_id: str,
        decide: Decide,
        call: Call = SYSTEM_CALL,
        request: Message | None = None,
        rows: tuple[Row, ...] = (),
    ) -> Result:
        """Decide about one payment, also of an ended session; `rows` go with what is decided.

        Raises: as `Engine.execute`.
        """
        found = Payment()

        async def prepare(session: Session) -> None:
            nonlocal found
            found = await self._of(session, payment_id)

        command = Command(
            session_ref(session_id),
            lambda session, now_ns: decide(session, found, now_ns),
            request,
            prepare=prepare,
            claims=lambda event: _claims(found, event),
            rows=rows,
            ended=True,
            about=lambda _session: found.payment_id,
        )
        return await self._engine.execute(command, call)

    async def rows(self, where: RowFilter) -> AsyncIterator[Payment]:
        """Iterate over stored payments, oldest first."""
        after: int | None = None
        while True:
            rows = await self._engine.reads.list_rows(
                Table.PAYMENTS, where, after, PAGE, newest_first=False
            )
            if not rows:
                return
            for row in rows:
                try:
                    payment = Payment.FromString(row.body)
                except DecodeError:
                    metrics.ROWS_SKIPPED.labels("payments").inc()
                    log.exception("payment_unreadable", payment=row.key)
                    continue
                yield payment
            after = rows[-1].position

    async def owner(self, provider: str, provider_payment_id: str) -> tuple[str, str] | None:
        """Find (session id, payment id) of a provider's payment."""
        claim = await self._engine.reads.claim(PROVIDER, f"{provider}/{provider_payment_id}")
        if claim is None:
            return None
        # Ids of payments hold no slash; those of sessions may.
        session_id, _, payment_id = claim.owner.rpartition("/")
        return session_id, payment_id

    async def is_gone(self, session_id: str) -> bool:
        """Whether a session was erased, or never was."""
        try:
            await self._engine.session(session_id)
        except (InvalidSession, SessionDeleted):
            return True
        return False

    async def stored(self, payment_id: str) -> Payment | None:
        """Find a payment by its id alone."""
        async for payment in self.rows(RowFilter(keys=(payment_id,))):
            return payment
        return None

    async def current(self, row: Row) -> Row:
        """Bring a stored payment up to what has ended since its own last change."""
        if not row.flag:
            return row
        stored = Payment.FromString(row.body)
        if not stored.attention:
            return row
        try:
            session: Session = (await self._engine.session(stored.session_id)).state
        except (InvalidSession, SessionDeleted):
            return row
        payment = attention.as_it_stands(stored, attention.items_of(session))
        if payment is stored:
            return row
        return payment_row(row.ref, payment, row.created_ns)._replace(position=row.position)

    async def _of(self, session: Session, payment_id: str, *, ended: bool = False) -> Payment:
        payment = changes.find_payment(session, payment_id, ended=ended)
        if payment is None:
            payment = await self.stored(payment_id)
        if payment is None or payment.session_id != session.session_id:
            raise PaymentNotFound(
                f"the session has no payment {payment_id!r}", metadata={"payment_id": payment_id}
            )
        return attention.as_it_stands(payment, attention.items_of(session))


async def put(engine: Engine, commit: Commit) -> None:
    """Have rows written or dropped that belong to no aggregate; durable on return.

    Raises: StoreError.
    """
    answer: asyncio.Future[Outcome | StoreError] = asyncio.get_running_loop().create_future()

    def done(outcome: Outcome | StoreError) -> None:
        if not answer.done():
            answer.set_result(outcome)

    engine.store.submit(commit, done)
    outcome = await answer
    if isinstance(outcome, StoreError):
        raise outcome


def _claims(before: Payment, event: Event) -> tuple[Claim, ...]:
    after = changes.changed_payment(event.WhichOneof("change") or "", event)
    if after is None or not after.provider_payment_id or before.provider_payment_id:
        return ()
    owner = f"{after.session_id}/{after.payment_id}"
    return (Claim(PROVIDER, f"{after.provider}/{after.provider_payment_id}", owner),)
