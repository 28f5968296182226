"""Translates Stripe's objects, as plain dictionaries, into domain terms.

Nothing is taken for granted: fields may be absent, null, not expanded, or of a kind that is newer
than this code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)

NS = 1_000_000_000
LARGEST = 1 << 33
"""Above every amount, and above every second until the year 2242."""

_REFUND_STATES = {
    "succeeded": RefundState.SUCCEEDED,
    "failed": RefundState.FAILED,
    "canceled": RefundState.FAILED,
}

_DISPUTE_STATES = {
    "won": DisputeState.WON,
    # An inquiry that went no further, and one that was settled before it became a dispute.
    "warning_closed": DisputeState.WON,
    "prevented": DisputeState.WON,
    "lost": DisputeState.LOST,
}


def text(value: object) -> str:
    """Take a string; anything else is as good as absent."""
    return value if isinstance(value, str) else ""


def number(value: object) -> int:
    """Take an integer of a sensible size; anything else is as good as absent."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST:
        return value
    return 0


def part(value: object) -> Mapping[str, Any]:
    """Take an object; one that is not expanded is only its id, and one may be absent."""
    if isinstance(value, Mapping):
        return value
    return {"id": value} if isinstance(value, str) else {}


def rows(value: object) -> list[Mapping[str, Any]]:
    """Take the objects of a list, in its order."""
    data = part(value).get("data")
    return [each for each in data if isinstance(each, Mapping)] if isinstance(data, list) else []


def our_id(session: Mapping[str, Any]) -> str:
    """Read which of our payments a session was made for."""
    return text(session.get("client_reference_id")) or text(
        part(session.get("metadata")).get("payment_id")
    )


def status_of(session: Mapping[str, Any]) -> ProviderStatus:
    """Read where a session is. A card that was declined leaves it open."""
    match session.get("status"), session.get("payment_status"):
        case "open", _:
            return ProviderStatus.OPEN
        case "expired", _:
            return ProviderStatus.EXPIRED
        case "complete", "paid" | "no_payment_required":
            return ProviderStatus.PAID
        case "complete", "unpaid":
            return _delayed(part(session.get("payment_intent")))
    return ProviderStatus.UNKNOWN


def snapshot(
    session: Mapping[str, Any],
    refunds: list[Mapping[str, Any]] | None = None,
    disputes: list[Mapping[str, Any]] | None = None,
) -> ProviderSnapshot:
    """Translate a Checkout Session with what is expanded in it.

    `refunds`, newest first, stand for those that are expanded, where there are more of them.
    `disputes`, newest first, are those of a charge that says that it was disputed.
    """
    intent = part(session.get("payment_intent"))
    charge = part(intent.get("latest_charge"))
    status = status_of(session)
    minor_units, currency = number(session.get("amount_total")), text(session.get("currency"))
    if status is ProviderStatus.PAID and number(intent.get("amount_received")):
        # What came is what counts; it may differ from what the session asked for.
        minor_units = number(intent.get("amount_received"))
        currency = text(intent.get("currency")) or currency
    expires_at = number(session.get("expires_at"))
    given_back = rows(charge.get("refunds")) if refunds is None else refunds
    return ProviderSnapshot(
        status=status,
        provider_payment_id=text(session.get("id")),
        minor_units=minor_units,
        currency=currency.upper(),
        url=text(session.get("url")),
        expires_at_ns=expires_at * NS if expires_at else None,
        reason="" if status is ProviderStatus.PAID else _reason(intent),
        disputes=tuple(dispute(each) for each in reversed(disputes or [])),
        refunds=tuple(refund(each) for each in reversed(given_back)),
        payment_id=our_id(session),
    )


def refund(given: Mapping[str, Any]) -> ProviderRefund:
    """Translate a refund; a state that is not known may still become any other."""
    return ProviderRefund(
        provider_refund_id=text(given.get("id")),
        state=_REFUND_STATES.get(text(given.get("status")), RefundState.PENDING),
        minor_units=number(given.get("amount")),
        refund_id=text(part(given.get("metadata")).get("refund_id")),
        reason=text(given.get("failure_reason")),
    )


def dispute(given: Mapping[str, Any]) -> ProviderDispute:
    """Translate a dispute; a state that is not known is not the end of it."""
    return ProviderDispute(
        dispute_id=text(given.get("id")),
        state=_DISPUTE_STATES.get(text(given.get("status")), DisputeState.OPEN),
        minor_units=number(given.get("amount")),
    )


def _delayed(intent: Mapping[str, Any]) -> ProviderStatus:
    """Tell where a method that takes time has got to, after the guest has done everything."""
    match intent.get("status"), bool(intent.get("last_payment_error")):
        case (("requires_payment_method" | "canceled"), True):
            return ProviderStatus.FAILED
        case "canceled", False:
            return ProviderStatus.CANCELED
    return ProviderStatus.PROCESSING


def _reason(intent: Mapping[str, Any]) -> str:
    """Say in a code why the last try failed; Stripe's sentences are for the payer."""
    error = part(intent.get("last_payment_error"))
    return (
        text(error.get("decline_code"))
        or text(error.get("code"))
        or text(intent.get("cancellation_reason"))
    )
