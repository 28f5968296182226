"""A Stripe of our own, to be tested against: real HTTP, real keys, and faults when told to."""

from __future__ import annotations

from maitred.server.testing.fakestripe.account import NotPossible
from maitred.server.testing.fakestripe.opening import opened
from maitred.server.testing.fakestripe.server import API_KEY, WEBHOOK_SECRET, FakeStripe

__all__ = ["API_KEY", "WEBHOOK_SECRET", "FakeStripe", "NotPossible", "opened"]
