"""Who takes no money through Stripe never imports its SDK; who does, not on the event loop."""

from __future__ import annotations

import subprocess
import sys

import pytest

QUIET = "ignore:Use 'content=:DeprecationWarning"

PREAMBLE = """
import asyncio, importlib, sys, threading
"""

WIRED = """
from maitred.server.app import wiring
from maitred.server.config import Settings
from maitred.server.payments.simulated import SimulatedProvider
from maitred.server.payments.stripe import StripeConfig, StripeProvider, open_stripe
from maitred.server.payments.stripe import failures, notices, terms, translation
assert "stripe" not in sys.modules and "httpx" not in sys.modules
"""

OPENED = """
from maitred.server.payments.provider import Unauthorized
from maitred.server.testing.fakestripe import FakeStripe, opened
from maitred.server.testing.providers import new_payment
here = []
class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("stripe", "httpx", "httpcore"):
            if threading.current_thread() is threading.main_thread():
                here.append(name)
async def main():
    assert "stripe" not in sys.modules
    async with FakeStripe() as fake, opened(fake) as provider:
        made = await provider.create(provider.parameters(new_payment(provider)), "k1")
        fake.account.pay(made.provider_payment_id)
        await provider.refund(made.provider_payment_id, "r1", 500, "key-r1")
        await provider.retrieve(fake.account.dispute(made.provider_payment_id)["id"])
        await provider.expire(made.provider_payment_id)
        fake.script("sessions.list", "unauthorized")
        try:
            await provider.probe()
        except Unauthorized:
            pass
    import stripe
    assert stripe.enable_telemetry is False
sys.meta_path.insert(0, Watcher())
asyncio.run(main())
assert "stripe" in sys.modules
assert not here, here
"""

MISSING = """
from maitred.server.payments.stripe import StripeConfig, open_stripe
sys.modules[{name!r}] = None
config = StripeConfig(api_key="sk_test_1", success_url="https://house.example/thanks")
try:
    asyncio.run(open_stripe(config))
except ImportError as error:
    print(error)
"""


def run(program: str) -> str:
    """Run a program in a Python of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", QUIET, "-c", PREAMBLE + program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_without_stripe_does_not_know_the_sdk() -> None:
    """Nor does the package of the provider, until one is opened."""
    run(WIRED)


def test_the_sdk_is_imported_on_another_thread() -> None:
    """Nothing of it on the loop's, also not later: an import stalls every call."""
    run(OPENED)


@pytest.mark.parametrize("name", ["stripe", "httpx"])
def test_a_missing_sdk_is_one_clear_line(name: str) -> None:
    """It says what to install."""
    printed = run(MISSING.format(name=name)).splitlines()

    assert len(printed) == 1
    assert "pip install 'maitred[stripe]'" in printed[0]
