"""The long fault campaigns; `make test` runs short rounds of the same code."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.campaigns.killing import KillCampaign, KillFailure, KillReport
from tests.campaigns.paymentkills import PaymentKillCampaign, PaymentKillReport

from maitred.server.telemetry import logging

if TYPE_CHECKING:
    from tests.campaigns.outages import OutageReport

CAMPAIGNS = ("store", "payments", "postgres", "redis")

FAILOVERS = ((0.002, 0), (0.02, 0), (0.02, 1))
"""How far a replica of Redis is away, in seconds, and how many replicas a commit waits for."""


def main() -> int:
    """Run the campaigns and print their counts; exit 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="of the store (default 1000)")
    parser.add_argument(
        "--payment-kills", type=int, default=40, help="around the provider (default 40)"
    )
    parser.add_argument(
        "--faults", type=int, default=100, help="of PostgreSQL and of Redis (default 100 each)"
    )
    parser.add_argument(
        "--only", action="append", choices=CAMPAIGNS, help="run this one; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    logging.configure(level="error")
    counts = {
        "store": arguments.kills,
        "payments": arguments.payment_kills,
        "postgres": arguments.faults,
        "redis": arguments.faults,
    }
    for name in _chosen(arguments.only):
        unit = "faults" if name in ("postgres", "redis") else "kills"
        print(f"campaign {name}: {counts[name]} {unit}, seed {arguments.seed}", flush=True)
        run = outages if unit == "faults" else kills
        try:
            with tempfile.TemporaryDirectory(prefix="maitred-campaign-") as directory:
                run(name, counts[name], arguments.seed, Path(directory))
        except KillFailure as failure:
            again = f"--only {name} --seed {arguments.seed}"
            print(f"\nfailed: {failure}\nrepeat it with {again}", file=sys.stderr)
            return 1
    return 0


def kills(name: str, count: int, seed: int, directory: Path) -> None:
    """Kill servers on SQLite. Raises: KillFailure."""
    say = _progress(count, "kills")

    def progress(report: KillReport | PaymentKillReport) -> None:
        done = report.acknowledged if isinstance(report, KillReport) else report.settled
        doubled = report.duplicated if isinstance(report, KillReport) else report.doubled
        say(report.kills, done, report.lost, doubled)

    make = KillCampaign if name == "store" else PaymentKillCampaign
    campaign = make(directory, seed)
    try:
        asyncio.run(campaign.run(count, progress))
    finally:
        print(f"\n{campaign.report}")


def outages(name: str, count: int, seed: int, directory: Path) -> None:
    """Break a database under two servers. Raises: KillFailure."""
    say = _progress(count, "faults")

    def progress(report: OutageReport) -> None:
        crowd = report.crowd
        say(report.faults.total(), crowd.acknowledged, report.lost, crowd.duplicated)

    missing: type[Exception]
    if name == "postgres":
        # Here and below: the drivers are extras.
        from tests.campaigns.postgres_outages import postgres_campaign

        from maitred.server.testing.postgres_server import NoPostgres

        campaign, missing = postgres_campaign(directory, seed), NoPostgres
    else:
        from tests.campaigns.redis_outages import redis_campaign

        from maitred.server.testing.redis_server import NoRedis

        campaign, missing = redis_campaign(directory, seed), NoRedis
    try:
        asyncio.run(campaign.run(count, progress))
    except missing as reason:
        print(f"skipped: {reason}")
        return
    finally:
        print(f"\n{campaign.report}", flush=True)
    if name == "redis":
        from tests.campaigns.redis_outages import measure_failover

        print("failover to a replica that nobody waited for:")
        for delay_s, replicas in FAILOVERS:
            with tempfile.TemporaryDirectory(prefix="maitred-campaign-") as own:
                measured = measure_failover(
                    Path(own), seed, delay_s=delay_s, wait_replicas=replicas
                )
                print(asyncio.run(measured), flush=True)


def _chosen(only: Sequence[str] | None) -> list[str]:
    return [name for name in CAMPAIGNS if not only or name in only]


def _progress(count: int, unit: str) -> Callable[[int, int, int, int], None]:
    started = time.monotonic()

    def say(done: int, acknowledged: int, lost: int, doubled: int) -> None:
        rate = done / (time.monotonic() - started) * 60
        print(
            f"\r{done}/{count} {unit}, {acknowledged} acknowledged, "
            f"{lost} lost, {doubled} doubled ({rate:.0f} {unit}/min)",
            end="",
            file=sys.stderr,
            flush=True,
        )

    return say


if __name__ == "__main__":
    sys.exit(main())
