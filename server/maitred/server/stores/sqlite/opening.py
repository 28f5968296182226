"""Opening a database: to be served, or only to be read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from maitred.server.stores.base import StoreFull, StoreUnavailable
from maitred.server.stores.sqlite import identity, jobs, reader
from maitred.server.stores.sqlite.connection import (
    Channel,
    configure_reader,
    open_local_reader,
    translate,
    uri,
)
from maitred.server.stores.sqlite.lockfile import LockFile
from maitred.server.stores.sqlite.schema import Prepared, begin_run, prepare, prepare_to_read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from maitred.server.stores.base import Outcome

_log = structlog.get_logger(__name__)

_KNOWN_RUNS: Final = 8


class Opened(NamedTuple):
    """The connections of a database."""

    prepared: Prepared
    local: reader.LocalReader
    pages: Channel
    writing: Channel | None
    """None where the database is only read."""
    unfinished: list[jobs.Work[Outcome]]
    leftover: Path | None = None
    """A file that reading made, and that goes when it ends."""


def real_path(path: Path) -> Path:
    """Return the path without symbolic links: locks and logs lie beside the file itself.

    Raises: StoreUnavailable.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise StoreUnavailable(f"cannot open {path}: {error}") from error
    if not real.parent.is_dir():
        raise StoreUnavailable(f"cannot open {path}: {real.parent} is not a directory")
    if real.is_dir():
        raise StoreUnavailable(f"cannot open {path}: it is a directory")
    return real


async def open_to_serve(path: Path, lock: LockFile, max_bytes: int | None) -> Opened:
    """Open what is served from now on; the lock is held. Raises: StoreError."""
    async with _undoing(path) as undo:
        run = identity.new_run()
        found = identity.check_log(path, lock.runs())
        before = identity.NO_RUN if found is None else found.run
        # Those of starts that were cut short, too: any of them may have got into the file.
        known = dict.fromkeys((*lock.runs()[-_KNOWN_RUNS:], before or identity.NO_RUN, run))
        fresh = _expect(lock, *known)
        writing = await Channel.open(uri(path, mode="rwc"))
        undo.push_async_callback(writing.close)
        name = str(path)
        prepared = await writing.run(lambda connection: prepare(connection, name, max_bytes))
        if fresh:
            await _begin_run(writing, lock, run)
        unfinished = await writing.run(jobs.interrupted)
        local, pages = await _open_readers(undo, uri(path, mode="ro"))
        undo.pop_all()
        return Opened(prepared, local, pages, writing, unfinished)


def _expect(lock: LockFile, *runs: str) -> bool:
    try:
        lock.write_runs(*runs)
    except OSError as error:
        # Reading must go on where nothing can be written; the database keeps its last run.
        _log.warning("the lock file could not be written", error=str(error))
        return False
    return True


async def _begin_run(writing: Channel, lock: LockFile, run: str) -> None:
    """Name the run in the database itself, and only then as the one it is found at."""
    try:
        begun = await writing.run(lambda connection: begin_run(connection, run))
    except sqlite3.Error as error:
        if not isinstance(translate(error), StoreFull):
            raise
        _log.warning("this run could not be named in the database", error=str(error))
        return
    if begun:
        _expect(lock, run)


async def open_to_read(path: Path, lock: LockFile) -> Opened:
    """Open what nobody serves, changing nothing and leaving nothing. Raises: StoreError."""
    async with _undoing(path) as undo:
        if identity.check_log(path, lock.runs()) is None:
            raise StoreUnavailable(f"{path} is empty: there are no data in it")
        name, leftover = uri(path, mode="ro"), None
        if not identity.has_log(path):
            # Nobody writes, as the lock is held: so SQLite needs no files beside it.
            name += "&immutable=1"
        elif not os.access(path.parent, os.W_OK):
            raise StoreUnavailable(
                f"{path} has a log that was not yet worked off, and nothing can be written beside"
                f" it: copy it and {identity.log_of(path).name} to another directory"
            )
        else:
            # SQLite keeps an index of the log there while it reads.
            index = path.with_name(path.name + "-shm")
            if not index.exists():
                leftover = index
                undo.callback(index.unlink, missing_ok=True)
        local, pages = await _open_readers(undo, name)
        prepared = await pages.run(lambda connection: prepare_to_read(connection, str(path)))
        undo.pop_all()
        return Opened(prepared, local, pages, None, [], leftover)


async def _open_readers(
    undo: contextlib.AsyncExitStack, name: str
) -> tuple[reader.LocalReader, Channel]:
    local = reader.LocalReader(open_local_reader(name))
    undo.callback(local.close)
    pages = await Channel.open(name)
    undo.push_async_callback(pages.close)
    await pages.run(configure_reader)
    return local, pages


@contextlib.asynccontextmanager
async def _undoing(path: Path) -> AsyncIterator[contextlib.AsyncExitStack]:
    """Close what was opened if the rest fails, and say which file it was."""
    try:
        async with contextlib.AsyncExitStack() as undo:
            yield undo
    except sqlite3.Error as error:
        made = translate(error)
        raise type(made)(f"cannot open {path}: {error}") from error
