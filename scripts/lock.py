"""Write requirements.lock, which `make setup` and CI install; with --check, verify it.

One file for every Python from 3.11 on and every system, each package with the hashes of its files.
The check needs no network: the first line holds a digest of the dependencies that the file was made
from, and each of them is looked up among the pins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements.lock"
HEAD = "# Made by `make lock`; do not edit. Digest of the dependencies in pyproject.toml: "
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def project() -> dict[str, Any]:
    """The table of the project."""
    found: dict[str, Any] = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    return found


def extras() -> list[str]:
    """Every extra: the lock holds them all."""
    return sorted(project()["optional-dependencies"])


def requirements() -> list[Requirement]:
    """What the project asks for directly, in all its extras."""
    found = project()
    asked = list(found["dependencies"])
    for extra in found["optional-dependencies"].values():
        asked += extra
    made = [Requirement(each) for each in asked]
    # An extra may name others of this project.
    return [each for each in made if canonicalize_name(each.name) != found["name"]]


def digest() -> str:
    """Tell one state of the dependencies from another."""
    found = project()
    asked = [found["requires-python"], found["dependencies"], found["optional-dependencies"]]
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def pins() -> dict[str, Version]:
    """The versions in the lock, by canonical name."""
    return {canonicalize_name(name): Version(at) for name, at in PIN.findall(LOCK.read_text())}


def problems() -> list[str]:
    """What does not fit, a line each."""
    if not LOCK.exists():
        return [f"{LOCK.name} is missing"]
    text, found = LOCK.read_text(), pins()
    wrong = [] if text.startswith(HEAD + digest() + "\n") else ["pyproject.toml has changed since"]
    for each in requirements():
        at = found.get(canonicalize_name(each.name))
        if at is None:
            wrong.append(f"{each.name} is not in it")
        elif not each.specifier.contains(at, prereleases=True):
            wrong.append(f"{each.name} {at} is not {each.specifier}")
    blocks = re.split(r"\n(?=\S)", text)
    wrong += [
        f"{pin[1]} has no hash"
        for each in blocks
        if (pin := PIN.match(each)) and "sha256:" not in each
    ]
    return wrong


def write(*arguments: str) -> int:
    """Have uv resolve everything; versions that are there stay, unless an upgrade is asked for."""
    made = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--no-emit-index-url", "--no-emit-find-links", str(PROJECT)),
            *(part for extra in extras() for part in ("--extra", extra)),
            *("--output-file", str(LOCK), *arguments),
        ],
        check=False,
        stdout=subprocess.DEVNULL,
    )
    if made.returncode == 0:
        LOCK.write_text(f"{HEAD}{digest()}\n{LOCK.read_text()}")
    return made.returncode


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it is stale")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    if not arguments.check:
        return write(*["--upgrade"] * arguments.upgrade)
    wrong = problems()
    for each in wrong:
        print(f"{LOCK.name}, run make lock: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
