"""The one place that imports Stripe's SDK."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from typing import Any

from maitred.server.payments.stripe.config import StripeConfig
from maitred.server.payments.stripe.provider import Sdk, StripeProvider

API_VERSION = "2026-10-28.endive"
"""Named in every request, so that another SDK cannot change what goes over the wire."""

QUIET_LOGGERS = ("stripe", "httpx", "httpcore")
"""They write requests and answers, with what guests typed, at the levels below WARNING."""

KINDS = ("checkout.session", "payment_intent", "charge", "refund", "dispute", "list")
"""Objects that answers are made of."""


async def open_stripe(config: StripeConfig) -> StripeProvider:
    """Make a provider for the running event loop; nothing is sent yet.

    Raises: ImportError, where the SDK is missing.
    """
    try:
        # Importing takes a tenth of a second, for which no call would be served.
        stripe = await asyncio.to_thread(importlib.import_module, "stripe")
        sdk = await asyncio.to_thread(_connect, stripe, config)
    except ImportError as error:
        missing = error.name or error
        raise ImportError(
            f"payments by Stripe need its SDK ({missing} is missing): pip install 'maitred[stripe]'"
        ) from None
    return StripeProvider(config, sdk)


def _connect(stripe: Any, config: StripeConfig) -> Sdk:
    import httpx

    # Before the first request, which would otherwise write an id into the home directory.
    stripe.enable_telemetry = False
    os.environ.setdefault("STRIPE_SUPPRESS_NOTICES", "true")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    timeout = httpx.Timeout(config.timeout_s, connect=config.connect_timeout_s)
    http = stripe.HTTPXClient(timeout=timeout, allow_sync_methods=False)
    client = stripe.StripeClient(
        config.api_key,
        stripe_version=API_VERSION,
        base_addresses={"api": config.api_base} if config.api_base else {},
        max_network_retries=0,
        http_client=http,
    )
    _load(stripe, client.v1)
    return Sdk(
        client.v1, http.close_async, stripe.StripeError, stripe.WebhookSignature.verify_header
    )


def _load(stripe: Any, api: Any) -> None:
    """Have the SDK import what it would only when it is first needed: in the midst of a call."""
    # Reading a service imports it.
    _ = (api.charges, api.disputes, api.refunds, api.checkout.sessions)
    data = [{"object": kind} for kind in KINDS]
    stripe.ListObject.construct_from({"object": "list", "data": data}, None)
    stripe.ErrorObject.construct_from({}, None)
