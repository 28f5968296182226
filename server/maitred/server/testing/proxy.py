"""A TCP proxy that does to connections what networks do: cut, delay, swallow, refuse."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

_CHUNK = 65536
_TURNS = 5


class Proxy:
    """Stands between a client and a server on this machine.

    `lives` gives each new connection the number of reply bytes after which it is cut, wherever
    that is; once it runs out, connections live on.
    """

    def __init__(self, upstream: str, lives: Iterator[int] | None = None) -> None:
        self._upstream = _parse(upstream)
        self._lives = iter(()) if lives is None else lives
        self._links: set[_Link] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self.delay = 0.0
        """Seconds that every piece waits before it goes on, in either direction."""
        self.drop_replies = False
        """The server hears the client, and the client hears nothing."""
        self.swallowed = 0
        """Bytes that were dropped."""
        self.refuse = False
        """New connections end at once."""
        self.accepted = 0
        """Connections so far."""
        self.cuts = 0
        """Connections that the proxy cut."""

    @property
    def address(self) -> str:
        """What a client connects to."""
        assert self._listener is not None
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def redirect(self, upstream: str) -> None:
        """Send connections that are made from now on elsewhere."""
        self._upstream = _parse(upstream)

    def cut(self) -> None:
        """Cut every open connection, without a goodbye."""
        for link in tuple(self._links):
            self.cuts += 1
            link.cut()

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        carrying = list(self._carrying)
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        # An aborted transport closes its socket in a later turn of the loop.
        for _turn in range(_TURNS):
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's server: on Python 3.11 one that closes forgets, without closing them, the
        # connections that it accepted in the same turn of the loop.
        try:
            near, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        # asyncio does this only where it knows the protocol, which an accepted socket hides.
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._carry(near))
        self._carrying.add(task)

        def done(_task: asyncio.Task[None]) -> None:
            # However it ended, also before it began.
            near.close()
            self._carrying.discard(task)

        task.add_done_callback(done)

    async def _carry(self, near: socket.socket) -> None:
        if self.refuse:
            return
        self.accepted += 1
        near_reader, near_writer = await asyncio.open_connection(sock=near)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            return
        else:
            link = _Link(self, near_writer, far_writer, next(self._lives, None))
            self._links.add(link)
            try:
                await link.run(near_reader, far_reader)
            finally:
                self._links.discard(link)
        finally:
            near_writer.transport.abort()


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        near: asyncio.StreamWriter,
        far: asyncio.StreamWriter,
        life: int | None,
    ) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._life = life

    def cut(self) -> None:
        """Reset both sides."""
        self._near.transport.abort()
        self._far.transport.abort()

    async def run(self, near: asyncio.StreamReader, far: asyncio.StreamReader) -> None:
        """Carry bytes until either side ends."""
        ways = [
            asyncio.create_task(self._requests(near)),
            asyncio.create_task(self._replies(far)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.cut()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, near: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while piece := await near.read(_CHUNK):
                await self._pass(piece, self._far)

    async def _replies(self, far: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while piece := await far.read(_CHUNK):
                if self._proxy.drop_replies:
                    self._proxy.swallowed += len(piece)
                    continue
                if self._life is not None and len(piece) >= self._life:
                    await self._pass(piece[: self._life], self._near)
                    self._proxy.cuts += 1
                    return
                if self._life is not None:
                    self._life -= len(piece)
                await self._pass(piece, self._near)

    async def _pass(self, piece: bytes, to: asyncio.StreamWriter) -> None:
        if self._proxy.delay:
            await asyncio.sleep(self._proxy.delay)
        to.write(piece)
        await to.drain()


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
