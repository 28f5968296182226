"""What happens to a database when it is opened: recognised, migrated, given its epoch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import structlog

from maitred.server.stores.base import SECRET_BYTES, CorruptData, SchemaTooNew, StoreError
from maitred.server.stores.sqlite.connection import APPLICATION_ID, configure_writer
from maitred.server.stores.sqlite.sql import SQL, Migration, load_migrations, split_script

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_log = structlog.get_logger(__name__)

EPOCH = "epoch"
DIGEST_KEY = "secret"
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


def prepare(connection: sqlite3.Connection, name: str, max_bytes: int | None) -> Prepared:
    """Make a database ready to be served, an empty one included.

    Raises: StoreError where the file is another program's; SchemaTooNew; CorruptData.
    """
    migrations = load_migrations()
    recognise(connection, name, newest=migrations[-1].number)
    configure_writer(connection, max_bytes)
    migrate(connection, migrations)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if missing := _TABLES - tables:
        raise CorruptData(f"{name} lacks the tables {', '.join(sorted(missing))}")
    return Prepared(_take_epoch(connection), schema_of(connection), _take_secret(connection))


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


def _take_secret(connection: sqlite3.Connection) -> bytes:
    """Read the secret of these data; make one where there is none."""
    row = connection.execute(SQL["read_meta"], (DIGEST_KEY,)).fetchone()
    if row is not None:
        return bytes(row[0])
    secret = os.urandom(SECRET_BYTES)
    connection.execute(SQL["write_meta"], (DIGEST_KEY, secret))
    return secret
