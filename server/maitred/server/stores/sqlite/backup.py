"""Online backup: a compact copy, checked, marked as a copy, and only then named."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import sqlite3
from typing import TYPE_CHECKING, Final

from maitred.server.stores.base import (
    BackupInfo,
    CorruptData,
    Progress,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.sqlite.connection import Channel, translate, uri
from maitred.server.stores.sqlite.schema import COPIED, RUN
from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    from pathlib import Path

_UNFINISHED: Final = re.compile(r"\.maitred-[0-9a-f]{32}\.partial")

_LOOK_S: Final = 0.1
"""How often progress is told."""


async def back_up(database: Path, target: Path, progress: Progress) -> BackupInfo:
    """Write a copy of a database that is being served.

    `VACUUM INTO` reads one snapshot, so that writers neither wait for it nor make it begin again,
    and it leaves out what was deleted.
    Raises: StoreUnavailable where the target exists or cannot be written; StoreFull; CorruptData.
    """
    partial = target.with_name(unfinished_name())
    total, held = _reserve(database, target, partial)
    try:
        channel = await Channel.open(uri(database, mode="ro"))
        try:
            copying = asyncio.ensure_future(channel.run(lambda source: _copy(source, partial)))
            while not (await asyncio.wait({copying}, timeout=_LOOK_S))[0]:
                progress(min(partial.stat().st_size, total), total)
            info = copying.result()
        finally:
            await channel.close()
        await asyncio.get_running_loop().run_in_executor(None, _name, partial, target)
    except StoreError:
        raise
    except sqlite3.Error as error:
        raise translate(error) from error
    except OSError as error:
        raise StoreUnavailable(f"cannot write {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
        os.close(held)
    progress(total, total)
    return info._replace(path=target)


def unfinished_name() -> str:
    """Make a name for a copy that is not finished; nobody gives such a name to one that is."""
    return f".maitred-{os.urandom(16).hex()}.partial"


def remove_unfinished(folder: Path) -> int:
    """Delete the unfinished copies in a folder whose writers are gone; returns how many."""
    gone = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError), path.open("rb") as file:
                # Who is still writing it holds this lock, in whatever process.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                gone += 1
    return gone


def _reserve(database: Path, target: Path, partial: Path) -> tuple[int, int]:
    """Create the unfinished copy; answer the size of the database, and what holds the copy."""
    if os.path.lexists(target):
        raise StoreUnavailable(f"{target} exists already")
    try:
        # Created here, because SQLite's own message would not say why it cannot be.
        held = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return database.stat().st_size, held
    except OSError as error:
        raise StoreUnavailable(f"cannot write {target}: {os.strerror(error.errno or 0)}") from error


def _copy(source: sqlite3.Connection, partial: Path) -> BackupInfo:
    source.execute("VACUUM INTO ?", (str(partial),))
    copy = sqlite3.connect(uri(partial, mode="rw"), uri=True, isolation_level=None)
    try:
        found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
        if found != ["ok"]:
            raise CorruptData(f"the copy is damaged, so the database is: {found[0]}")
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute(SQL["write_meta"], (COPIED, b"1"))
        copy.execute(SQL["drop_meta"], (RUN,))
        (events,) = copy.execute("SELECT count(*) FROM events").fetchone()
    finally:
        copy.close()
    return BackupInfo(partial, partial.stat().st_size, events)


def _name(partial: Path, target: Path) -> None:
    """Give the copy its name once its bytes are on the disk; never over another file."""
    sync(partial, os.O_RDONLY)
    os.link(partial, target)
    partial.unlink()
    sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def sync(path: Path, flags: int) -> None:
    """Have the disk keep a file or a folder. Raises: OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
