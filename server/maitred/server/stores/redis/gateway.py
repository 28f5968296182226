"""Connections to Redis, scripts called over them, and errors in the store's own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

from maitred.server.stores.base import (
    CorruptData,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.redis.address import Address
from maitred.server.stores.redis.safety import Server, inspect
from maitred.server.stores.redis.scripts import SCRIPTS, Script

READ_CONNECTIONS: Final = 16
CONNECT_S: Final = 5.0
REPLY_S: Final = 10.0
"""A reply that takes longer is given up, and with it the connection."""
WAIT_S: Final = 3.0
"""How long replicas have to confirm a commit."""

LOST: Final = (Disconnected, TimedOut, OSError)
"""The connection is gone: whether what was sent has happened is not known."""

_CLASSES: Final[dict[type[RedisError], str]] = {
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
}
"""Codes that the driver has taken out of the text."""

_NOT_NOW: Final = re.compile(
    r"\b(BUSY|CLUSTERDOWN|HISTORY|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|READONLY)\b"
)
_NO_ROOM: Final = re.compile(r"\bOOM\b|used memory > 'maxmemory'|No space left")


def refusal(error: RedisError) -> StoreError:
    """Return what it means that Redis answered a script with an error.

    A script meets every reason for StoreFull and StoreUnavailable at its first write or before, so
    that nothing was changed.
    """
    text = f"{_CLASSES.get(type(error), '')} {error}".strip()
    made: StoreError
    if _NO_ROOM.search(text):
        made = StoreFull(f"Redis has no room: {text}")
    elif _NOT_NOW.search(text):
        made = StoreUnavailable(f"Redis does not take it now: {text}")
    elif isinstance(error, ResponseError):
        made = CorruptData(f"Redis refuses what it holds: {text}")
    else:
        made = StoreUnavailable(f"Redis cannot be used: {text}")
    made.__cause__ = error
    return made


def pack(arguments: Iterable[bytes]) -> bytes:
    """Write arguments in the protocol of Redis, without the line that counts them."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])


async def ask(connection: AbstractConnection, *command: str | bytes | int) -> Any:
    """Send one command and read its answer. Raises: RedisError."""
    await connection.send_command(*command)
    return await connection.read_response()


class Gateway:
    """Makes and keeps the connections of one store."""

    def __init__(self, address: Address, *, accept_data_loss: bool) -> None:
        """Prepare; nothing is connected yet. Raises: ValueError for a URL that is none."""
        self.address = address
        self.prefix = f"{address.prefix}:".encode()
        self.epoch = b""
        """Every script is told the history that it belongs to, and does nothing in another."""
        self._accept_data_loss = accept_data_loss
        self._pool = BlockingConnectionPool.from_url(
            address.url,
            max_connections=READ_CONNECTIONS,
            timeout=REPLY_S,
            # The driver would send a script again whose reply was lost: that is ours to decide.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=REPLY_S,
            socket_keepalive=True,
        )

    # ---------------------------------------------------------------- connections

    async def connect(self) -> tuple[AbstractConnection, Server]:
        """Make a connection of one's own to a server that is looked at first.

        Raises: StoreUnavailable, StoreFull; StoreError where the server will not do.
        """
        connection = self.bare()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # the driver has it so
            server = await inspect(
                lambda *command: ask(connection, *command),
                self.address,
                accept_data_loss=self._accept_data_loss,
            )
            for script in SCRIPTS.values():
                await ask(connection, "SCRIPT", "LOAD", script.source)
        except (*LOST, RedisError) as error:
            await drop(connection)
            raise self.explain(error) from error
        except BaseException:
            await drop(connection)
            raise
        return connection, server

    async def probe(self, connection: AbstractConnection) -> None:
        """Try what commits will need on a connection, in the history that was opened.

        Raises: StoreUnavailable; the connection is closed then.
        """
        try:
            await self._call(connection, SCRIPTS["probe"], ())
        except (*LOST, RedisError) as error:
            made = self.explain(error)
            if isinstance(made, StoreFull):
                # It is for each commit to be refused; what gives room back goes through.
                return
            await drop(connection)
            if isinstance(made, CorruptData):
                made = StoreUnavailable(f"Redis at {self.address.label} refuses a command: {error}")
            raise made from error

    def bare(self) -> AbstractConnection:
        """Return a connection that is not connected yet."""
        made: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the driver has it so
        return made

    async def close(self) -> None:
        """Close all pooled connections."""
        with contextlib.suppress(*LOST, RedisError):
            await self._pool.disconnect()

    def explain(self, error: Exception) -> StoreError:
        """Return what an error of the driver means where nothing was changed."""
        if isinstance(error, ResponseError):
            return refusal(error)
        return StoreUnavailable(f"Redis at {self.address.label} cannot be reached: {error}")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[AbstractConnection]:
        try:
            connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # the driver has it so
        except (*LOST, RedisError) as error:
            raise self.explain(error) from error
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    # ---------------------------------------------------------------- scripts

    async def read(self, name: str, *arguments: bytes) -> Any:
        """Run a script that only reads; tried twice where a connection turns out to be broken.

        Raises: StoreUnavailable, CorruptData.
        """
        for last in (False, True):
            try:
                async with self._connection() as connection:
                    return await self._call(connection, SCRIPTS[name], arguments)
            except LOST as error:
                if last or isinstance(error, TimedOut):
                    raise self.explain(error) from error
            except RedisError as error:
                raise refusal(error) from error
        raise AssertionError("the second try returns or raises")

    async def write(self, name: str, *arguments: bytes) -> Any:
        """Run a script that writes, once.

        Raises: StoreUnavailable, StoreFull, CorruptData; OutcomeUnknown where the reply was lost or
        too few replicas have it.
        """
        async with self._connection() as connection:
            try:
                answer = await self._call(connection, SCRIPTS[name], arguments)
                enough = await self.wait(connection)
            except LOST as error:
                raise OutcomeUnknown(f"the reply of Redis was lost: {error}") from error
            except RedisError as error:
                raise refusal(error) from error
        if not enough:
            raise OutcomeUnknown("too few replicas have confirmed it in time")
        return answer

    async def wait(self, connection: AbstractConnection) -> bool:
        """Wait until enough replicas have what this connection wrote. Raises: RedisError."""
        if not self.address.wait_replicas:
            return True
        # WAIT is about what this connection wrote last. A commit that is found applied writes
        # nothing, and would not be waited for.
        await ask(connection, "HINCRBY", self.prefix + b"meta", "waits", 1)
        wanted = self.address.wait_replicas
        return int(await ask(connection, "WAIT", wanted, round(WAIT_S * 1000))) >= wanted

    async def _call(
        self, connection: AbstractConnection, script: Script, arguments: Iterable[bytes]
    ) -> Any:
        rest = (b"0", self.prefix, self.epoch, *arguments)
        try:
            return await ask(connection, b"EVALSHA", script.sha, *rest)
        except NoScriptError:
            return await ask(connection, b"EVAL", script.source, *rest)


async def drop(connection: AbstractConnection) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(*LOST, RedisError):
        await connection.disconnect(nowait=True)
