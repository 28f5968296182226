"""Connections: how they are opened, lent out, and cut when they no longer answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from maitred.server.stores.base import OutcomeUnknown, StoreUnavailable
from maitred.server.stores.postgres.columns import register
from maitred.server.stores.postgres.errors import (
    MISFITS,
    is_forgotten,
    is_lost,
    is_stale,
    translate,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

DEFAULTS: Final = {
    "application_name": "maitred",
    "connect_timeout": "3",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""What a URL that does not say otherwise connects with; libpq's own names and units."""

SESSION: Final = (
    "SET lock_timeout = '5s'",
    "SET idle_in_transaction_session_timeout = '30s'",
    "SET default_transaction_isolation = 'read committed'",
)
"""What every connection must be told."""

ADVICE: Final = (
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
)
"""For PostgreSQL's planner: every statement walks an index, and a plan that was made while the
tables were empty must not stay when they have grown. Other databases may refuse it."""

RETRY_S: Final = 0.2
"""How long after a failed attempt to connect others are refused without another one."""

STATEMENT_S: Final = 10.0
"""The longest that the server works on one statement that reads or deletes."""

DEADLINE_S: Final = 15.0
"""The longest that a reader waits for an answer; then the connection is cut."""

POOL_WAIT_S: Final = 5.0
"""The longest that a reader waits for a connection."""

_OWN_PARAMETERS = ("pool_size", "prepare")


class Target:
    """What a URL names: where to connect, and how."""

    def __init__(self, url: str, *, pool_size: int | None, prepare: bool | None) -> None:
        """Take a URL apart; `pool_size` and `prepare` may be given in it as well.

        Raises: ValueError.
        """
        # By hand: libpq reads the rest its own way, many hosts and plus signs included.
        scheme, _, rest = url.partition("://")
        place, _, query = f"{scheme.lower()}://{rest}".partition("?")
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        own = {name: value for name, _, value in pairs if name in _OWN_PARAMETERS}
        rest = "&".join("".join(pair) for pair in pairs if pair[0] not in _OWN_PARAMETERS)
        self.pool_size = int(own.get("pool_size", 10)) if pool_size is None else pool_size
        if self.pool_size < 1:
            raise ValueError("pool_size is less than 1")
        if prepare is None:
            prepare = own.get("prepare", "yes").lower() not in ("no", "off", "false", "0")
        self.prepare = prepare
        try:
            plain = f"{place}?{rest}" if rest else place
            settings = conninfo_to_dict(plain)
        except psycopg.Error:
            # The text of libpq's error may hold the password of the URL.
            raise ValueError("libpq does not understand the URL of the database") from None
        merged = {name: value for name, value in DEFAULTS.items() if name not in settings}
        self.conninfo = make_conninfo(plain, **merged)
        host = settings.get("host") or settings.get("hostaddr") or "the local socket"
        self.name = f"{settings.get('dbname') or 'the default database'} at {host}"


