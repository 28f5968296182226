"""One stream: messages of a handler, until it ends, its caller may no longer see it, or we stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from google.protobuf.message import Message

from maitred.server.app.pipeline.methods import Method
from maitred.server.app.pipeline.overtime import each_until
from maitred.server.errors import ShuttingDown, Unauthenticated
from maitred.server.telemetry import metrics

if TYPE_CHECKING:
    from maitred.server.app.pipeline.pipeline import Caller, Pipeline

RECHECK_S: Final = 5.0
"""How long a stream outlives the token that opened it."""


class Stream:
    """A stream of a caller who was let in; `async with` it, then send what `messages` yields.

    All of that happens in one task, which `end` may cancel. On the way out, whatever went wrong
    inside, in the transport too, is a `WireError`, except that the caller went away: that stays a
    CancelledError.
    """

    def __init__(
        self, pipeline: Pipeline, method: Method, caller: Caller, *, keeps_deadlines: bool
    ) -> None:
        self._pipeline = pipeline
        self._method = method
        self._caller = caller
        self._keeps_deadlines = keeps_deadlines
        self._deadline: float | None = None
        self._messages: AsyncGenerator[bytes, None] | None = None
        self.task: asyncio.Task[Any] | None = None
        """The task that sends, once it has begun."""
        self._ending = False
        self._counted = ""
        self.interruptible = True
        """Whether `end` may cancel the task now. A transport that could not be interrupted in the
        middle of something says so; the stream then ends before its next message."""

    async def __aenter__(self) -> Self:
        """Begin to be one of the streams that `end_streams` ends."""
        self.task = asyncio.current_task()
        self._pipeline.streams.add(self)
        metrics.STREAMS_OPEN.labels(self._method.name).inc()
        return self

    def messages(self, raw: bytes, time_left: float | None) -> AsyncIterator[bytes]:
        """Decode the request and yield what to send; `time_left` is None without a deadline."""
        if time_left is not None:
            self._deadline = time.monotonic() + time_left
        self._messages = self._run(raw)
        return self._messages

    async def _run(self, raw: bytes) -> AsyncGenerator[bytes, None]:
        pipeline, method, caller = self._pipeline, self._method, self._caller
        call = pipeline.begin(method, caller, self._deadline)
        self._counted = pipeline.quotas.open_stream(call.actor.name)
        request = pipeline.decode(method, raw, call.actor)
        hide = method.filters.get(call.actor.role)
        recheck = not pipeline.authenticator.is_open
        recheck_at = time.monotonic() + RECHECK_S
        sent = metrics.STREAM_MESSAGES.labels(method.name)
        messages: Any = method.handler(request, call)
        async with contextlib.aclosing(messages):
            source = messages
            if self._deadline is not None and not self._keeps_deadlines:
                source = each_until(self._deadline, messages)
            async for message in source:
                data = message if type(message) is bytes else serialise(message)
                if hide is not None:
                    data = hide(data)
                if recheck and time.monotonic() >= recheck_at:
                    self._check_again()
                    recheck_at = time.monotonic() + RECHECK_S
                yield data
                sent.value += 1
                if self._ending:
                    raise _going_down()

    def _check_again(self) -> None:
        """End a stream whose token was withdrawn or has expired.

        Raises: Unauthenticated.
        """
        caller = self._caller
        if self._pipeline.authenticator.authenticate(caller.authorization) != caller.actor:
            raise Unauthenticated("what the token allows has changed; connect again")

    def end(self) -> None:
        """End the stream with SHUTTING_DOWN, at once where it may be interrupted."""
        self._ending = True
        if self.interruptible and self.task is not None:
            self.task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of everything, and say how the stream ended.

        Raises: WireError, CancelledError.
        """
        try:
            try:
                if self._messages is not None:
                    await self._messages.aclose()
            except BaseException as failed:  # noqa: BLE001  it is told below like any other
                error = failed
            # From here on the status is being sent, which `end` must not interrupt.
            self._pipeline.streams.discard(self)
            if error is not None:
                late = self._deadline is not None and time.monotonic() >= self._deadline
                raise self._pipeline.failure(
                    self._method, self._caller, self._told_to_end(error), late=late
                ) from None
        finally:
            self._pipeline.streams.discard(self)
            self._pipeline.quotas.close_stream(self._counted)
            metrics.STREAMS_OPEN.labels(self._method.name).dec()
        self._method.count("OK")

    def _told_to_end(self, error: BaseException) -> BaseException:
        if isinstance(error, asyncio.CancelledError) and self._ending:
            assert self.task is not None
            if self.task.uncancel() == 0:
                return _going_down()
        return error


def serialise(message: bytes | Message) -> bytes:
    """Turn what a handler answered into bytes."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _going_down() -> ShuttingDown:
    return ShuttingDown("the server is going down; resume elsewhere or later")
