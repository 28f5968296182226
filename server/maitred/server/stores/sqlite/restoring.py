"""Replaces a database with a backup, atomically and without the old write-ahead log."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final

from maitred.server.stores.base import CorruptData, StoreError, StoreUnavailable
from maitred.server.stores.sqlite.backup import remove_unfinished, sync, unfinished_name
from maitred.server.stores.sqlite.connection import translate, uri
from maitred.server.stores.sqlite.identity import has_log
from maitred.server.stores.sqlite.lockfile import LockFile
from maitred.server.stores.sqlite.opening import real_path
from maitred.server.stores.sqlite.schema import COPIED, RUN
from maitred.server.stores.sqlite.sql import SQL

if TYPE_CHECKING:
    from pathlib import Path

_BESIDE: Final = ("-wal", "-shm", "-journal")


def put_in_place(backup: Path, target: Path) -> bool:
    """Replace a database by a backup; tells whether there was one.

    Cut short at any point it leaves the old database with its log, or the new one beside a log
    that is then refused as not its own; done again, it goes on.

    Raises: StoreLocked where a server runs on the target; StoreUnavailable; StoreFull; CorruptData.
    """
    source, real = real_path(backup), real_path(target)
    if source == real:
        raise StoreError(f"{backup} is the database itself, not a backup of it")
    lock = LockFile(real)
    lock.acquire()
    partial = real.with_name(unfinished_name())
    try:
        remove_unfinished(real.parent)
        replaced = real.stat().st_size > 0
        _write(source, partial)
        # Renamed before the old log goes: in between the log is one that is refused, while an old
        # database without its log would pass for whole.
        partial.replace(real)
        for suffix in _BESIDE:
            real.with_name(real.name + suffix).unlink(missing_ok=True)
        sync(real.parent, os.O_RDONLY | os.O_DIRECTORY)
    except sqlite3.Error as error:
        raise translate(error) from error
    except OSError as error:
        raise StoreUnavailable(f"cannot write {real}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
        lock.release(failed=True)
    return replaced


def _write(source: Path, partial: Path) -> None:
    """Copy a backup, with its own log if it has one, marked so that it begins a new history."""
    logged, index = has_log(source), source.with_name(source.name + "-shm")
    name = uri(source, mode="ro") + ("" if logged else "&immutable=1")
    made = logged and not index.exists()
    with contextlib.closing(sqlite3.connect(name, uri=True, isolation_level=None)) as original:
        original.execute("VACUUM INTO ?", (str(partial),))
    if made:
        index.unlink(missing_ok=True)
    with contextlib.closing(
        sqlite3.connect(uri(partial, mode="rw"), uri=True, isolation_level=None)
    ) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute(SQL["write_meta"], (COPIED, b"1"))
        copy.execute(SQL["drop_meta"], (RUN,))
        found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
    if found != ["ok"]:
        raise CorruptData(f"the copy of {source} is damaged: {found[0]}")
    sync(partial, os.O_RDONLY)
