"""A server that is killed around its provider's calls charges once, refunds once, loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaigns.paymentkills import MOMENTS, PaymentKillCampaign

KILLS = 10


@pytest.mark.timeout(240)
async def test_kill_9_around_the_providers_calls_charges_nobody_twice(tmp_path: Path) -> None:
    """One link for a payment, the same after a restart; all that was paid is settled once."""
    campaign = PaymentKillCampaign(tmp_path, seed=20261121)
    report = await campaign.run(KILLS, lambda _report: None)

    assert report.kills == KILLS
    assert sum(report.moments[moment] for moment in MOMENTS) >= KILLS - 3
    assert (report.lost, report.doubled) == (0, 0)
    assert min(report.links, report.settled, report.webhooks) > 0
