"""Translates the SDK's exceptions into the errors of the provider protocol.

Messages hold codes and the id under which Stripe keeps the request. Stripe's own sentences stay
out: they may repeat a key or what a guest typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maitred.server.payments.provider import (
    AnsweredWithFault,
    Declined,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Rejected,
    Unauthorized,
    Unreachable,
)
from maitred.server.payments.stripe.translation import part, text

if TYPE_CHECKING:
    from stripe import StripeError

LONGEST_RETRY_AFTER_S = 300.0

MONEY_CODES = frozenset(
    "balance_insufficient card_declined charge_already_refunded charge_disputed "
    "charge_exceeds_source_limit expired_card insufficient_funds refund_disputed_payment".split()
)
"""Refusals of the money itself, where Stripe answers 400."""

NOT_SENT = frozenset(
    "ConnectError ConnectTimeout InvalidURL PoolTimeout ProxyError UnsupportedProtocol".split()
)
"""Errors of httpx that come before the first byte of a request."""


def failure(error: StripeError) -> ProviderError:
    """Translate one error of the SDK."""
    status = error.http_status
    if status is None:
        return _unanswered(error)
    said = _said(error)
    code, words = text(said.get("code")), _words(error, said)
    if status == 429 or code == "rate_limit":
        return RateLimited(words, _retry_after_s(error.headers or {}))
    if status in (401, 403):
        return Unauthorized(words)
    if status == 402:
        return Declined(words)
    if status >= 500:
        return AnsweredWithFault(words)
    if status == 409 or not 400 <= status < 500 or not said:
        # Another request holds the key or the object; or somebody between us and Stripe answered.
        return OutcomeUnknown(words)
    return Declined(words) if code in MONEY_CODES else Rejected(words)


def _unanswered(error: StripeError) -> ProviderError:
    cause = error.__cause__
    name = type(cause or error).__name__
    if NOT_SENT & {each.__name__ for each in type(cause).__mro__}:
        return Unreachable(f"Stripe cannot be reached: {name}")
    return OutcomeUnknown(f"Stripe gave no answer: {name}")


def _said(error: StripeError) -> Mapping[str, Any]:
    """Read the error object of the answer; empty where it has none, as a proxy's page has."""
    return part(part(error.json_body).get("error"))


def _words(error: StripeError, said: Mapping[str, Any]) -> str:
    facts = {field: text(said.get(field)) for field in ("type", "code", "decline_code", "param")}
    facts["request"] = error.request_id or ""
    known = [f"{field}={value[:100]}" for field, value in facts.items() if value]
    return " ".join([f"Stripe answered {error.http_status}", *known])


def _retry_after_s(headers: Mapping[str, str]) -> float:
    given = headers.get("retry-after", "")
    return min(float(given), LONGEST_RETRY_AFTER_S) if given.isdecimal() else 1.0
