"""`python -m benchmarks`: measure, show a table, and keep the figures."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    cases_calls,
    cases_engines,
    cases_growth,
    cases_payments,
    cases_size,
    cases_watch,
    report,
)
from benchmarks.context import Context
from benchmarks.load import Generator
from benchmarks.measure import BenchmarkError, machine, rounded, say

ROOT = Path(__file__).parent.parent
CASES: dict[str, Callable[[Context], None]] = {
    "calls": cases_calls.run,
    "watch": cases_watch.run,
    "growth": cases_growth.run,
    "size": cases_size.run,
    "payments": cases_payments.run,
    "engines": cases_engines.run,
}

QUICK = ["calls", "payments", "engines"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = _parse(arguments)
    # A shell in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _raise_file_limit()
    cache = options.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    # Kept out of version control by itself, wherever it is.
    (cache / ".gitignore").write_text("*\n", encoding="ascii")
    names = options.only or (QUICK if options.quick else list(CASES))
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
    begun = time.monotonic()
    origin = machine()
    try:
        context = Context(directory, cache, Generator(cache), options.quick)
        for name in names:
            CASES[name](context)
    except BenchmarkError as error:
        say(f"benchmark failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.show(context.figures, context.generator.name)
    if options.json is not None:
        _keep(context, options.json, origin, time.monotonic() - begun)
    return 0


def _keep(context: Context, path: Path, origin: dict[str, Any], elapsed_s: float) -> None:
    result: dict[str, Any] = rounded(context.figures)
    result["detail"] = {
        "reached": report.verdicts(context.figures),
        "generator": context.generator.name,
        "machine": origin,
        "elapsed_s": round(elapsed_s, 1),
        **rounded(context.detail),
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"written to {path}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Benchmarks of maitred.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument(
        "--quick", action="store_true", help="shorter; unless told, without watch, growth, size"
    )
    parser.add_argument(
        "--only", action="append", choices=list(CASES), help="these cases; may be repeated"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".cache" / "bench",
        help="where databases are made, on the disk to be measured (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _raise_file_limit() -> None:
    """A crowd of watchers, and the servers, may need many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
