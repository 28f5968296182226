"""Who waits for which aggregate to move: told by commits of all servers, and by looking."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError

from maitred.server.stores.base import Ref, StoreError, StoreUnavailable
from maitred.server.stores.redis.codec import name_of, ref_of
from maitred.server.stores.redis.gateway import LOST, Gateway, drop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from redis.asyncio.connection import AbstractConnection

_log = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
"""How often the versions are looked at, whatever the hints say; the promise is a second."""


class Hints:
    """Tells its listeners which refs may have moved.

    Every commit publishes on a channel of its aggregate. One connection subscribes to those that
    somebody listens for; what it misses, because messages are lost or it is not connected, is found
    by looking.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listeners: set[_Listener] = set()
        self._subscriber: asyncio.Task[None] | None = None
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def publish(self, refs: Iterable[Ref]) -> None:
        """Wake all listeners."""
        moved = tuple(refs)
        for listener in self._listeners:
            listener.moved.update(moved)
            listener.wake.set()

    async def close(self) -> None:
        """End all listening."""
        self._closed = True
        for listener in self._listeners:
            listener.wake.set()
        if self._subscriber is not None:
            self._subscriber.cancel()
            await asyncio.gather(self._subscriber, return_exceptions=True)

    async def listen(
        self,
        refs: Mapping[Ref, int],
        versions: Callable[[Iterable[Ref]], Awaitable[dict[Ref, int]]],
    ) -> AsyncIterator[set[Ref]]:
        """Yield refs that moved past the version given.

        Raises: StoreUnavailable once the store is closed; while Redis is away, nothing moves.
        """
        loop = asyncio.get_running_loop()
        listener = _Listener(refs)
        self._listeners.add(listener)
        if self._subscriber is None:
            self._subscriber = loop.create_task(self._subscribe(), name="maitred-redis-hints")
        try:
            while True:
                looked_at = loop.time()
                if moved := await self._look(refs, versions):
                    yield moved
                while (left := looked_at + LOOK_S - loop.time()) > 0:
                    if moved := await listener.next(left):
                        yield moved
                    self._check_open()
                self._check_open()
        finally:
            self._listeners.discard(listener)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def _look(
        self,
        refs: Mapping[Ref, int],
        versions: Callable[[Iterable[Ref]], Awaitable[dict[Ref, int]]],
    ) -> set[Ref]:
        try:
            found = await versions(tuple(refs))
        except StoreError as error:
            self._check_open()
            _log.warning("cannot look for changes", error=str(error))
            return set()
        return {ref for ref, version in found.items() if version > refs.get(ref, -1)}

    # ---------------------------------------------------------------- the subscription

    async def _subscribe(self) -> None:
        """Hear of the commits of other servers, from the first listener on."""
        while not self._closed:
            connection = self._gateway.bare()
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # the driver has it so
                await self._hear(connection)
            except (*LOST, RedisError) as error:
                _log.warning("hints of other servers are lost for now", error=str(error))
                await asyncio.sleep(LOOK_S)
            finally:
                await drop(connection)

    async def _hear(self, connection: AbstractConnection) -> None:
        channel = self._gateway.prefix + b"changed:"
        loop = asyncio.get_running_loop()
        heard: set[Ref] = set()
        compare_at = loop.time()
        # Asked each time: in the driver, wait_for of Python 3.11 may swallow a cancellation.
        while not self._closed:
            if loop.time() >= compare_at:
                compare_at = loop.time() + LOOK_S
                wanted = {ref for listener in self._listeners for ref in tuple(listener.refs)}
                changes = {"SUBSCRIBE": wanted - heard, "UNSUBSCRIBE": heard - wanted}
                for command, refs in changes.items():
                    if refs:
                        names = (channel + name_of(ref) for ref in refs)
                        await connection.send_command(command, *names)
                heard = wanted
            if not heard:
                await asyncio.sleep(LOOK_S)
                continue
            message = await connection.read_response(timeout=LOOK_S, disconnect_on_error=False)
            if message is not None and message[0] == b"message":
                self.publish([ref_of(message[1][len(channel) :])])


class _Listener:
    __slots__ = ("moved", "refs", "wake")

    def __init__(self, refs: Mapping[Ref, int]) -> None:
        self.refs = refs
        self.moved: set[Ref] = set()
        self.wake = asyncio.Event()

    async def next(self, timeout_s: float) -> set[Ref]:
        """Wait for hints; answers those of refs that are still listened for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        self.wake.clear()
        moved = {ref for ref in self.moved if ref in self.refs}
        self.moved.clear()
        return moved
