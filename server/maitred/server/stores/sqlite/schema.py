"""Opening a database: format check, migrations, and the epoch."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import structlog

from maitred.server.stores.base import (
    SECRET_BYTES,
    CorruptData,
    SchemaTooNew,
    StoreError,
    StoreFull,
)
from maitred.server.stores.sqlite.connection import APPLICATION_ID, configure_writer, translate
from maitred.server.stores.sqlite.sql import SQL, Migration, load_migrations, split_script

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = structlog.get_logger(__name__)

EPOCH = "epoch"
DIGEST_KEY = "secret"
RUN = "run"
COPIED = "copied"
"""Present in a backup: whoever opens it first begins another history."""

_EPOCH_BYTES = 16
_TABLES = frozenset(
    {"meta", "aggregates", "labels", "events", "claims", "projections", "leases", "forgetting"}
)


class Prepared(NamedTuple):
    """What opening found out."""

    epoch: bytes
    schema: int
    secret: bytes


def prepare_to_read(connection: sqlite3.Connection, name: str) -> Prepared:
    """Look at a database that is only read; nothing of it is changed, an older schema neither.

    Raises: StoreError where the file is another program's or needs to be migrated first;
    SchemaTooNew; CorruptData.
    """
    newest = load_migrations()[-1].number
    recognise(connection, name, newest)
    found = schema_of(connection)
    if found == 0:
        raise StoreError(f"{name} is an empty database")
    if found < newest:
        raise StoreError(
            f"{name} has schema {found} of an older maitred: start a server on it once, which"
            f" brings it to {newest}"
        )
    _require_tables(connection, name)
    epoch, secret = (
        connection.execute(SQL["read_meta"], (each,)).fetchone() for each in (EPOCH, DIGEST_KEY)
    )
    if epoch is None:
        raise CorruptData(f"{name} has no epoch")
    return Prepared(bytes(epoch[0]), found, bytes(secret[0]) if secret else b"")


def _require_tables(connection: sqlite3.Connection, name: str) -> None:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if missing := _TABLES - tables:
        raise CorruptData(f"{name} lacks the tables {', '.join(sorted(missing))}")


def begin_run(connection: sqlite3.Connection, run: str) -> bool:
    """Write the name of this run into the database itself, past the log; False if that failed."""
    connection.execute(SQL["write_meta"], (RUN, run.encode()))
    (busy, left, moved) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy and left == moved


def prepare(connection: sqlite3.Connection, name: str, max_bytes: int | None) -> Prepared:
    """Make a database ready to be served, an empty one included.

    Raises: StoreError where the file is another program's; SchemaTooNew; CorruptData.
    """
    migrations = load_migrations()
    recognise(connection, name, newest=migrations[-1].number)
    configure_writer(connection, max_bytes)
    migrate(connection, migrations)
    _require_tables(connection, name)
    prepared = Prepared(_take_epoch(connection), schema_of(connection), _take_secret(connection))
    _drop_leases(connection)
    return prepared


def schema_of(connection: sqlite3.Connection) -> int:
    """Return the number of the newest migration that was applied."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def recognise(connection: sqlite3.Connection, name: str, newest: int) -> None:
    """Refuse what is not ours, before the first byte of it is changed."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application != APPLICATION_ID and not (application == 0 and empty):
        raise StoreError(f"{name} is a SQLite database of another program, not of maitred")
    found = schema_of(connection)
    if found > newest:
        raise SchemaTooNew(
            f"{name} has schema {found}, written by a newer maitred; this one knows up to {newest}"
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply the migrations that are missing, each in a transaction of its own."""
    for migration in migrations:
        found = schema_of(connection)
        if migration.number <= found:
            continue
        if migration.number != found + 1:
            raise StoreError(f"migration {found + 1} is missing before {migration.name}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in split_script(migration.script):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {migration.number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        _log.info("schema migrated", migration=migration.name)


def _take_epoch(connection: sqlite3.Connection) -> bytes:
    """Read the epoch; mint one where there is none, or where the file is a copy."""
    row = connection.execute(SQL["read_meta"], (EPOCH,)).fetchone()
    copied = connection.execute(SQL["read_meta"], (COPIED,)).fetchone() is not None
    if row is not None and not copied:
        return bytes(row[0])
    epoch = os.urandom(_EPOCH_BYTES)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(SQL["write_meta"], (EPOCH, epoch))
    connection.execute(SQL["drop_meta"], (COPIED,))
    connection.execute("COMMIT")
    if copied:
        _log.warning("a backup was restored: this is a new history", epoch=epoch.hex())
    return epoch


def _drop_leases(connection: sqlite3.Connection) -> None:
    """End what a server held that is gone: who opens the file is alone with it."""
    try:
        connection.execute(SQL["drop_taken"])
        connection.execute(SQL["drop_leases"])
    except sqlite3.Error as error:
        if not isinstance(translate(error), StoreFull):
            raise
        # They end by themselves; reading must be possible meanwhile.
        _log.warning("leases of an earlier server stay: the disk is full")


def _take_secret(connection: sqlite3.Connection) -> bytes:
    """Read the secret of these data; make one where there is none."""
    row = connection.execute(SQL["read_meta"], (DIGEST_KEY,)).fetchone()
    if row is not None:
        return bytes(row[0])
    secret = os.urandom(SECRET_BYTES)
    connection.execute(SQL["write_meta"], (DIGEST_KEY, secret))
    return secret
