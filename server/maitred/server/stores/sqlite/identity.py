"""Whether a write-ahead log belongs to the database next to it.

SQLite does not ask: whatever lies there as `-wal` is replayed into the file, also where the file
was meanwhile replaced by a backup; that undoes the backup, or breaks it. So each start of a server,
a run, has a random name. It is written into the database itself, by a checkpoint before anything
else is logged, and beside it into the lock file. A log is only ever added to in the run that the
database then names; one that lies beside a file of another run, or of none, is not that file's.

While a start writes the new name the file may be found at the old or the new one: then the lock
file names both.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from maitred.server.stores.base import CorruptData
from maitred.server.stores.sqlite.connection import uri
from maitred.server.stores.sqlite.schema import COPIED, RUN
from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NO_RUN: Final = "-"
"""Stands for a database that names no run: a new one, a backup, one of an earlier version."""

_RUN_BYTES: Final = 16
_WAL_HEADER_BYTES: Final = 32
_VERSION_AT: Final = 18
_WAL_VERSION: Final = 2


class Identity(NamedTuple):
    """What the database file says of itself, its log left aside."""

    run: str | None
    """None where it cannot be read, as in the middle of a checkpoint that was cut short."""
    copied: bool
    logs: bool
    """It is a database that is written through a log at all; a fresh backup is not."""


def new_run() -> str:
    """Name a start of a server."""
    return os.urandom(_RUN_BYTES).hex()


def has_log(database: Path) -> bool:
    """Whether there is anything in the write-ahead log beside a database."""
    try:
        return log_of(database).stat().st_size > _WAL_HEADER_BYTES
    except FileNotFoundError:
        return False


def log_of(database: Path) -> Path:
    """Name the write-ahead log of a database."""
    return database.with_name(database.name + "-wal")


def read_identity(database: Path) -> Identity:
    """Read a database without its log. Nobody else may have it open for writing."""
    with database.open("rb") as file:
        header = file.read(_VERSION_AT + 2)
    logs = header[_VERSION_AT:] == bytes((_WAL_VERSION, _WAL_VERSION))
    try:
        # `immutable` is what makes SQLite leave the log alone.
        name = uri(database, mode="ro") + "&immutable=1"
        with closing(sqlite3.connect(name, uri=True)) as raw:
            run = raw.execute(SQL["read_meta"], (RUN,)).fetchone()
            copied = raw.execute(SQL["read_meta"], (COPIED,)).fetchone() is not None
    except sqlite3.Error:
        return Identity(None, copied=False, logs=logs)
    return Identity(NO_RUN if run is None else str(run[0].decode()), copied, logs)


def check_log(database: Path, known: Sequence[str]) -> Identity | None:
    """Refuse a log that is not the database's; `known` is what the lock file says of its runs.

    Answers what the database says of itself, None where it is empty. Raises: CorruptData.
    """
    logged, log = has_log(database), log_of(database).name
    if database.stat().st_size == 0:
        if logged:
            raise CorruptData(
                f"{database} is empty or gone, but its log {log} holds data: put the database back"
                " that belongs to it, or move the log away"
            )
        return None
    found = read_identity(database)
    if logged and not _belongs(found, known):
        raise CorruptData(
            f"{log} is not the log of {database}: a backup was copied over the file of a server"
            f" that was killed. Put it in place with: maitred restore BACKUP {database}; if the"
            f" file is the backup already, move {log} away"
        )
    return found


def _belongs(found: Identity, known: Sequence[str]) -> bool:
    if not found.logs:
        # Made a database with a log in its very first moment, before there was anything to log.
        return False
    if not known:
        # Of an earlier version, or brought here without its lock file.
        return not found.copied
    return found.run is None or found.run in known
