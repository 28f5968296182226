"""Connections to Redis, scripts called over them, and errors in the store's own words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import structlog
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
    SECRET_BYTES,
    CorruptData,
    OutcomeUnknown,
    SchemaTooNew,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.redis.address import Address
from maitred.server.stores.redis.safety import Ask, Server, identify, inspect, rewrite_log
from maitred.server.stores.redis.scripts import SCRIPTS, Script

_log = structlog.get_logger(__name__)

SCHEMA: Final = 1
READ_CONNECTIONS: Final = 16
CONNECT_S: Final = 5.0
REPLY_S: Final = 10.0
"""A reply that takes longer is given up, and with it the connection."""
WAIT_S: Final = 3.0
"""How long replicas have to confirm a commit."""

_EPOCH_BYTES: Final = 16

LOST: Final = (Disconnected, TimedOut, OSError, RuntimeError)
"""The connection is gone: whether what was sent has happened is not known.

A RuntimeError is what uvloop says of a transport that has closed meanwhile.
"""

_CLASSES: Final[dict[type[RedisError], str]] = {
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
}
"""Codes that the driver has taken out of the text."""

_NOT_NOW: Final = re.compile(
    r"\b(BUSY|CLUSTERDOWN|HISTORY|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|READONLY|STAGED)\b"
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
        self.secret = b""
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
            redis_connect_func=self._greet,
        )
        self._here = f"Redis at {address.label}"
        self._server: Server | None = None
        self._schema = 0
        self._meeting = asyncio.Lock()
        self._followed = False
        try:
            self.bare()
        except TypeError as error:
            raise ValueError(f"a parameter of the URL is not known: {error}") from error

    # ---------------------------------------------------------------- connections

    async def open(self) -> tuple[AbstractConnection, Server, int]:
        """Make the first connection; answers it, what is behind it, and the schema.

        Raises: SchemaTooNew, StoreUnavailable, StoreFull; StoreError where the server will not do.
        """
        self.epoch = b""
        connection = await self.connect()
        assert self._server is not None
        return connection, self._server, self._schema

    async def connect(self) -> AbstractConnection:
        """Make a connection of one's own to the history that was opened.

        Raises: StoreUnavailable; StoreError where the server will not do.
        """
        connection = self.bare()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # the driver has it so
        except (*LOST, RedisError) as error:
            raise self.explain(error) from error
        return connection

    async def _greet(self, connection: AbstractConnection) -> None:
        """Begin a connection: to a server that is known, or that gets known now."""
        try:
            await connection.on_connect()

            async def ask_it(*command: str | bytes | int) -> Any:
                return await ask(connection, *command)

            info = await identify(ask_it, self.address)
            if self.epoch and self._server and self._server.run_id == info["run_id"]:
                return
            async with self._meeting:
                await self._meet(connection, ask_it, info)
        except BaseException:
            # Else the pool would take it for a good one.
            await drop(connection)
            raise

    async def _meet(
        self, connection: AbstractConnection, ask_it: Ask, info: dict[str, str]
    ) -> None:
        """Get to know a server that is new or was started again, before anything is written."""
        server = await inspect(ask_it, self.address, info, accept_data_loss=self._accept_data_loss)
        meta = self.prefix + b"meta"
        found = await ask_it("HGET", meta, "run")
        if found is not None and found.decode() != server.run_id and server.has_log:
            await self._rewrite_log(ask_it, server)
        if not self.epoch:
            self._schema, self.epoch, self.secret = await self._begin(ask_it)
        for script in SCRIPTS.values():
            await ask_it("SCRIPT", "LOAD", script.source)
        await self._probe(connection)
        if found is None or found.decode() != server.run_id:
            with contextlib.suppress(OutOfMemoryError):
                await ask_it("HSET", meta, "run", server.run_id)
        self._server = server
        self._followed = False

    async def _rewrite_log(self, ask_it: Ask, server: Server) -> None:
        try:
            await rewrite_log(ask_it, self.address)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._here} takes long to write its log anew") from error
        except ResponseError as error:
            if not server.unsafe:
                raise StoreUnavailable(f"{self._here} refuses a command: {error}") from error
            _log.warning("redis could not be asked to write its log anew", error=str(error))

    async def _begin(self, ask_it: Ask) -> tuple[int, bytes, bytes]:
        """Read whose data this is; the first to open an empty prefix begins a history."""
        meta = self.prefix + b"meta"
        found = await ask_it("HGET", meta, "schema")
        self.check_schema(int(found or 0))
        for name, value in (
            ("schema", SCHEMA),
            ("epoch", os.urandom(_EPOCH_BYTES)),
            ("secret", os.urandom(SECRET_BYTES)),
        ):
            if not await ask_it("HEXISTS", meta, name):
                await ask_it("HSETNX", meta, name, value)
        schema, epoch, secret = await ask_it("HMGET", meta, "schema", "epoch", "secret")
        return int(schema), epoch, secret

    def check_schema(self, found: int) -> None:
        """Refuse data of another shape than this version's. Raises: SchemaTooNew."""
        if found > SCHEMA:
            raise SchemaTooNew(
                f"the data in {self._here} has schema {found}, this maitred knows {SCHEMA}:"
                " use a newer one"
            )

    async def _probe(self, connection: AbstractConnection) -> None:
        """Try what commits will need, in the history that was opened. Raises: StoreUnavailable."""
        try:
            await self._call(connection, SCRIPTS["probe"], ())
        except ResponseError as error:
            made = refusal(error)
            if isinstance(made, StoreFull):
                # It is for each commit to be refused; what gives room back goes through.
                return
            if isinstance(made, CorruptData):
                made = StoreUnavailable(f"{self._here} refuses a command: {error}")
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
        return StoreUnavailable(f"{self._here} cannot be reached: {error}")

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
        # nothing, and would not be waited for. Twice, where no replica is known to keep up: as long
        # as a primary had none, its offset is 0, and so far is one that has yet to load its copy.
        wanted = self.address.wait_replicas
        for _ in range(1 if self._followed else 2):
            await ask(connection, "HINCRBY", self.prefix + b"meta", "waits", 1)
            found = await ask(connection, "WAIT", wanted, round(WAIT_S * 1000))
            self._followed = int(found) >= wanted
            if not self._followed:
                return False
        return True

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
