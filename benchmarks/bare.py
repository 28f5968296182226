"""The bare servers that maitred is measured against: grpc.aio with nothing behind it.

`/bench.Bare/Echo<N>` takes any bytes and answers N constant ones. `/bench.Bare/Watch<N>` streams N
bytes at once and then whatever `/bench.Bare/Publish<N>` hands out, to all streams alike.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from maitred.server.app.listening import channel_options
from maitred.server.config import Settings

Context = Any
SERVICE = "/bench.Bare/"


class Bare(grpc.GenericRpcHandler):
    """Makes the handler of a method from its name, once."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._watchers: set[asyncio.Queue[bytes]] = set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a call."""
        path: str = handler_call_details.method  # type: ignore[attr-defined, unused-ignore]
        found = self._made.get(path)
        if found is None and path.startswith(SERVICE):
            found = self._made[path] = self._make(path.removeprefix(SERVICE))
        return found

    def _make(self, name: str) -> Any:
        kind = name.rstrip("0123456789")
        payload = os.urandom(int(name.removeprefix(kind)))
        match kind:
            case "Echo":
                return grpc.unary_unary_rpc_method_handler(echo(payload))
            case "Publish":
                return grpc.unary_unary_rpc_method_handler(self._publish(payload))
            case "Watch":
                return grpc.unary_stream_rpc_method_handler(self._watch(payload))
        return None

    def _publish(self, payload: bytes) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def publish(_request: bytes, _context: Context) -> bytes:
            for queue in self._watchers:
                queue.put_nowait(payload)
            return payload

        return publish

    def _watch(self, payload: bytes) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        async def watch(_request: bytes, _context: Context) -> AsyncIterator[bytes]:
            queue: asyncio.Queue[bytes] = asyncio.Queue()
            self._watchers.add(queue)
            try:
                yield payload
                while True:
                    yield await queue.get()
            finally:
                self._watchers.discard(queue)

        return watch


def echo(payload: bytes) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """Make a handler that answers with constant bytes."""

    async def answer(_request: bytes, _context: Context) -> bytes:
        return payload

    return answer


async def run(handler: grpc.GenericRpcHandler) -> None:
    """Serve on a free port, which is printed, with the channel options of maitred."""
    server = grpc.aio.server(options=channel_options(Settings()))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told.set)
    await server.start()
    print(port, flush=True)
    await told.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(run(Bare()))
