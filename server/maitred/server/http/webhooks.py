"""The webhook endpoint: reads a bounded body as raw bytes, hands it over, and acknowledges it.

Nothing here knows who sends them or what they mean. The signature is over the exact bytes, so they
are never decoded here.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from maitred.server.http import needing_extra
from maitred.server.telemetry import metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger(__name__)

RETRY_AFTER_S: Final = 10

MAX_READING: Final = 256
"""Bodies that are being waited for; for one more, the one that is slowest is given up."""


class Receipt(enum.Enum):
    """What came of a webhook."""

    ACCEPTED = enum.auto()
    """It is durable."""
    DUPLICATE = enum.auto()
    """It was durable before."""
    IGNORED = enum.auto()
    """It is genuine, and none of our business."""
    REJECTED = enum.auto()
    """It is not proven to come from the sender: unsigned, too old or malformed."""
    UNAVAILABLE = enum.auto()
    """It could not be made durable; the sender is to send it again."""


Take = Callable[[bytes, str], Awaitable[Receipt]]
"""Takes the raw body and the signature header."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A fixed answer. Only a proven sender keeps its connection; others might hold many."""

    name: str
    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    all_headers: tuple[tuple[bytes, bytes], ...] = field(init=False)

    def __post_init__(self) -> None:
        closing = () if self.status == 200 else ((b"connection", b"close"),)
        object.__setattr__(
            self,
            "all_headers",
            (
                (b"content-type", b"text/plain"),
                (b"content-length", str(len(self.body)).encode()),
                *closing,
                *self.headers,
            ),
        )

    async def send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": self.all_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body})


_RETRY: Final = ((b"retry-after", str(RETRY_AFTER_S).encode()),)

_ANSWERS: Final = {
    Receipt.ACCEPTED: _Answer("ACCEPTED", 200, b"accepted\n"),
    Receipt.DUPLICATE: _Answer("DUPLICATE", 200, b"duplicate\n"),
    Receipt.IGNORED: _Answer("IGNORED", 200, b"ignored\n"),
    Receipt.REJECTED: _Answer("REJECTED", 400, b"rejected\n"),
    Receipt.UNAVAILABLE: _Answer("UNAVAILABLE", 503, b"unavailable\n", _RETRY),
}
_UNSIGNED: Final = _Answer("UNSIGNED", 400, b"no signature\n")
_TIMED_OUT: Final = _Answer("TIMED_OUT", 408, b"body too slow\n")
_TOO_LARGE: Final = _Answer("TOO_LARGE", 413, b"body too large\n")
_FAILED: Final = _Answer("FAILED", 503, b"unavailable\n", _RETRY)
_ABANDONED: Final = "ABANDONED"
"""The sender went away before its body was whole, or the server stopped; there is no answer."""

_NOT_FOUND: Final = _Answer("NOT_FOUND", 404, b"not found\n")
_WRONG_METHOD: Final = _Answer("WRONG_METHOD", 405, b"POST only\n", ((b"allow", b"POST"),))


class _Refused(Exception):
    """The body will not be read to its end."""

    def __init__(self, answer: _Answer | None) -> None:
        self.answer = answer


def webhook_app(
    receive: Take,
    *,
    path: str = "/webhooks/stripe",
    max_bytes: int = 262_144,
    signature_header: str = "stripe-signature",
    timeout_s: float = 10.0,
) -> ASGIApp:
    """Make the ASGI app that hands POSTs to `path` over to `receive`.

    The body has `timeout_s` to arrive, then `receive` has as long; it is cancelled after that and
    the sender told to try again, so it must not leave half of its work when it is. It goes on when
    the sender has gone away. Whatever it raises is logged and answered like UNAVAILABLE.

    Raises: MissingExtra.
    """
    with needing_extra():
        from starlette.routing import Route, Router

    endpoint = _Endpoint(receive, max_bytes, signature_header.lower().encode("ascii"), timeout_s)
    return Router([Route(path, endpoint)], redirect_slashes=False, default=_not_found)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await _NOT_FOUND.send(send)


class _Endpoint:
    """One path, as bare ASGI: a request object would cost more than all the rest here."""

    def __init__(self, take: Take, max_bytes: int, header: bytes, timeout_s: float) -> None:
        self._take = take
        self._max_bytes = max_bytes
        self._header = header
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Timeout, None] = {}
        self._counters = {
            name: metrics.WEBHOOKS.labels(name)
            for name in (
                *(answer.name for answer in _ANSWERS.values()),
                *(answer.name for answer in (_UNSIGNED, _TIMED_OUT, _TOO_LARGE, _FAILED)),
                _ABANDONED,
            )
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _WRONG_METHOD.send(send)
            return
        started = time.perf_counter()
        answer: _Answer | None = None
        try:
            answer = await self._handle(scope, receive)
        except _Refused as refused:
            answer = refused.answer
        finally:
            self._counters[_ABANDONED if answer is None else answer.name].inc()
            metrics.WEBHOOK_SECONDS.observe(time.perf_counter() - started)
        if answer is not None:
            await answer.send(send)

    async def _handle(self, scope: Scope, receive: Receive) -> _Answer:
        """Read the request and hand it over.

        Raises: _Refused.
        """
        signature = self._look_at_head(scope)
        body: bytes | None = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                body = await self._read_in_turn(receive, limit)
                limit.reschedule(loop.time() + self._timeout_s)
                return _ANSWERS[await self._take(body, signature)]
        except _Refused:
            raise
        except TimeoutError as error:
            if not limit.expired():
                return _incident(error)
            if body is None:
                return _TIMED_OUT
            _log.warning("webhook not taken in time", seconds=self._timeout_s)
            return _ANSWERS[Receipt.UNAVAILABLE]
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody sent it to this request: it is a failure like any other.
            return _incident(error)
        except Exception as error:  # noqa: BLE001  whatever it is, the sender is to try again
            return _incident(error)

    def _look_at_head(self, scope: Scope) -> str:
        """Find the signature, and refuse a body that says itself that it is too long.

        Raises: _Refused.
        """
        signature: bytes | None = None
        for name, value in scope["headers"]:
            if name == self._header and signature is None:
                signature = value
            elif name == b"content-length" and not self._fits(value):
                raise _Refused(_TOO_LARGE)
        if signature is None:
            raise _Refused(_UNSIGNED)
        return signature.decode("latin-1")

    def _fits(self, length: bytes) -> bool:
        # The parser has let digits through only; so many of them are never few bytes.
        return len(length) <= 16 and int(length) <= self._max_bytes

    async def _read_in_turn(self, receive: Receive, limit: asyncio.Timeout) -> bytes:
        """Read the body, giving up the oldest unfinished one where too many are."""
        if len(self._reading) >= MAX_READING:
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        self._reading[limit] = None
        try:
            return await self._read(receive)
        finally:
            self._reading.pop(limit, None)

    async def _read(self, receive: Receive) -> bytes:
        """Read the body.

        Raises: _Refused.
        """
        body, more = _part(await receive())
        if more:
            parts = bytearray(body)
            while more and len(parts) <= self._max_bytes:
                body, more = _part(await receive())
                parts += body
            body = bytes(parts)
        if len(body) > self._max_bytes:
            raise _Refused(_TOO_LARGE)
        return body


def _part(message: Message) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise _Refused(None)
    return message.get("body", b""), message.get("more_body", False)


def _incident(error: BaseException) -> _Answer:
    _log.error("webhook failed", incident_id=secrets.token_hex(8), exc_info=error)
    return _FAILED
