"""Opening a database: checks, migrations, and the epoch.

Any number of servers may open it at once. Each migration runs under a lock on the row of `meta`
that counts them, so that one server runs it and the others find it done. Its statements can be
repeated, because not every relative of PostgreSQL undoes a half-run one.

Servers of two versions work side by side while one replaces the other: a migration first only adds
(its minimum stays), and what nobody uses any more is removed by a later one, whose minimum is the
migration that made it superfluous. A server that is below the minimum refuses to start; one that
runs asks now and then (`Store.check`), and serves no more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
import structlog

from maitred.server.stores.base import (
    SECRET_BYTES,
    CorruptData,
    SchemaTooNew,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.postgres.errors import is_lost, is_raced, is_transient
from maitred.server.stores.postgres.reader import fetch
from maitred.server.stores.postgres.sql import SQL, Migration, load_migrations
from maitred.server.units import NS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from maitred.server.stores.postgres.connection import Connection

_log = structlog.get_logger(__name__)

SKEW_EVERY_S: Final = 30.0
"""While the database is served, the clocks are compared so often."""

_ATTEMPTS: Final = 20
_EPOCH_BYTES: Final = 16
_PROBES: Final = 3

_APPEARED = frozenset({"42P06", "42P07", "42710"})
"""Something was created by another server between `IF NOT EXISTS` and its creation."""


class Prepared(NamedTuple):
    """What opening found out."""

    engine: str
    epoch: bytes
    schema: int
    secret: bytes


async def prepare(
    connection: Connection,
    *,
    clock_ns: Callable[[], int],
    max_skew_s: float,
    migrations: Sequence[Migration] | None = None,
) -> Prepared:
    """Make a database ready to be served, an empty one included.

    Raises: SchemaTooNew; StoreUnavailable where the clocks differ; StoreError where the database
    cannot be used; CorruptData.
    """
    steps = load_migrations() if migrations is None else tuple(migrations)
    engine = await _recognise(connection)
    await _check_clock(connection, clock_ns, max_skew_s)
    meta = await _read_meta(connection)
    check_minimum(meta, steps[-1].number)
    if int(meta.get("schema", 0)) < steps[-1].number or "epoch" not in meta:
        await _patiently(connection, lambda: _begin(connection))
        for step in steps:
            await _patiently(connection, lambda step=step: _migrate(connection, step))  # type: ignore[misc]  # mypy wants no default in a lambda
        meta = await _read_meta(connection)
        check_minimum(meta, steps[-1].number)
    if "secret" not in meta:
        # Of several servers that find none, the first one's stays.
        await connection.execute(SQL["add_secret"], {"secret": os.urandom(SECRET_BYTES).hex()})
        meta = await _read_meta(connection)
    try:
        epoch, secret = bytes.fromhex(meta["epoch"]), bytes.fromhex(meta["secret"])
        return Prepared(engine, epoch, int(meta["schema"]), secret)
    except (KeyError, ValueError) as error:
        raise CorruptData("the table maitred.meta is damaged") from error


async def _recognise(connection: Connection) -> str:
    """Return name and version of the database, and warn of settings that lose commits."""
    (version,) = (await fetch(connection, SQL["version"]))[0]
    engine = " ".join(str(version).split()[:2])
    settings = await fetch(connection, SQL["settings"])
    found = {str(name): str(value) for name, value in settings}
    if found.get("server_encoding", "UTF8").upper() not in ("UTF8", "UTF-8"):
        raise StoreError(f"the encoding of the database is {found['server_encoding']}, not UTF8")
    if found.get("synchronous_commit") == "off":
        # Of all that could be set so, this one would lose what was acknowledged on one machine.
        raise StoreError(
            "synchronous_commit is off for this role or database, so that acknowledged commits"
            " would be lost in a crash: ALTER ROLE … SET synchronous_commit = on"
        )
    if found.get("fsync") == "off":
        _log.warning("fsync is off: acknowledged commits are lost when the machine goes down")
    if found.get("synchronous_commit") in ("local", "remote_write"):
        _log.warning(
            "acknowledged commits may not be on a standby's disk",
            synchronous_commit=found["synchronous_commit"],
        )
    if not found.get("synchronous_standby_names", "unknown"):
        _log.warning("no synchronous standby: acknowledged commits can be lost in a failover")
    return engine


async def _check_clock(
    connection: Connection, clock_ns: Callable[[], int], max_skew_s: float
) -> None:
    """Compare the clocks. Raises: StoreUnavailable where they surely differ by more."""
    found: list[tuple[int, int]] = []
    for _ in range(_PROBES):
        before = clock_ns()
        (theirs,) = (await fetch(connection, SQL["clock"]))[0]
        after = clock_ns()
        # The answer was made at some time in between; more is not known of it.
        found.append(((after - before) // 2, theirs - (before + after) // 2))
    uncertain, skew = min(found)
    if abs(skew) - uncertain > max_skew_s * NS:
        direction = "behind" if skew > 0 else "ahead of"
        raise StoreUnavailable(
            f"the clock of this machine is {abs(skew) / NS:.3f} s {direction} the"
            f" database's, and {max_skew_s:g} s are allowed: let both follow a time server"
        )


class Skew:
    """Holds this machine's clock against the database's while it is served."""

    def __init__(self, clock_ns: Callable[[], int], max_skew_s: float) -> None:
        self.clock_ns = clock_ns
        self.max_skew_s = max_skew_s
        self._due = 0.0

    async def look(self, connection: Connection) -> None:
        """Compare now and then; as long as they differ, each time. Raises: StoreUnavailable."""
        now = time.monotonic()
        if now >= self._due:
            await _check_clock(connection, self.clock_ns, self.max_skew_s)
            self._due = now + SKEW_EVERY_S


async def _read_meta(connection: Connection) -> dict[str, str]:
    if (await fetch(connection, SQL["meta_exists"]))[0][0] == 0:
        return {}
    return await read_meta(connection)


async def read_meta(connection: Connection) -> dict[str, str]:
    """Read all values of the database itself; the table is there."""
    return {str(name): str(value) for name, value in await fetch(connection, SQL["read_meta"])}


def check_minimum(meta: Mapping[str, str], newest: int) -> None:
    """Refuse a database that needs a server which knows more than this. Raises: SchemaTooNew."""
    minimum = int(meta.get("minimum server", 0))
    if minimum > newest:
        raise SchemaTooNew(
            f"the database has schema {meta.get('schema')}, which needs a maitred that knows"
            f" schema {minimum}; this one knows up to {newest}"
        )


async def _begin(connection: Connection) -> None:
    for name in ("create_schema", "create_meta", "begin_meta"):
        await connection.execute(SQL[name])


async def _migrate(connection: Connection, step: Migration) -> None:
    """Run a migration that is missing. Raises: StoreError where the one before it is, too."""
    await connection.execute(b"BEGIN")
    done = int((await fetch(connection, SQL["lock_schema"]))[0][0])
    if done >= step.number:
        await connection.execute(b"ROLLBACK")
        return
    if done != step.number - 1:
        await connection.execute(b"ROLLBACK")
        raise StoreError(f"migration {done + 1} is missing before {step.name}")
    for statement in step.statements:
        await connection.execute(statement)
    values = {"epoch": os.urandom(_EPOCH_BYTES).hex()}
    await connection.execute(SQL["add_epoch"], values)
    for name, number in (("minimum server", step.minimum), ("schema", step.number)):
        await connection.execute(SQL["write_meta"], {"name": name, "value": str(number)})
    await connection.execute(b"COMMIT")
    _log.info("schema migrated", migration=step.name)


async def _patiently(connection: Connection, work: Callable[[], object]) -> None:
    """Run a step again that met another server's."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            await work()  # type: ignore[misc]  # a coroutine of this module
        except psycopg.Error as error:
            met = is_transient(error) or is_raced(error) or error.sqlstate in _APPEARED | {"55P03"}
            if is_lost(connection, error) or not met or left == 0:
                raise
            await connection.execute(b"ROLLBACK")
            await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311  # no secret
        else:
            return
