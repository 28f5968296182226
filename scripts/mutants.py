"""Seed bugs into the code, one at a time; fail if the tests miss one.

Each mutant is a textual change in a copy of `server/`; the tests run against the copy. `--check`
runs nothing and names every pattern that is not exactly once in the code, and every test that is
gone; `make check` calls it, so that the list cannot rot.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("maitred/server")
PATIENCE_S = 600
"""Longest that the tests of one mutant may take in all; one that hangs fails by its own timeout."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A seeded fault and the tests that must notice it."""

    name: str
    file: str
    tests: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]


def read_mutants() -> list[Mutant]:
    """Read the seeded faults."""
    with (ROOT / "scripts/mutants.toml").open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    return [
        Mutant(
            entry["name"],
            entry["file"],
            tuple(entry["tests"]),
            tuple((change["before"], change["after"]) for change in entry["change"]),
        )
        for entry in entries
    ]


def faults_of(mutant: Mutant) -> list[str]:
    """List what no longer fits the code; empty where the mutant can be seeded."""
    path = ROOT / "server" / PACKAGE / mutant.file
    missing = [name for name in (str(path), *mutant.tests) if not (ROOT / name).exists()]
    if missing:
        return [f"mutant {mutant.name!r}: there is no {name}" for name in missing]
    text, found = path.read_text(), []
    for before, after in mutant.changes:
        if (count := text.count(before)) != 1:
            line = next(iter(before.strip().splitlines()), "")
            found.append(
                f"mutant {mutant.name!r}: its pattern {line!r} is {count} times in {mutant.file}"
            )
        text = text.replace(before, after)
    return found


def main() -> int:
    """Run every mutant; exit 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only mutants whose name holds this")
    parser.add_argument("--check", action="store_true", help="run nothing; fail if one is stale")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in read_mutants() if arguments.only in mutant.name]
    stale = [line for mutant in chosen for line in faults_of(mutant)]
    if stale or arguments.check:
        print("\n".join(stale) or f"mutants: {len(chosen)} patterns are in the code")
        return 1 if stale else 0
    survivors = 0
    for at, mutant in enumerate(chosen, 1):
        started = time.monotonic()
        noticed = _noticed(mutant)
        survivors += not noticed
        verdict = "noticed " if noticed else "SURVIVED"
        seconds = time.monotonic() - started
        print(f"{at:2}/{len(chosen)} {verdict} {seconds:5.1f} s  {mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} passed, {survivors} failed")
    return 1 if survivors else 0


def _noticed(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory(prefix="maitred-mutant-") as directory:
        copy = Path(directory) / "server"
        shutil.copytree(ROOT / "server", copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / PACKAGE / mutant.file
        text = file.read_text()
        for before, after in mutant.changes:
            text = text.replace(before, after)
        file.write_text(text)
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
        ]
        with subprocess.Popen(
            [*command, "--timeout=20", *mutant.tests],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run:
            try:
                output, _ = run.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                # Interrupted and not killed: fixtures end the databases that they started.
                run.send_signal(signal.SIGINT)
                sys.exit(f"mutant {mutant.name!r}: its tests did not end in {PATIENCE_S} s")
        if run.returncode not in {0, 1}:
            sys.exit(f"mutant {mutant.name!r}: the tests did not run\n{output[-2000:]}")
        return run.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
