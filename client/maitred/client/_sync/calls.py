# generated: edit _async and run scripts/unasync.py
"""How every method of the client makes its call."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from google.protobuf.message import Message

from maitred.client._methods import method_of
from maitred.client._options import Options
from maitred.client._sync.transport import Stream, Transport

_Response = TypeVar("_Response", bound=Message)


class Calls:
    """A transport and how to use it."""

    def __init__(self, transport: Transport, options: Options) -> None:
        self.transport = transport
        self.options = options

    def replaced(self, **changes: Any) -> Calls:
        """Make calls with other options over the same transport."""
        return Calls(self.transport, dataclasses.replace(self.options, **changes))

    def call(self, request: Message, response: type[_Response], *, wait: float = 0.0) -> _Response:
        """Make a call; a mutation without a request id gets one.

        `wait` is time that the server was asked to take. Raises: MaitredError.
        """
        if method_of(type(request)).is_mutation:
            self._name(request)
        timeout = self.options.timeout
        return self.transport.unary(request, response, None if timeout is None else timeout + wait)

    def stream(
        self, request: Message, response: type[_Response], timeout: float | None = None
    ) -> Stream[_Response]:
        """Open a stream; it has no deadline unless one is given."""
        return self.transport.stream(request, response, timeout)

    def _name(self, request: Any) -> None:
        if not request.request_id:
            request.request_id = self.options.request_ids.next_for(request)
