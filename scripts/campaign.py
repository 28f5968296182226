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


def main() -> int:
    """Run the campaign and print its counts; exit 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how often to kill (default 1000)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"kill -9 campaign: {arguments.kills} kills, seed {arguments.seed}")
    started = time.monotonic()

    def progress(report: KillReport) -> None:
        rate = report.kills / (time.monotonic() - started) * 60
        print(
            f"\r{report.kills}/{arguments.kills} kills, {report.acknowledged} acknowledged, "
            f"{report.lost} lost, {report.duplicated} doubled ({rate:.0f} kills/min)",
            end="",
            file=sys.stderr,
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="maitred-campaign-") as directory:
        campaign = KillCampaign(Path(directory), arguments.seed)
        try:
            asyncio.run(campaign.run(arguments.kills, progress))
        except KillFailure as failure:
            print(f"\nfailed: {failure}\nrepeat it with --seed {arguments.seed}", file=sys.stderr)
            return 1
        finally:
            print(f"\n{campaign.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
