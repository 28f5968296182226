"""How every method of the client makes its call."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from google.protobuf.message import Message

from maitred.client._async.transport import AsyncStream, AsyncTransport
from maitred.client._methods import method_of
from maitred.client._options import Options

_Response = TypeVar("_Response", bound=Message)


class AsyncCalls:
    """A transport and how to use it."""

    def __init__(self, transport: AsyncTransport, options: Options) -> None:
        self.transport = transport
        self.options = options

    def replaced(self, **changes: Any) -> AsyncCalls:
        """Make calls with other options over the same transport."""
        return AsyncCalls(self.transport, dataclasses.replace(self.options, **changes))

    async def call(
        self, request: Message, response: type[_Response], *, wait: float = 0.0
    ) -> _Response:
        """Make a call; a mutation without a request id gets one.

        `wait` is time that the server was asked to take. Raises: MaitredError.
        """
        if method_of(type(request)).is_mutation:
            self._name(request)
        timeout = self.options.timeout
        return await self.transport.unary(
            request, response, None if timeout is None else timeout + wait
        )

    def stream(
        self, request: Message, response: type[_Response], timeout: float | None = None
    ) -> AsyncStream[_Response]:
        """Open a stream; it has no deadline unless one is given."""
        return self.transport.stream(request, response, timeout)

    def _name(self, request: Any) -> None:
        if not request.request_id:
            request.request_id = self.options.request_ids.next_for(request)
