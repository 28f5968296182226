"""Calls over grpc.aio. Written by hand, as is its blocking twin in `_sync`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from maitred.client._channel import TLS, Retries, channel_options, closed, target_of
from maitred.client._methods import method_of
from maitred.client.errors import MaitredError, from_rpc_error

_Response = TypeVar("_Response", bound=Message)


class AsyncTransport:
    """One channel and the token that goes with every call."""

    def __init__(
        self, addresses: str | Sequence[str], token: str | None, tls: TLS | None, retries: Retries
    ) -> None:
        self._target = target_of(addresses)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._tls = tls
        self._options = channel_options(retries, tls)
        self._opened: grpc.aio.Channel | None = None
        self._closed = False
        self._calls: dict[str, Any] = {}

    def _channel(self) -> grpc.aio.Channel:
        # Opened by the first call: a channel belongs to the loop that runs when it is made.
        if self._closed:
            raise closed()
        if self._opened is None:
            self._opened = (
                grpc.aio.insecure_channel(self._target, self._options)
                if self._tls is None
                else grpc.aio.secure_channel(self._target, self._tls.credentials(), self._options)
            )
        return self._opened

    async def unary(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> _Response:
        """Make a call and await its answer.

        Raises: MaitredError.
        """
        method = method_of(type(request))
        call = self._calls.get(method.path)
        if call is None:
            call = self._calls[method.path] = self._channel().unary_unary(
                method.path, type(request).SerializeToString, response.FromString
            )
        try:
            answer: _Response = await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.CancelledError:
            if _asked_to_end():
                raise
            raise closed() from None
        return answer

    def stream(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> AsyncStream[_Response]:
        """Open a stream of answers."""
        method = method_of(type(request))
        call = self._channel().unary_stream(
            method.path, type(request).SerializeToString, response.FromString
        )
        return AsyncStream(call(request, timeout=timeout, metadata=self._metadata))

    async def aclose(self) -> None:
        """Close the channel; what runs is cancelled."""
        self._closed = True
        self._calls.clear()
        if self._opened is not None:
            await self._opened.close()


class AsyncStream(Generic[_Response]):
    """The answers of one call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._cancelled = False

    async def read(self, silence: float | None = None) -> _Response | None:
        """Await the next answer; None at the end or once cancelled.

        Raises: MaitredError, with UNAVAILABLE where nothing came for `silence` seconds.
        """
        try:
            async with asyncio.timeout(silence):
                answer = await self._call.read()
        except TimeoutError:
            self.cancel()
            raise MaitredError(
                f"nothing came for {silence:g} s", status=grpc.StatusCode.UNAVAILABLE
            ) from None
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.CancelledError:
            if _asked_to_end():
                raise
            if self._cancelled:
                return None
            raise closed() from None
        return None if answer is grpc.aio.EOF else answer

    def cancel(self) -> None:
        """End the call."""
        self._cancelled = True
        self._call.cancel()


def _asked_to_end() -> bool:
    """Whether it is the task that is cancelled, and not only its call by a closing client."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class AsyncGate:
    """Open until it is closed; somebody waiting at it then goes on at once."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    def close(self) -> None:
        """Close it."""
        self._closing.set()

    async def wait(self, seconds: float) -> None:
        """Wait for some time, or until it is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
