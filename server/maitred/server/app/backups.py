"""Where the Backup rpc writes its copies, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import unicodedata
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from maitred.server.errors import (
    AlreadyExists,
    InvalidField,
    RateLimited,
    StoreUnavailable,
    Violation,
)
from maitred.server.stores import remove_unfinished
from maitred.server.units import NS

MOST_WAITING: Final = 16
"""Backups that may wait for the one that is being written."""

_TAKEN_BY_SQLITE: Final = ("-wal", "-shm", "-journal", ".lock", ".partial")
"""Ends of names that mean something beside a database of the name before them."""

_NAME_BYTES: Final = 200
"""Room for what lies beside a database of this name."""

log = structlog.get_logger(__name__)


class Backups:
    """The backup directory, and one writer at a time."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._turn = asyncio.Lock()
        self._waiting = 0

    def tidy(self) -> None:
        """Delete what backups left unfinished that were cut short."""
        gone = 0
        for folder, _, _ in os.walk(self._directory):
            with contextlib.suppress(OSError):
                gone += remove_unfinished(Path(folder))
        if gone:
            log.info("unfinished_backups_removed", count=gone)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other backup is being written. Raises: RateLimited."""
        if self._waiting >= MOST_WAITING:
            raise RateLimited(
                f"{MOST_WAITING} backups wait for their turn already: try again when they are done",
                retry_after_s=10,
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    def check(self, path: str) -> None:
        """Refuse a name at once that no copy can have. Raises: InvalidField."""
        if path:
            _check_name(path)

    def target(self, path: str, now_ns: int) -> Path:
        """Find the place of a copy, which is inside the backup directory whatever the path says.

        Raises: InvalidField, AlreadyExists, StoreUnavailable.
        """
        if not path:
            stamp = datetime.fromtimestamp(now_ns / NS, UTC)
            path = f"maitred-{stamp:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.db"
        self.check(path)
        try:
            folder = self._directory.resolve()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = (folder / path).resolve()
            if target == folder or not target.is_relative_to(folder):
                raise _refused("inside", "must lie inside the backup directory")
            _make_folders(folder, target.parent)
            if target.is_dir():
                raise AlreadyExists("a directory of this name exists in the backup directory")
            if os.path.lexists(target):
                raise AlreadyExists("a file of this name exists in the backup directory")
        except (OSError, RuntimeError) as error:
            words = getattr(error, "strerror", None) or error
            raise StoreUnavailable(f"cannot write to the backup directory: {words}") from None
        return target


def _check_name(path: str) -> None:
    """Refuse names that cannot be typed, read or told from what SQLite keeps beside a database."""
    if any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for each in path):
        raise _refused("printable", "must hold no control or invisible characters")
    if path.endswith(("/", "/.", "/..")):
        raise _refused("file", "must name a file")
    if any(len(part.encode()) > _NAME_BYTES for part in path.split("/")):
        raise _refused("length", f"must hold names of at most {_NAME_BYTES} bytes")
    if path.lower().endswith(_TAKEN_BY_SQLITE):
        ends = ", ".join(_TAKEN_BY_SQLITE)
        raise _refused("free", f"must not end in one of {ends}: those belong to a database")


def _make_folders(folder: Path, parent: Path) -> None:
    """Make the folders between. Raises: InvalidField where one of them is a file; OSError."""
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        name = parent.relative_to(folder)
        raise _refused("folder", f"must not lead through {name}, which is a file") from None


def _refused(rule: str, words: str) -> InvalidField:
    return InvalidField(f"path {words}", violations=[Violation("path", f"backup.{rule}", words)])
