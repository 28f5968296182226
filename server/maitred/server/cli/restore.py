"""maitred restore: replace a database with a backup, under a new epoch."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from maitred.server.cli.check import look
from maitred.server.cli.failures import FAILED, CommandError
from maitred.server.cli.words import show
from maitred.server.config import SettingsError
from maitred.server.stores.base import StoreError
from maitred.server.stores.sqlite import SqliteStore
from maitred.server.stores.sqlite.restoring import put_in_place
from maitred.server.telemetry import logging


def restore(arguments: argparse.Namespace) -> int:
    """Check a backup and put it in place; print what came of it."""
    logging.configure(level="error")
    # What is written holds what guests said and owe.
    os.umask(0o077)
    backup, target = _path(arguments.backup), _path(arguments.target)
    try:
        found = asyncio.run(look(SqliteStore(backup, read_only=True), str(backup)))
    except StoreError as error:
        raise CommandError(f"{error}; nothing was restored") from error
    if found.problems:
        for problem in found.problems:
            show(problem)
        show(f"{backup} is damaged; nothing was restored", file=sys.stderr)
        return FAILED
    try:
        replaced = put_in_place(backup, target)
    except StoreError as error:
        raise CommandError(f"{error}; nothing was restored") from error
    before = ", in place of what was there" if replaced else ""
    show(f"{target}: {found.aggregates} aggregates, {found.events} events restored{before}")
    return 0


def _path(data: str) -> Path:
    """Read a path, or a URL of SQLite. Raises: SettingsError."""
    scheme, _, rest = data.partition(":")
    if scheme.lower() == "sqlite":
        return Path(rest.removeprefix("//"))
    if scheme.lower() in ("postgresql", "postgres", "redis", "rediss", "memory"):
        raise SettingsError("only SQLite files are restored; other engines have tools of their own")
    return Path(data)
