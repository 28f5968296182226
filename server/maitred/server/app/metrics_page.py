"""The metrics over HTTP, on the bounded listener: a page that is made at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final

import structlog

from maitred.server.app.listening import is_loopback, split_address
from maitred.server.http.listener import HttpListener
from maitred.server.telemetry.metrics import Exposition

_log = structlog.get_logger(__name__)

FRESH_S: Final = 1.0
"""How long a page is shown again: making one costs the loop milliseconds."""

PATHS: Final = frozenset({"/metrics", "/"})

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def listen(address: str, sample: Callable[[], None]) -> HttpListener:
    """Serve the metrics; `sample` sets gauges before they are read.

    Raises: SettingsError, HttpBindError, MissingExtra.
    """
    host, port = split_address(address, "metrics_listen")
    listener = HttpListener(_Page(sample), host, port)
    await listener.start()
    if not is_loopback(address):
        _log.warning("whoever reaches the metrics may read them; they ask no token", listen=address)
    return listener


class _Page:
    """One page, as bare ASGI."""

    def __init__(self, sample: Callable[[], None]) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.gc_collector import GCCollector
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        registry = CollectorRegistry()
        registry.register(Exposition(sample))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._make: Callable[[], bytes] = partial(generate_latest, registry)
        self._kind = CONTENT_TYPE_LATEST.encode()
        self._page = b""
        self._made_at_s = -FRESH_S

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer one request."""
        if scope["path"] not in PATHS:
            await _answer(send, 404, b"text/plain", b"not found\n")
        elif scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, b"text/plain", b"GET only\n")
        else:
            await _answer(send, 200, self._kind, self._fresh())

    def _fresh(self) -> bytes:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._made_at_s >= FRESH_S:
            self._page, self._made_at_s = self._make(), now_s
        return self._page


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status != 200:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
