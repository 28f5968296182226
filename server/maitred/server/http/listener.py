"""An ASGI app behind a TCP address, in the event loop that it is started in.

Uvicorn gives the protocol only. Its server would take the process's signals, wake up ten times a
second and leave connections behind when a grace period ends; the few lines here do neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

from maitred.server.http import needing_extra

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn.config import Config

    from maitred.server.http.connection import State

BACKLOG: Final = 1024
"""Connections that the kernel keeps until the loop takes them; it caps this itself."""

CUT_S: Final = 1.0
"""How long a request that was cancelled gets to notice."""

_HINTS: Final = {
    errno.EADDRINUSE: "is another server running? stop it or choose another port",
    errno.EACCES: "ports below 1024 need a right of their own; choose a higher one",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose one of its own",
}


class HttpBindError(Exception):
    """The address cannot be had; the message says why and what to do, in one line."""


class HttpListener:
    """Serves one ASGI app over HTTP/1.1, without TLS: a proxy in front of it ends that."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Prepare to listen on a host (a name or an address, IPv6 without brackets) and a port.

        Port 0 takes a free one. Nothing is opened before `start`.
        """
        self._app = app
        self._host = host
        self._port = port
        self.bound_port = 0
        """The port, once started."""
        self._state: State | None = None
        self._servers: list[asyncio.Server] = []

    @property
    def url(self) -> str:
        """Where the root of the app is, once started."""
        return f"http://{_shown(self._host, self.bound_port)}"

    async def start(self) -> None:
        """Accept connections from here on.

        Raises: HttpBindError, MissingExtra; nothing is left open then.
        """
        assert self._state is None, "a listener is started once"
        # Importing takes a tenth of a second; on the loop every other call would wait for it.
        config, state = await asyncio.to_thread(_load, self._app)
        sockets = await _bind(self._host, self._port)
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=state, app_state={}, _loop=loop
            )

        try:
            for each in sockets:
                server = await loop.create_server(connect, sock=each, backlog=BACKLOG)
                self._servers.append(server)
        except BaseException:
            self._stop_accepting()
            _close(sockets)
            raise
        self._state = state
        self.bound_port = sockets[0].getsockname()[1]

    async def stop(self, grace_s: float = 0.0) -> None:
        """Accept no more, let requests under way end within the grace, then cut what is left.

        A second call, with less grace, hastens the first.
        """
        state = self._state
        if state is None:
            return
        state.stopping = True
        servers = self._stop_accepting()
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await state.empty.wait()
                await _ended(state.tasks)
        for connection in list(state.connections):
            connection.cut()
        await state.empty.wait()
        for task in list(state.tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_S):
                await _ended(state.tasks)
        for server in servers:
            await server.wait_closed()

    def _stop_accepting(self) -> list[asyncio.Server]:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        return servers


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    # A task that ends may have started the next request of its connection.
    while tasks:
        await asyncio.wait(tuple(tasks))


def _load(app: ASGIApp) -> tuple[Config, State]:
    """Import the protocol and configure it.

    Raises: MissingExtra.
    """
    with needing_extra():
        from maitred.server.http.connection import State, configuration
    state = State()
    return configuration(app, state), state


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, all with one port.

    Raises: HttpBindError; no socket is left open then.
    """
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # In the resolver's order, and once each.
        places = list(dict.fromkeys((family, where) for family, _, _, _, where in found))
        for family, where in places:
            # With the protocol left to the kernel asyncio does not know TCP again, leaves Nagle's
            # algorithm on, and each answer waits 40 ms for the peer's delayed acknowledgement.
            taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(taken)
            taken.setblocking(False)
            # Restarts are not kept waiting by connections of before. Not SO_REUSEPORT: a second
            # server on the same port would silently take half of the requests.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(places) > 1:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind((where[0], port, *where[2:]))
            taken.listen(BACKLOG)
            port = taken.getsockname()[1]
    except OSError as error:
        _close(sockets)
        raise HttpBindError(_why(host, port, error)) from error
    except BaseException:
        _close(sockets)
        raise
    return sockets


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _why(host: str, port: int, error: OSError) -> str:
    where = _shown(host, port)
    if isinstance(error, socket.gaierror):
        return (
            f"cannot serve HTTP on {where}: the host is not known; use an address of this machine"
        )
    reason = (error.strerror or str(error)).lower()
    hint = _HINTS.get(error.errno or 0, "choose another address or port")
    return f"cannot serve HTTP on {where}: {reason}; {hint}"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
