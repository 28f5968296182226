"""Whose payment a notice is about, and what becomes of one that is nobody's any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.errors import InvalidSession, PaymentNotFound, SessionDeleted
from maitred.server.payments.gateway import Gateways
from maitred.server.payments.inbox import Owner
from maitred.server.payments.provider import Notice, Rejected, Unreachable
from maitred.server.payments.records import Records
from maitred.server.payments.throttle import Priority, Urgency
from maitred.server.payments.unmatched import Unmatched, is_known
from maitred.v1.payment_pb2 import (
    UNMATCHED_REASON_SESSION_GONE,
    UNMATCHED_REASON_UNKNOWN_PAYMENT,
)

Apply = Callable[[Owner, ProviderSnapshot], Awaitable[None]]
"""Books what a provider says of a payment."""

log = structlog.get_logger(__name__)


class Matching:
    """Finds the payments of notices."""

    def __init__(
        self, gateways: Gateways, records: Records, unmatched: Unmatched, apply: Apply
    ) -> None:
        self._gateways = gateways
        self._records = records
        self._unmatched = unmatched
        self._apply = apply

    async def owner(self, provider: str, notice: Notice) -> Owner | None:
        """Find whose payment a notice is about, and make it known to us if need be.

        None where it is nobody's, because we never knew it or because its session is gone; money of
        such a payment is put down before. Raises: ProviderError, MaitredError, StoreError.
        """
        found: Owner | None = None
        reference = notice.reference
        if notice.payment_id:
            payment = await self._records.stored(notice.payment_id)
            if payment is not None and payment.provider == provider and payment.provider_payment_id:
                found = Owner(payment.session_id, payment.payment_id)
                reference = reference or payment.provider_payment_id
        if found is None and notice.reference:
            known = await self._records.owner(provider, notice.reference)
            found = None if known is None else Owner(*known)
        if found is None:
            return await self._adopt(provider, reference) if reference else None
        if not await self._records.is_gone(found.session_id):
            return found
        snapshot = await self._ask(provider, reference)
        if snapshot is not None:
            await self._report(provider, found.session_id, snapshot)
        return None

    async def _adopt(self, provider: str, reference: str) -> Owner | None:
        """Find the payment of a notice that came before its provider's id was recorded."""
        snapshot = await self._ask(provider, reference)
        if snapshot is None:
            return None
        payment = await self._records.stored(snapshot.payment_id) if snapshot.payment_id else None
        if payment is None or payment.provider != provider:
            await self._report(provider, "", snapshot)
            return None
        owner = Owner(payment.session_id, payment.payment_id)
        try:
            await self._apply(owner, snapshot)
        except (InvalidSession, SessionDeleted, PaymentNotFound):
            await self._report(provider, owner.session_id, snapshot)
            return None
        return owner

    async def _ask(self, provider: str, reference: str) -> ProviderSnapshot | None:
        gateway = self._gateways.named(provider)
        if gateway is None:
            raise Unreachable(f"this server is not set up for the provider {provider!r}")
        try:
            return await gateway.retrieve(reference, Urgency(Priority.NEWS))
        except Rejected as error:
            log.warning("notice_of_nothing", provider=provider, error=str(error))
            return None

    async def _report(self, provider: str, session_id: str, snapshot: ProviderSnapshot) -> None:
        """Call for a person where there is money that is not in our books. Raises: StoreError."""
        payment = await self._records.stored(snapshot.payment_id) if session_id else None
        if payment is not None and is_known(payment, snapshot):
            return
        reason = UNMATCHED_REASON_SESSION_GONE if session_id else UNMATCHED_REASON_UNKNOWN_PAYMENT
        await self._unmatched.record(provider, snapshot, reason, session_id, payment)
