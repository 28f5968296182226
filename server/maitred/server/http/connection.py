"""One HTTP/1.1 connection: uvicorn's protocol, with the bounds that it leaves to a proxy.

Imports uvicorn, and so is itself imported only by a listener that starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from maitred.server.telemetry import metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_CONNECTIONS: Final = 768
"""Open connections, or a quarter of the files where that is less: the rest is for gRPC and data."""

MAX_REQUESTS: Final = 512
"""Requests under way; more are told to come again."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers; also trailers, and whatever else is no body."""

HEAD_S: Final = 10.0
"""How long a connection may take to send the head of a request."""

KEEP_ALIVE_S: Final = 75
"""How long a connection stays open between requests: longer than proxies keep theirs (60 s), or
they would send a request just as the connection closes."""

WRITE_S: Final = 10.0
"""How long a peer may leave answers unread once buffers are full."""

BUSY_RETRY_S: Final = 5

_CLOSING: Final = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_MALFORMED: Final = b"HTTP/1.1 400 Bad Request\r\n" + _CLOSING
_HEAD_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _CLOSING

# Uvicorn's own logger is left alone. Its warnings are about what strangers send: they are counted
# instead, or whoever sends rubbish would write the log.
_uvicorn_log: Final = logging.getLogger("maitred.server.http.uvicorn")
_uvicorn_log.setLevel(logging.ERROR)


class State(ServerState):
    """What the connections of one listener share."""

    connections: set[Connection]  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.stopping = False
        self.empty = asyncio.Event()
        """Set while there is no connection."""
        self.empty.set()
        self.without_head: dict[Connection, None] = {}
        """Connections whose next request has no whole head yet, the oldest first."""
        self.leaving: set[Connection] = set()
        """Those that were dropped to make room, until they are gone."""
        self._date_s = 0

    def make_room(self, newest: Connection) -> bool:
        """Drop whoever has kept its head to itself for longest; answers whether anybody did.

        Genuine senders say theirs at once: half heads can't lock them out.
        """
        for oldest in self.without_head:
            if oldest is not newest:
                _refused("crowded_out")
                del self.without_head[oldest]
                self.leaving.add(oldest)
                oldest.cut()
                return True
        return False

    def refresh_date(self) -> None:
        """Keep the Date header of answers true to the second."""
        now = int(time.time())
        if now != self._date_s:
            self._date_s = now
            self.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class Connection(HttpToolsProtocol):
    """Adds bounds in time and size, so that a peer holds no more than it is worth."""

    server_state: State

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _uvicorn_log
        self.access_log = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        """Bytes since the last that made sense by themselves: a whole head, or a part of a body."""
        self._too_large = False

    @property
    def _answering(self) -> bool:
        # uvicorn annotates it as never absent; before the first request it is.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    # --- the life of the connection ------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or drop it where there are too many."""
        super().connection_made(transport)
        self.server_state.empty.clear()
        state = self.server_state
        too_many = len(self.connections) - len(state.leaving) > _most_connections()
        if state.stopping or (too_many and not state.make_room(self)):
            _refused("connection")
            transport.abort()
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        self._stop_head_timer()
        self.server_state.leaving.discard(self)
        self.resume_writing()
        self._unset_keepalive_if_required()
        if not self.connections:
            self.server_state.empty.set()

    def pause_writing(self) -> None:
        """Give a peer that reads nothing a while, then drop it."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S, self._write_is_late)

    def resume_writing(self) -> None:
        """Go on with a peer that reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def cut(self) -> None:
        """End the connection at once, whatever is under way."""
        self._tell_app()
        self.transport.abort()

    def _tell_app(self) -> None:
        # At once, not when the loop comes to it: on uvloop a write until then is an error.
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _write_is_late(self) -> None:
        _refused("slow_reader")
        self.cut()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)
        self.server_state.without_head[self] = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.server_state.without_head.pop(self, None)
        if not self._answering:
            _refused("slow_head")
            self.transport.close()

    def _stop_head_timer(self) -> None:
        self.server_state.without_head.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- what comes in -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse; what makes no progress is bounded in bytes, and between requests in time."""
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > MAX_HEAD_BYTES:
            self._too_large = True
            self.send_400_response("")
        elif not self._answering and self._head_timer is None and self._idles_unwatched:
            self._start_head_timer()

    @property
    def _idles_unwatched(self) -> bool:
        # A whole request that was answered within `data_received` has its keep-alive timer.
        return self.timeout_keep_alive_task is None

    def on_message_begin(self) -> None:
        """A request begins."""
        self._unread = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole: let the app have it."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._too_large = True
            raise _HeadTooLargeError
        self._unread = 0
        self._stop_head_timer()
        self.server_state.refresh_date()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Its body goes on."""
        self._unread = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close."""
        _refused("head_too_large" if self._too_large else "malformed")
        if self._answering and not self.cycle.more_body:
            # Rubbish behind a good request: that one still gets its own answer.
            self.shutdown()
            self.flow.pause_reading()
            return
        self._tell_app()
        self.transport.write(_HEAD_TOO_LARGE if self._too_large else _MALFORMED)
        self.transport.close()


def configuration(app: ASGIApp, state: State) -> Config:
    """Say to uvicorn what must not be left to its defaults, the environment among them."""
    config = Config(
        _bounded(app, state),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        workers=1,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    return config


def _bounded(app: ASGIApp, state: State) -> ASGIApp:
    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        if len(state.tasks) > MAX_REQUESTS:
            _refused("request")
            await send(
                {
                    "type": "http.response.start",
                    "status": 503,
                    "headers": (
                        (b"content-length", b"0"),
                        (b"retry-after", str(BUSY_RETRY_S).encode()),
                        (b"connection", b"close"),
                    ),
                }
            )
            await send({"type": "http.response.body"})
            return
        # Only a listener that stops cancels requests, and it has cut their connections: there is
        # nobody to answer, and uvicorn would log each as a failure of the app.
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return bounded


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft < 0 else min(MAX_CONNECTIONS, soft // 4)


def _refused(why: str) -> None:
    metrics.HTTP_REFUSALS.labels(why).inc()
