"""The named statements of `statements.sql`, and the numbered migrations."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from typing import Final, NamedTuple

_HERE = resources.files(__package__ or __name__)


class Migration(NamedTuple):
    """One numbered step of the schema; only ever appended, never edited once released."""

    number: int
    name: str
    script: str


def _statements() -> dict[str, str]:
    text = (_HERE / "statements.sql").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for part in re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        found[name.strip()] = "\n".join(lines).strip()
    return found


def load_migrations() -> tuple[Migration, ...]:
    """Read the migrations that ship with this version, in order."""
    files = sorted(
        (entry for entry in (_HERE / "migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return tuple(
        Migration(int(entry.name[:4]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in files
    )


def split_script(script: str) -> list[str]:
    """Split a script into statements, so that they can run inside one transaction.

    `executescript` would commit first.
    """
    statements: list[str] = []
    pending = ""
    for piece in re.findall(r"[^;]*;|[^;]+", script):
        pending += piece
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in pending.splitlines()):
        raise ValueError(f"the script ends in the middle of a statement: {pending.strip()[:60]!r}")
    return statements


SQL: Final = _statements()
