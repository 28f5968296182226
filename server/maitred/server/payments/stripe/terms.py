"""Parameters of a Stripe checkout, and Stripe's limits on a payment."""

from __future__ import annotations

from typing import Any

from maitred.server.domain.currencies import CURRENCIES
from maitred.server.payments.provider import Limits, canonical_json
from maitred.server.payments.stripe.config import StripeConfig
from maitred.v1.state_pb2 import Payment

MARGIN_S = 300
"""Stripe counts a link's life from when it receives the request, by its own clock."""

LIFETIME_MIN_S = 30 * 60 + MARGIN_S
LIFETIME_MAX_S = 24 * 3600 - MARGIN_S


def limits(currency: str) -> Limits:
    """Read what may be asked for in a currency."""
    rules = CURRENCIES[currency]
    return Limits(rules.smallest, rules.largest, rules.step, LIFETIME_MIN_S, LIFETIME_MAX_S)


def parameters(payment: Payment, config: StripeConfig) -> bytes:
    """Build the parameters of the Checkout Session for a payment: canonical JSON.

    Which ways to pay are offered is set in Stripe's dashboard: `payment_method_types` is refused.
    """
    currency = payment.amount.currency.lower()
    metadata = {"payment_id": payment.payment_id, "session_id": payment.session_id}
    asked: dict[str, Any] = {
        # The guest pays the amount that was fixed, never a conversion of it.
        "adaptive_pricing": {"enabled": False},
        "client_reference_id": payment.payment_id,
        "expires_at": payment.expires_at.seconds,
        "line_items": [_line(name, amount, currency) for name, amount in _lines(payment) if amount],
        "metadata": metadata,
        "mode": "payment",
        # What is made of the session does not inherit its metadata.
        "payment_intent_data": {"metadata": metadata},
        "submit_type": "pay",
        "success_url": config.success_url,
    }
    if config.cancel_url:
        asked["cancel_url"] = config.cancel_url
    return canonical_json(asked)


def _lines(payment: Payment) -> list[tuple[str, int]]:
    """Part the amount: credit lowers the tab first, and the tip only when no tab is left."""
    amount = payment.amount.minor_units
    tip = min(payment.tip_amount.minor_units, amount)
    return [("Tab", amount - tip), ("Tip", tip)]


def _line(name: str, minor_units: int, currency: str) -> dict[str, Any]:
    price = {"currency": currency, "product_data": {"name": name}, "unit_amount": minor_units}
    return {"price_data": price, "quantity": 1}
