"""Blocking calls over grpc. Written by hand, as is its twin for asyncio in `_async`."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import grpc
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


class Transport:
    """The channels to all servers, and the token that goes with every call."""

    def __init__(
        self, addresses: str | Sequence[str], token: str | None, tls: TLS | None, retries: Retries
    ) -> None:
        plans = channels_of(addresses, retries, tls)
        metadata = authorization(token)
        self._channels = [_Channel(plan, metadata, tls) for plan in plans]
        self._servers = Servers([plan.target for plan in plans], retries) if plans[1:] else None
        self._gate = Gate()

    def unary(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> _Response:
        """Make a call and wait for its answer, from another server where one does not answer.

        Raises: MaitredError.
        """
        if self._servers is None:
            return self._channels[0].unary(request, response, timeout)
        attempts = Attempts(self._servers, request, timeout)
        while True:
            channel = self._channels[attempts.take().position]
            try:
                answer = channel.unary(request, response, attempts.timeout)
            except MaitredError as error:
                wait = attempts.failed(error)
            else:
                attempts.answered()
                return answer
            if wait:
                self._gate.wait(wait)

    def stream(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> Stream[_Response]:
        """Open a stream of answers, from the server that is the best choice now."""
        if self._servers is None:
            return Stream(self._channels[0].stream(request, response, timeout))
        server = Attempts(self._servers, request, timeout).take()
        channel = self._channels[server.position]
        return Stream(channel.stream(request, response, timeout), server)

    def close(self) -> None:
        """Close the channels; what runs is cancelled."""
        self._gate.close()
        for channel in self._channels:
            channel.close()


class _Channel:
    """One channel of gRPC's; it connects when it is first used."""

    def __init__(
        self, plan: ChannelPlan, metadata: tuple[tuple[str, str], ...], tls: TLS | None
    ) -> None:
        self._metadata = metadata
        self._calls: dict[str, Any] = {}
        self._closed = False
        self._channel: grpc.Channel = (
            grpc.insecure_channel(*plan)
            if tls is None
            else grpc.secure_channel(plan.target, tls.credentials(), plan.options)
        )

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def unary(
        self, request: Message, response: type[_Response], timeout: float | None
    ) -> _Response:
        """Make a call and wait for its answer.

        Raises: MaitredError.
        """
        self._check_open()
        method = method_of(type(request))
        call = self._calls.get(method.path)
        if call is None:
            call = self._calls[method.path] = self._channel.unary_unary(
                method.path, type(request).SerializeToString, response.FromString
            )
        try:
            answer: _Response = call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if self._closed:
                raise closed() from None
            raise from_rpc_error(error) from None
        return answer

    def stream(self, request: Message, response: type[_Response], timeout: float | None) -> Any:
        """Begin a call with many answers."""
        self._check_open()
        method = method_of(type(request))
        call = self._channel.unary_stream(
            method.path, type(request).SerializeToString, response.FromString
        )
        return call(request, timeout=timeout, metadata=self._metadata)

    def close(self) -> None:
        """Close it; what runs is cancelled."""
        self._closed = True
        self._calls.clear()
        self._channel.close()


class Stream(Generic[_Response]):
    """The answers of one call."""

    def __init__(self, call: Any, server: Server | None = None) -> None:
        self._call = call
        self._server = server
        self._cancelled = False
        self._watchdog: _Watchdog | None = None

    def read(self, silence: float | None = None) -> _Response | None:
        """Wait for the next answer; None at the end or once cancelled.

        Raises: MaitredError, with UNAVAILABLE where nothing came for `silence` seconds.
        """
        if silence is not None and self._watchdog is None:
            self._watchdog = _Watchdog(self._call, silence)
        dog = self._watchdog
        if dog is not None and silence is not None:
            dog.expect(silence)
        try:
            if dog is not None:
                dog.waiting_since = time.monotonic()
            answer: _Response = next(self._call)
        except StopIteration:
            return None
        except grpc.RpcError as error:
            if self._cancelled:
                return None
            if dog is not None and dog.bit:
                raise self._judged(silent(dog.silence)) from None
            raise self._judged(from_rpc_error(error)) from None
        finally:
            if dog is not None:
                dog.waiting_since = None
        if self._server is not None:
            self._server.answered()
        return answer

    def _judged(self, error: MaitredError) -> MaitredError:
        return error if self._server is None else self._server.judged(error)

    def cancel(self) -> None:
        """End the call."""
        self._cancelled = True
        self._call.cancel()
        if self._watchdog is not None:
            self._watchdog.stop()


class _Watchdog:
    """Cancels a call whose reader has waited for too long, since a blocking read knows no limit."""

    def __init__(self, call: Any, silence: float) -> None:
        self.silence = silence
        self.waiting_since: float | None = None
        self.bit = False
        self._stopped = False
        self._look = threading.Event()
        # A weak reference, so that a stream that nobody reads any more is not kept alive.
        self._call = weakref.ref(call, lambda _gone: self.stop())
        threading.Thread(target=self._run, name="maitred-watchdog", daemon=True).start()

    def expect(self, silence: float) -> None:
        """Change how long the reader may wait."""
        if silence != self.silence:
            self.silence = silence
            self._look.set()

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped = True
        self._look.set()

    def _run(self) -> None:
        pause = self.silence
        while True:
            self._look.wait(pause)
            self._look.clear()
            if self._stopped:
                return
            since = self.waiting_since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited >= self.silence:
                self.bit = True
                call = self._call()
                if call is not None:
                    call.cancel()
                return
            pause = self.silence - waited


class Gate:
    """Open until it is closed; somebody waiting at it then goes on at once."""

    def __init__(self) -> None:
        self._closing = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    def close(self) -> None:
        """Close it."""
        self._closing.set()

    def wait(self, seconds: float) -> None:
        """Wait for some time, or until it is closed."""
        self._closing.wait(seconds)
