"""A provider on a fake, for as long as a test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from maitred.server.payments.stripe import StripeProvider, open_stripe
from maitred.server.testing.fakestripe.server import FakeStripe


@asynccontextmanager
async def opened(fake: FakeStripe, **changed: Any) -> AsyncIterator[StripeProvider]:
    """Open a provider on a fake that listens; `changed` are fields of its `StripeConfig`."""
    provider = await open_stripe(fake.config(**changed))
    try:
        yield provider
    finally:
        await provider.aclose()
