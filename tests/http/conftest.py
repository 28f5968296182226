"""A listener on a free port, and a peer that says byte for byte what it wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from maitred.server.http.listener import HttpListener
from maitred.server.http.webhooks import Receipt
from maitred.server.telemetry import metrics

PATH = "/webhooks/stripe"
SIGNED = "Stripe-Signature: t=1,v1=ab\r\n"


@dataclass(frozen=True)
class Reply:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A connection without manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, listener: HttpListener, host: str = "127.0.0.1") -> Self:
        """Connect to a listener."""
        return cls(*await asyncio.open_connection(host, listener.bound_port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, raw: str | bytes) -> None:
        """Say this."""
        self.writer.write(raw.encode() if isinstance(raw, str) else raw)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def reply(self) -> Reply:
        """Wait for a whole answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """Wait for the end of the connection; answers what came until then."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""


def post(body: bytes = b"{}", *, path: str = PATH, headers: str = SIGNED) -> bytes:
    """Write a request."""
    length = f"Content-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: h\r\n{headers}{length}\r\n".encode() + body


@contextlib.asynccontextmanager
async def listening(app: Any, host: str = "127.0.0.1") -> AsyncIterator[HttpListener]:
    """Listen on a free port until the block ends."""
    listener = HttpListener(app, host, 0)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


@dataclass
class Taker:
    """What a webhook is handed to: keeps what it got, answers as it is told to."""

    receipt: Receipt = Receipt.ACCEPTED
    got: list[tuple[bytes, str]] = field(default_factory=list)

    async def __call__(self, body: bytes, signature: str) -> Receipt:
        """Take a webhook."""
        self.got.append((body, signature))
        return self.receipt


class Gate:
    """Holds webhooks until it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, body: bytes, signature: str) -> Receipt:
        """Take a webhook, once the gate is open."""
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.left.set()
        return Receipt.ACCEPTED


def counted(name: str) -> Callable[[], int]:
    """Count webhooks of a receipt from now on."""
    counter = metrics.WEBHOOKS.labels(name)
    before = counter.value
    return lambda: counter.value - before


def refused(why: str) -> Callable[[], int]:
    """Count refusals before any app from now on."""
    counter = metrics.HTTP_REFUSALS.labels(why)
    before = counter.value
    return lambda: counter.value - before
