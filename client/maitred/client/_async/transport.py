"""Calls over grpc.aio. Written by hand, as is its blocking twin in `_sync`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from maitred.client._channel import (
    TLS,
    ChannelPlan,
    Retries,
    authorization,
    channels_of,
    closed,
    silent,
)
from maitred.client._methods import method_of
from maitred.client._servers import Attempts, Server, Servers
from maitred.client._status import MaitredError, from_rpc_error

_Response = TypeVar("_Response", bound=Message)


class AsyncTransport:
    """The channels to all servers, and the token that goes with every call."""

    def __init__(
        self, addresses: str | Sequence[str], token: str | None, tls: TLS | None, retries: Retries
    ) -> None:
        plans = channels_of(addresses, retries, tls)
        metadata = authorization(token)
        self._channels = [_Channel(plan, metadata, tls) for plan in plans]
        self._servers = Servers([plan.target for plan in plans], retries) if plans[1:] else None
        self._gate = AsyncGate()

    async def unary(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> _Response:
        """Make a call and await its answer, from another server where one does not answer.

        Raises: MaitredError.
        """
        if self._servers is None:
            return await self._channels[0].unary(request, response, timeout)
        attempts = Attempts(self._servers, request, timeout)
        while True:
            channel = self._channels[attempts.take().position]
            try:
                answer = await channel.unary(request, response, attempts.timeout)
            except MaitredError as error:
                wait = attempts.failed(error)
            else:
                attempts.answered()
                return answer
            if wait:
                await self._gate.wait(wait)

    def stream(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> AsyncStream[_Response]:
        """Open a stream of answers, from the server that is the best choice now."""
        if self._servers is None:
            return AsyncStream(self._channels[0].stream(request, response, timeout))
        server = Attempts(self._servers, request, timeout).take()
        channel = self._channels[server.position]
        return AsyncStream(channel.stream(request, response, timeout), server)

    async def aclose(self) -> None:
        """Close the channels; what runs is cancelled."""
        self._gate.close()
        for channel in self._channels:
            await channel.aclose()


class _Channel:
    """One channel of gRPC's."""

    def __init__(
        self, plan: ChannelPlan, metadata: tuple[tuple[str, str], ...], tls: TLS | None
    ) -> None:
        self._plan = plan
        self._metadata = metadata
        self._tls = tls
        self._opened: grpc.aio.Channel | None = None
        self._closed = False
        self._calls: dict[str, Any] = {}

    def _channel(self) -> grpc.aio.Channel:
        # Opened by the first call: a channel belongs to the loop that runs when it is made.
        if self._closed:
            raise closed()
        if self._opened is None:
            self._opened = (
                grpc.aio.insecure_channel(*self._plan)
                if self._tls is None
                else grpc.aio.secure_channel(
                    self._plan.target, self._tls.credentials(), self._plan.options
                )
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

    def stream(self, request: Message, response: type[_Response], timeout: float | None) -> Any:
        """Begin a call with many answers."""
        method = method_of(type(request))
        call = self._channel().unary_stream(
            method.path, type(request).SerializeToString, response.FromString
        )
        return call(request, timeout=timeout, metadata=self._metadata)

    async def aclose(self) -> None:
        """Close it; what runs is cancelled."""
        self._closed = True
        self._calls.clear()
        if self._opened is not None:
            await self._opened.close()


class AsyncStream(Generic[_Response]):
    """The answers of one call."""

    def __init__(self, call: Any, server: Server | None = None) -> None:
        self._call = call
        self._server = server
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
            raise self._judged(silent(silence)) from None
        except grpc.RpcError as error:
            raise self._judged(from_rpc_error(error)) from None
        except asyncio.CancelledError:
            if _asked_to_end():
                raise
            if self._cancelled:
                return None
            raise closed() from None
        if self._server is not None:
            self._server.answered()
        return None if answer is grpc.aio.EOF else answer

    def _judged(self, error: MaitredError) -> MaitredError:
        return error if self._server is None else self._server.judged(error)

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