class Connector:
    """Opens connections; while the database is away it says so at once instead of trying."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._failure: StoreUnavailable | None = None
        self._retry_at = 0.0
        self._trying = False
        self.generation = 0
        """Grows when the server turns out to have gone: connections of before are not reused."""

    async def connect(self, *, statement_s: float | None = STATEMENT_S) -> Connection:
        """Open a connection; without `statement_s` statements may take any time.

        Raises: StoreUnavailable.
        """
        loop = asyncio.get_running_loop()
        if self._failure is not None and (self._trying or loop.time() < self._retry_at):
            raise StoreUnavailable(str(self._failure))
        self._trying = True
        try:
            connection = await self._open(statement_s)
        except (psycopg.Error, OSError) as error:
            failure = StoreUnavailable(f"cannot reach {self._target.name}: {_first(error)}")
            self._failure, self._retry_at = failure, loop.time() + RETRY_S
            raise failure from error
        finally:
            self._trying = False
        self._failure = None
        return connection

    async def _open(self, statement_s: float | None) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            self._target.conninfo,
            autocommit=True,
            # From its first use: psycopg 3.3.9 takes a statement that it was to prepare at a later
            # use for prepared, also where a failure before it in the pipeline kept the server from
            # it, and every transaction with that statement fails from then on.
            prepare_threshold=0 if self._target.prepare else None,
        )
        try:
            with deadline(connection, DEADLINE_S):
                register(connection)
                for setting in SESSION:
                    await connection.execute(setting)
                if statement_s is not None:
                    bound = f"SET statement_timeout = {statement_s * 1000:.0f}"
                    await connection.execute(bound.encode())
                for setting in ADVICE:
                    with contextlib.suppress(psycopg.DatabaseError):
                        await connection.execute(setting)
        except BaseException:
            cut(connection)
            await connection.close()
            raise
        return connection

    def note(self, error: BaseException, generation: int, *, lost: bool) -> None:
        """Note that the server went away, if that is what an error on a connection means.

        Connections of its generation may have ended too, without anybody having told them.
        """
        if generation == self.generation and (lost or is_stale(error)):
            self.generation += 1


class Pool:
    """A bounded number of connections for everything but commits."""

    def __init__(self, connector: Connector, size: int) -> None:
        self._connector = connector
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[int, Connection]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        writes: bool = False,
        deadline_s: float = DEADLINE_S,
    ) -> T:
        """Run work on a connection, to its end even if the caller is cancelled.

        What loses its connection, and has certainly not written anything, is run once more on
        another one. A connection that has not answered after `deadline_s` is cut.

        Raises: StoreError; OutcomeUnknown where work that writes lost its connection.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        task = asyncio.get_running_loop().create_task(
            self._run(work, writes=writes, deadline_s=deadline_s)
        )
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Let what runs end, then close all connections."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            await self._idle.pop()[1].close()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Looked at, because nobody else does where the caller was cancelled.
            task.exception()

    async def _run(
        self, work: Callable[[Connection], Awaitable[T]], *, writes: bool, deadline_s: float
    ) -> T:
        try:
            async with asyncio.timeout(POOL_WAIT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreUnavailable("all connections to the database are busy") from None
        try:
            for last in (False, True):
                try:
                    return await self._attempt(work, deadline_s)
                except _LostError as lost:
                    if writes and lost.unknown:
                        raise OutcomeUnknown(str(lost)) from lost
                    if last:
                        raise StoreUnavailable(str(lost)) from lost
            raise AssertionError("the second attempt answers or raises")
        finally:
            self._slots.release()

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]], deadline_s: float) -> T:
        connection = await self._take()
        generation = self._connector.generation
        try:
            with deadline(connection, deadline_s):
                result = await work(connection)
        except BaseException as error:
            await self._give_up(connection, generation, error)
            raise
        if connection.info.transaction_status == TransactionStatus.IDLE:
            self._idle.append((generation, connection))
        else:
            await connection.close()
        return result

    async def _give_up(self, connection: Connection, generation: int, error: BaseException) -> None:
        """Raises: _LostError or StoreError, whatever the error means; else returns."""
        lost = is_lost(connection, error)
        self._connector.note(error, generation, lost=lost)
        # An error is rare enough not to wonder in what state it left the connection.
        cut(connection)
        await connection.close()
        if lost and isinstance(error, psycopg.Error | OSError):
            raise _LostError(f"the connection was lost: {_first(error)}", unknown=True) from error
        if is_forgotten(error):
            raise _LostError(str(translate(error)), unknown=False) from error
        if isinstance(error, (psycopg.Error, OSError, *MISFITS)):
            raise translate(error) from error

    async def _take(self) -> Connection:
        while self._idle:
            generation, connection = self._idle.pop()
            if generation == self._connector.generation and is_fresh(connection):
                return connection
            await connection.close()
        return await self._connector.connect()


class _LostError(Exception):
    """The connection ended under the work, or is good for nothing any more."""

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown
        """Whether what was written may have been committed."""


def is_fresh(connection: Connection) -> bool:
    """Tell whether an idle connection still stands, without a round trip."""
    try:
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return not (connection.closed or connection.broken)


@contextlib.contextmanager
def deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """Cut a connection that does not answer in time, so that what waits for it fails."""
    timer = asyncio.get_running_loop().call_later(seconds, cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def cut(connection: Connection) -> None:
    """End a connection at once.

    Never by a cancel request: a COMMIT that is cancelled while it waits for a standby is answered
    as if it had been kept there.
    """
    with contextlib.suppress(OSError, psycopg.Error):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        with contextlib.closing(end):
            end.shutdown(socket.SHUT_RDWR)


def _first(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
