"""Two servers on a PostgreSQL that is broken in every way keep what they acknowledged, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaigns.postgres_outages import postgres_campaign

from maitred.server.testing.postgres_server import NoPostgres

FAULTS = 5
"""One of each kind."""


@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_or_doubled_by_outages(tmp_path: Path) -> None:
    """Killed servers, crashes, ended backends, lost answers, a promotion: watches miss nothing."""
    campaign = postgres_campaign(tmp_path, seed=20251121)
    try:
        report = await campaign.run(FAULTS, lambda _report: None)
    except NoPostgres as reason:
        pytest.skip(str(reason))

    kinds = {kind.removesuffix(" and kill") for kind in report.faults}
    assert kinds == {"kill", "crash", "terminate", "swallow", "promote"}
    assert (report.lost, report.crowd.duplicated) == (0, 0)
    assert min(report.crowd.failed_over, report.crowd.reads, report.crowd.resumed) > 0
    assert report.crowd.fed >= report.checked >= report.crowd.acknowledged
    assert report.crowd.watched >= report.checked
