"""Watches: streams that resume after a broken connection."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

from google.protobuf.message import Message

from maitred.client._async.calls import AsyncCalls
from maitred.client._async.transport import AsyncGate, AsyncStream
from maitred.client._backoff import Backoff
from maitred.client._cursors import PaymentCursor, SessionCursor
from maitred.client._items import PaymentUpdate, SessionUpdate
from maitred.client.errors import MaitredError, SessionDeleted, ShuttingDown
from maitred.v1.payment_pb2 import WatchPaymentRequest, WatchPaymentResponse
from maitred.v1.session_pb2 import (
    SourcedEvent,
    WatchEventsRequest,
    WatchEventsResponse,
    WatchSessionRequest,
    WatchSessionResponse,
)

_Request = TypeVar("_Request", WatchSessionRequest, WatchEventsRequest, WatchPaymentRequest)
_Response = TypeVar("_Response", WatchSessionResponse, WatchEventsResponse, WatchPaymentResponse)
_STARTS = ("after_version", "from_beginning")


class AsyncResumingStream(Generic[_Request, _Response]):
    """The messages of a watch, over as many connections as it takes."""

    def __init__(
        self,
        calls: AsyncCalls,
        request: _Request,
        response: type[_Response],
        timeout: float | None,
    ) -> None:
        self._calls = calls
        self._request: _Request = request
        self._response: type[_Response] = response
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._backoff = Backoff(calls.options.outage)
        self._gate = AsyncGate()
        self._stream: AsyncStream[_Response] | None = None
        self._silence = calls.options.silence()
        self.begun = False
        """Something came already."""

    async def read(self) -> _Response | None:
        """Await the next message, connecting as often as need be; None once closed.

        Raises: MaitredError.
        """
        while not self._gate.closed:
            try:
                message = await self._connected().read(self._silence)
                if message is None:
                    # A server that ends a watch without saying why is one that goes down.
                    raise ShuttingDown("the stream ended")
            except MaitredError as error:
                self._disconnect()
                if self._gate.closed:
                    break
                await self._gate.wait(self._backoff.failed(error))
            else:
                self._backoff.succeeded()
                self._advance(message)
                return message
        return None

    def close(self) -> None:
        """End the watch; a waiting `read` answers None."""
        self._gate.close()
        self._disconnect()

    def __del__(self) -> None:
        # Nobody holds the watch any more, as after `break`; gRPC by itself may keep the call open.
        self._disconnect()

    def _connected(self) -> AsyncStream[_Response]:
        if self._stream is None:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            self._stream = self._calls.stream(self._request, self._response, left)
        return self._stream

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
            self._silence = self._calls.options.silence()

    def _advance(self, message: _Response) -> None:
        self.begun = True
        if message.HasField("heartbeat_interval"):
            interval = message.heartbeat_interval.ToNanoseconds() / 1e9
            self._silence = self._calls.options.silence(interval)
        if message.resume_token:
            request: Message = self._request
            for field in _STARTS:
                if field in request.DESCRIPTOR.fields_by_name:
                    request.ClearField(field)
            self._request.resume_token = message.resume_token


class AsyncSessionWatch:
    """Iterates over what happens in one session: each version once, in order, none left out.

    A broken connection is not noticed, beyond the time that it takes. Ends after `SessionEnded`,
    or when closed; every other end raises MaitredError.
    """

    def __init__(
        self,
        source: AsyncResumingStream[WatchSessionRequest, WatchSessionResponse],
        cursor: SessionCursor,
    ) -> None:
        self._source = source
        self._cursor = cursor
        self._items: deque[SessionUpdate] = deque()
        self._token = b""
        self.resume_token = b""
        """Resumes after the last item handed out; events that came in one message come again."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionUpdate:
        while not self._items:
            try:
                message = None if self._cursor.ended else await self._source.read()
            except SessionDeleted:
                if not self._source.begun:
                    raise
                # It was deleted while the connection was broken: the end of the watch, too.
                self._items.append(self._cursor.end())
                break
            if message is None:
                await self.aclose()
                raise StopAsyncIteration
            self._items.extend(self._cursor.take(message))
            self._token = message.resume_token or self._token
        item = self._items.popleft()
        if not self._items:
            self.resume_token = self._token
        return item

    async def aclose(self) -> None:
        """End the watch."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncPaymentWatch:
    """Iterates over payment state and payment: the present ones first, then every change.

    Ends when the payment is settled, where that was asked for, or when the session is deleted.
    """

    def __init__(
        self,
        source: AsyncResumingStream[WatchPaymentRequest, WatchPaymentResponse],
        cursor: PaymentCursor,
    ) -> None:
        self._source = source
        self._cursor = cursor
        self.resume_token = b""
        """Resumes after the last item handed out."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PaymentUpdate:
        while True:
            try:
                message = None if self._cursor.ended else await self._source.read()
            except SessionDeleted:
                if not self._source.begun:
                    raise
                return self._cursor.end()
            if message is None:
                await self.aclose()
                raise StopAsyncIteration
            self.resume_token = message.resume_token or self.resume_token
            for update in self._cursor.take(message):
                return update

    async def aclose(self) -> None:
        """End the watch."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncEventsWatch:
    """Iterates over the events of all sessions and menus, in order within each, at least once."""

    def __init__(
        self, source: AsyncResumingStream[WatchEventsRequest, WatchEventsResponse], token: bytes
    ) -> None:
        self._source = source
        self._items: deque[SourcedEvent] = deque()
        self._token = token
        self.resume_token = token
        """Resumes after the last item handed out; events that came in one message come again."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SourcedEvent:
        while not self._items:
            message = await self._source.read()
            if message is None:
                raise StopAsyncIteration
            self._items.extend(message.events)
            self._token = message.resume_token or self._token
            if not self._items:
                self.resume_token = self._token
        item = self._items.popleft()
        if not self._items:
            self.resume_token = self._token
        return item

    async def aclose(self) -> None:
        """End the watch."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
