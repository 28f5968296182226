"""Two servers on a Redis that is killed and cut off; and what a failover costs there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaigns.outages import GUESTS
from tests.campaigns.redis_outages import measure_failover, redis_campaign

from maitred.server.testing.redis_server import NoRedis

FAULTS = 4
"""One of each kind."""


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_or_doubled_by_outages(tmp_path: Path) -> None:
    """Killed servers, a killed Redis, cut connections, lost answers: watches miss nothing."""
    campaign = redis_campaign(tmp_path, seed=20251121)
    try:
        report = await campaign.run(FAULTS, lambda _report: None)
    except NoRedis as reason:
        pytest.skip(str(reason))

    kinds = {kind.removesuffix(" and kill") for kind in report.faults}
    assert kinds == {"kill", "crash", "cut", "swallow"}
    assert (report.lost, report.crowd.duplicated) == (0, 0)
    assert min(report.crowd.failed_over, report.crowd.reads, report.crowd.resumed) > 0
    assert report.crowd.fed >= report.checked >= report.crowd.acknowledged
    assert report.crowd.watched >= report.checked


@pytest.mark.timeout(240)
async def test_a_failover_keeps_a_beginning_of_history_and_says_so(tmp_path: Path) -> None:
    """A replica has the acknowledged writes up to some moment, whole, under another epoch."""
    try:
        report = await measure_failover(tmp_path, seed=20251121, writes=100)
    except NoRedis as reason:
        pytest.skip(str(reason))

    # How many are lost is a figure, and no promise; that the rest is as it was is checked inside.
    assert 0 <= report.lost < report.acknowledged
    assert report.told == GUESTS
