"""A server that is killed between a provider's call and its record charges nobody twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from tests.payments.conftest import Bar

from maitred.server.payments import simulated
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.simulated import SimulatedProvider
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_CREATING,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
)

PROGRAM = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[1])
from tests.payments.conftest import Bar

async def main():
    bar = Bar(sys.argv[2], pathlib.Path(sys.argv[3]))
    bar.build({"create": [sys.argv[4]]})
    await bar.start()
    await bar.seat()
    await bar.create(request_id="r1")

asyncio.run(main())
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
async def test_a_kill_around_the_providers_call_leaves_one_link(
    tmp_path: Path, moment: str
) -> None:
    """The next server sends the stored bytes under the stored key; a retry gets the link."""
    url, books = f"sqlite:{tmp_path / 'maitred.db'}", tmp_path / "books"
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(ROOT), url, str(books), moment
    )
    assert await victim.wait() == -signal.SIGKILL

    bar = Bar(url, books)
    made = simulated.unpaid(books, clock=bar.clock)
    await bar.start()
    try:
        intent = await bar.payment()
        answer = await bar.create(request_id="r1")
        payment = answer.payment
        links = simulated.unpaid(books, clock=bar.clock)
    finally:
        await bar.stop()

    assert len(made) == (moment == "kill_after")
    assert intent.status == PAYMENT_STATUS_CREATING
    assert answer.replayed
    assert (payment.payment_id, payment.status) == (intent.payment_id, PAYMENT_STATUS_OPEN)
    assert [link.url for link in links] == [payment.url]
    assert payment.url == (made[0].url if made else payment.url)


async def test_guests_who_pay_by_themselves_are_noticed_in_the_background(tmp_path: Path) -> None:
    """With nobody asking, hints and polls bring the news to who waits."""
    bar = Bar("memory://", tmp_path)
    bar.build({}, outcome="pay", delay_s=30)
    bar.coordinator = PaymentCoordinator(bar.engine, bar.gateways)
    bar.service = type(bar.service)(bar.engine, bar.coordinator)
    await bar.start()
    try:
        await bar.seat()
        await bar.create()
        waiting = asyncio.create_task(bar.check(20))
        bar.clock.advance(31)
        checked = await waiting
    finally:
        await bar.stop()

    assert isinstance(bar.provider, SimulatedProvider)
    assert checked.payment.status == PAYMENT_STATUS_SUCCEEDED
