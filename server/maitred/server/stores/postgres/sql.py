"""The named statements of `statements.sql`, and the numbered migrations."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

_HERE = resources.files(__package__ or __name__)

CLOCK: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The database's clock in microseconds; also that of PostgreSQL's relatives."""

_MINE: Final = (
    "CASE WHEN a.version > t.base THEN (SELECT m.commit_id FROM maitred.events m"
    " WHERE m.kind = a.kind AND m.id = a.id AND m.version = t.base + 1) END"
)

_MINIMUM = re.compile(r"^-- minimum server: (\d+)$", re.MULTILINE)


class Migration(NamedTuple):
    """One numbered step of the schema; only ever appended, never edited once released."""

    number: int
    name: str
    minimum: int
    """The newest migration that a server must know to work on the schema that this one leaves."""
    statements: tuple[bytes, ...]


def _statements() -> dict[str, bytes]:
    text = (_HERE / "statements.sql").read_text(encoding="utf-8")
    found: dict[str, bytes] = {}
    for part in re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        statement = "\n".join(lines).strip()
        statement = statement.replace("{clock}", CLOCK).replace("{mine}", _MINE)
        found[name.strip()] = statement.encode()
    return found


@cache
def load_migrations() -> tuple[Migration, ...]:
    """Read the migrations that ship with this version, in order."""
    files = sorted(
        (entry for entry in (_HERE / "migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return tuple(parse_migration(entry.name, entry.read_text(encoding="utf-8")) for entry in files)


def parse_migration(name: str, script: str) -> Migration:
    """Read a migration from its file's name and text.

    Statements are parted at a semicolon that ends its line: the scripts hold no functions.

    Raises: ValueError where the script does not say which servers it suits.
    """
    minimum = _MINIMUM.search(script)
    if minimum is None:
        raise ValueError(f"{name} lacks its line '-- minimum server: N'")
    code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    pieces = (piece.strip() for piece in re.split(r";\s*$", code, flags=re.MULTILINE))
    statements = tuple(piece.encode() for piece in pieces if piece)
    return Migration(int(name[:4]), name, int(minimum[1]), statements)


SQL: Final = _statements()
