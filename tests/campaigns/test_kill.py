"""A server that is killed again and again keeps what it acknowledged, exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaigns.killing import KillCampaign

KILLS = 25


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(tmp_path: Path) -> None:
    """After each of 25 kills the file is sound and holds every acknowledged write once."""
    report = await KillCampaign(tmp_path, seed=20251121).run(KILLS, lambda _report: None)

    assert report.kills == KILLS
    assert report.acknowledged > KILLS
    assert (report.lost, report.duplicated) == (0, 0)
    assert report.watched > 0
