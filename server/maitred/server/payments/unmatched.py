"""Payments at a provider that no session can record, kept where staff sees them.

Each has one row, which survives the deletion of sessions. It is logged once, when the row is
written, and the row is removed when nothing is left to refund and no dispute is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog
from google.protobuf.message import DecodeError

from maitred.server.domain import receipts
from maitred.server.domain.money import write_money
from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)
from maitred.server.engine.engine import Engine
from maitred.server.kinds.tables import Table
from maitred.server.payments.inbox import NOWHERE
from maitred.server.payments.records import put
from maitred.server.stores.base import Commit, Row, RowFilter
from maitred.server.telemetry import metrics
from maitred.v1.payment_pb2 import UnmatchedPayment, UnmatchedReason
from maitred.v1.state_pb2 import PAYMENT_METHOD_PROVIDER, PAYMENT_STATUS_SUCCEEDED, Payment

LOOKED_AT_S = 30 * 24 * 3600
"""Entries are compared with the provider for this long; after that, only notices update them."""

PAGE = 200
NS = 1_000_000_000

log = structlog.get_logger(__name__)


class Unmatched:
    """The list of unmatched payments."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        """A notice and the daily comparison may report the same payment at the same time."""

    async def record(
        self,
        provider: str,
        snapshot: ProviderSnapshot,
        reason: UnmatchedReason.ValueType,
        session_id: str = "",
        payment: Payment | None = None,
    ) -> None:
        """Record an unmatched payment, or remove its entry once nothing is left to do about it.

        `payment` is our record of it, if there is one. Raises: StoreError.
        """
        if snapshot.status is not ProviderStatus.PAID:
            return
        key = _key(provider, snapshot.provider_payment_id)
        over = _is_over(snapshot, 0 if payment is None else booked(payment))
        async with self._turn:
            known = await self._engine.reads.list_rows(
                Table.UNMATCHED, RowFilter(keys=(key,)), None, 1
            )
            if over:
                await self._drop(known)
                return
            created_ns = known[0].created_ns if known else self._engine.clock.now_ns()
            body = _entry(provider, snapshot, reason, session_id, created_ns)
            if known and known[0].body == body:
                return
            row = Row(Table.UNMATCHED, key, NOWHERE, created_ns, body)
            await put(self._engine, Commit((), rows=(row,)))
        if known:
            return
        metrics.ORPHAN_PAYMENTS.inc()
        log.error(
            "orphan_payment",
            provider=provider,
            provider_payment=snapshot.provider_payment_id,
            payment=snapshot.payment_id,
            session=session_id,
            status=snapshot.status,
            amount=snapshot.minor_units,
            currency=snapshot.currency,
        )

    async def close(self, entry: UnmatchedPayment) -> None:
        """Remove the entry of a payment that a session records after all. Raises: StoreError."""
        key = _key(entry.provider, entry.provider_payment_id)
        async with self._turn:
            await self._drop([Row(Table.UNMATCHED, key, NOWHERE, 0, b"")])

    async def recent(self) -> AsyncIterator[UnmatchedPayment]:
        """Iterate over the entries of the last 30 days, newest first. Raises: StoreError."""
        since_ns = self._engine.clock.now_ns() - LOOKED_AT_S * NS
        after: int | None = None
        while True:
            rows = await self._engine.reads.list_rows(Table.UNMATCHED, RowFilter(), after, PAGE)
            for row in rows:
                if row.created_ns < since_ns:
                    return
                try:
                    entry = UnmatchedPayment.FromString(row.body)
                except DecodeError:
                    metrics.ROWS_SKIPPED.labels("unmatched").inc()
                    log.exception("unmatched_payment_unreadable", payment=row.key)
                    continue
                yield entry
            if not rows:
                return
            after = rows[-1].position

    async def _drop(self, rows: list[Row]) -> None:
        if rows:
            drops = tuple((row.table, row.key) for row in rows)
            await put(self._engine, Commit((), drops=drops))


def is_known(payment: Payment, snapshot: ProviderSnapshot) -> bool:
    """Whether all the money is in the books, and no bank has something to say."""
    if payment.status != PAYMENT_STATUS_SUCCEEDED:
        return False
    return snapshot.minor_units <= booked(payment) and not snapshot.disputes


def booked(payment: Payment) -> int:
    """How much of what the provider received is recorded."""
    known = receipts.of(payment, PAYMENT_METHOD_PROVIDER)
    if known is not None:
        return known.amount.minor_units
    return payment.received_amount.minor_units * (payment.method == PAYMENT_METHOD_PROVIDER)


def _is_over(snapshot: ProviderSnapshot, recorded: int) -> bool:
    """Whether no dispute is open, and no money is left that is not recorded."""
    if any(dispute.state is DisputeState.OPEN for dispute in snapshot.disputes):
        return False
    lost = sum(
        dispute.minor_units or snapshot.minor_units
        for dispute in snapshot.disputes
        if dispute.state is DisputeState.LOST
    )
    return recorded + _refunded(snapshot) + lost >= snapshot.minor_units


def _refunded(snapshot: ProviderSnapshot) -> int:
    return sum(
        refund.minor_units for refund in snapshot.refunds if refund.state is RefundState.SUCCEEDED
    )


def _key(provider: str, provider_payment_id: str) -> str:
    return f"{provider}/{provider_payment_id}"


def _entry(
    provider: str,
    snapshot: ProviderSnapshot,
    reason: UnmatchedReason.ValueType,
    session_id: str,
    found_ns: int,
) -> bytes:
    entry = UnmatchedPayment(
        provider=provider,
        provider_payment_id=snapshot.provider_payment_id,
        session_id=session_id,
        payment_id=snapshot.payment_id,
        reason=reason,
        disputed=any(each.state is DisputeState.OPEN for each in snapshot.disputes),
    )
    write_money(entry.amount, snapshot.minor_units, snapshot.currency)
    write_money(entry.refunded_amount, _refunded(snapshot), snapshot.currency)
    entry.found_at.FromNanoseconds(found_ns)
    return entry.SerializeToString(deterministic=True)
