"""Payments through Stripe's hosted checkout; the SDK is imported when a provider is opened."""

from __future__ import annotations

from maitred.server.payments.stripe.config import StripeConfig
from maitred.server.payments.stripe.opening import open_stripe
from maitred.server.payments.stripe.provider import StripeProvider

__all__ = ["StripeConfig", "StripeProvider", "open_stripe"]
