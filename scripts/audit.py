"""Check locked and minimum versions against known vulnerabilities.

No network: the advisories stand in `scripts/advisories.toml`, which says how old it is.
"""

from __future__ import annotations

import datetime as dt
import sys
import tomllib
from pathlib import Path
from typing import Any

import lock  # type: ignore[import-not-found]  # it stands beside this program
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ADVISORIES = Path(__file__).with_name("advisories.toml")
OLD_DAYS = 90


def floor(requirement: Requirement) -> Version | None:
    """The oldest version that a requirement lets in; None where it names none."""
    named = [
        Version(each.version)
        for each in requirement.specifier
        if each.operator in (">=", "==", "~=")
    ]
    return max(named, default=None)


def findings(
    advisories: list[dict[str, Any]], pins: dict[str, Version], requirements: list[Requirement]
) -> list[str]:
    """What is vulnerable, a line each."""
    floors = {canonicalize_name(each.name): floor(each) for each in requirements}
    found = []
    for each in advisories:
        name, affected = canonicalize_name(each["package"]), SpecifierSet(each["affected"])
        told = f"{each['id']} ({each['summary']})"
        at = pins.get(name)
        if at is not None and affected.contains(at, prereleases=True):
            found.append(f"{name} {at} is locked: {told}")
        if name in floors:
            oldest = floors[name]
            if oldest is None or affected.contains(oldest, prereleases=True):
                found.append(f"{name} {oldest or 'of any version'} is allowed: {told}")
    return found


def main() -> int:
    """Print what is vulnerable."""
    known = tomllib.loads(ADVISORIES.read_text("utf-8"))
    updated: dt.date = known["updated"]
    age = (dt.datetime.now(dt.UTC).date() - updated).days
    found = findings(known["advisory"], lock.pins(), lock.requirements())
    for each in found:
        print(f"audit: {each}", file=sys.stderr)
    stale = f"; older than {OLD_DAYS} days, bring it up to date" if age > OLD_DAYS else ""
    print(
        f"audit: {len(lock.pins())} packages against {len(known['advisory'])} advisories "
        f"of {updated} ({age} days ago{stale}): {len(found)} found"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
