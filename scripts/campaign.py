"""The long fault campaigns; `make test` runs short rounds of the same code."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from maitred.server.testing.killing import KillCampaign, KillFailure, KillReport
from maitred.server.testing.paymentkills import PaymentKillCampaign, PaymentKillReport

CAMPAIGNS = ("store", "payments")


def main() -> int:
    """Run the campaigns and print their counts; exit 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="of the store (default 1000)")
    parser.add_argument(
        "--payment-kills", type=int, default=40, help="around the provider (default 40)"
    )
    parser.add_argument("--only", choices=CAMPAIGNS, help="run this one alone")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    for name in CAMPAIGNS if arguments.only is None else (arguments.only,):
        kills = arguments.kills if name == "store" else arguments.payment_kills
        if not run(name, kills, arguments.seed):
            return 1
    return 0


def run(name: str, kills: int, seed: int) -> bool:
    """Run one campaign; answers whether everything held."""
    print(f"kill -9 campaign, {name}: {kills} kills, seed {seed}")
    started = time.monotonic()

    def progress(report: KillReport | PaymentKillReport) -> None:
        rate = report.kills / (time.monotonic() - started) * 60
        done = report.acknowledged if isinstance(report, KillReport) else report.settled
        doubled = report.duplicated if isinstance(report, KillReport) else report.doubled
        print(
            f"\r{report.kills}/{kills} kills, {done} acknowledged, "
            f"{report.lost} lost, {doubled} doubled ({rate:.0f} kills/min)",
            end="",
            file=sys.stderr,
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="maitred-campaign-") as directory:
        make = KillCampaign if name == "store" else PaymentKillCampaign
        campaign = make(Path(directory), seed)
        try:
            asyncio.run(campaign.run(kills, progress))
        except KillFailure as failure:
            again = f"--only {name} --seed {seed}"
            print(f"\nfailed: {failure}\nrepeat it with {again}", file=sys.stderr)
            return False
        finally:
            print(f"\n{campaign.report}")
    return True


if __name__ == "__main__":
    sys.exit(main())
