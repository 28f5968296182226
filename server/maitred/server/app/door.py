"""The door: what is asked of a call before its body comes, so that strangers cost little.

gRPC asks for a handler as soon as the head of a call is there. That is where the caller is told
apart and held to a quota; a call that fails there is refused at once. Handlers are registered as if
they took many requests: only those are called before the first one, and can end a call whose body
does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc

from maitred.server.app import errors as wire
from maitred.server.app.auth import Authenticator
from maitred.server.engine.buckets import Buckets
from maitred.server.engine.call import Actor
from maitred.server.errors import DeadlineExceeded, MaitredError, MalformedRequest, RateLimited
from maitred.server.telemetry import metrics

MAX_BODILESS: Final = 16_384
"""Calls that wait for their bodies at once; a burst of honest ones passes within milliseconds."""

BODY_S: Final = 10.0
"""How long a body may take after its head, where nothing else is set."""

BURST_S: Final = 2.0
"""So many seconds' worth of calls may come at once."""

CHECKS: Final = 10
"""How often a call that waits for its body is looked at; it ends that much late."""

ACTOR: Final[ContextVar[Actor]] = ContextVar("maitred_actor")
"""Who was let in, for the handler: it runs in the same task."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

if TYPE_CHECKING:
    _Generic: TypeAlias = grpc.GenericRpcHandler
else:
    _Generic = grpc.GenericRpcHandler


class Quotas:
    """How much each caller by name may ask for: calls in a second, and streams at once."""

    def __init__(self, calls_per_s: float, streams: int) -> None:
        """Take the limits; 0 is none."""
        self._rate = calls_per_s
        self._buckets = Buckets(calls_per_s, calls_per_s * BURST_S)
        self._streams = streams
        self._open: Counter[str] = Counter()

    def take(self, name: str) -> None:
        """Count one call.

        Raises: RateLimited.
        """
        if not self._rate:
            return
        wait_s = self._buckets.take(name)
        if wait_s:
            raise RateLimited(
                f"{name} makes more than {self._rate:g} calls a second", retry_after_s=wait_s
            )

    def open_stream(self, name: str) -> str:
        """Count a stream; answers what to close it by.

        Raises: RateLimited.
        """
        if self._streams and self._open[name] >= self._streams:
            raise RateLimited(
                f"{name} has {self._streams} streams open, and may have no more", retry_after_s=1.0
            )
        self._open[name] += 1
        return name

    def close_stream(self, name: str) -> None:
        """Count it no more; for an empty name, which none was counted under, nothing."""
        if name:
            self._open[name] -= 1


class Places:
    """Streams that need no token: so many in all, and from one address a quarter of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        self._total = 0

    @contextlib.contextmanager
    def take(self, peer: str) -> Iterator[bool]:
        """Hold a place while a stream is open; answers whether there was one."""
        address = peer.rpartition(":")[0] or peer
        if self._total >= self._most or self._taken[address] >= self._most // 4:
            metrics.CALLS_REFUSED.labels("no_place").inc()
            yield False
            return
        self._total += 1
        self._taken[address] += 1
        try:
            yield True
        finally:
            self._total -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]


class Bodies:
    """Ends calls whose bodies do not come."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self) -> None:
        """The head of this task's call has come."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._waiting[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s / CHECKS, self._look, loop)

    async def read(self, context: Any) -> Any:
        """Answer the request of this task's call, once it has come.

        Raises: DeadlineExceeded, MalformedRequest.
        """
        task = asyncio.current_task()
        assert task is not None
        try:
            request = await context.read()
        except asyncio.CancelledError:
            if task not in self._late or task.uncancel():
                raise
            raise DeadlineExceeded(
                f"the request did not come within {self._limit_s:g} s after its head"
            ) from None
        finally:
            self._waiting.pop(task, None)
            self._late.discard(task)
        if request is grpc.aio.EOF:
            raise MalformedRequest("the call ended without a request")
        return request

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        latest = loop.time() - self._limit_s
        for task, began in list(self._waiting.items()):
            if task.done():
                # Its caller went away meanwhile.
                del self._waiting[task]
            elif began <= latest:
                del self._waiting[task]
                self._late.add(task)
                metrics.CALLS_REFUSED.labels("no_body").inc()
                task.cancel()
        if self._waiting:
            self._timer = loop.call_later(self._limit_s / CHECKS, self._look, loop)


class Door(_Generic):
    """Finds the handler of a call, for a caller who may make it."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        authenticator: Authenticator,
        quotas: Quotas,
        bodies: Bodies,
    ) -> None:
        """Take handlers by the path of their rpc."""
        self._handlers = handlers
        self._authenticate = authenticator.authenticate
        self._quotas = quotas
        self._bodies = bodies

    def service(self, handler_call_details: Any) -> Handler | None:
        """Answer the handler; called by gRPC in the task of the call."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            return None
        try:
            actor = self._authenticate(handler_call_details.invocation_metadata)
            self._quotas.take(actor.name)
            if len(self._bodies) >= MAX_BODILESS:
                raise RateLimited("too many calls wait for their bodies", retry_after_s=1.0)
        except MaitredError as error:
            metrics.CALLS_REFUSED.labels(error.reason_name.lower()).inc()
            return refusing(error)
        ACTOR.set(actor)
        self._bodies.expect()
        return handler


def refusing(error: MaitredError) -> Handler:
    """Make a handler that refuses a call without waiting for its body."""

    async def answer(_: object, context: Any) -> None:
        await refuse(error, context)

    return grpc.stream_stream_rpc_method_handler(answer)


async def refuse(error: MaitredError, context: Any) -> None:
    """End a call with an error; never returns normally."""
    sent = wire.to_wire(error)
    await context.abort(sent.code, sent.message, sent.trailing_metadata)


class OpenDoor(_Generic):
    """Finds the handler of a call that needs no token: health."""

    def __init__(self, service: grpc.GenericRpcHandler, bodies: Bodies) -> None:
        """Take a service, which reads its requests by `bodies`."""
        self._service = service
        self._bodies = bodies

    def service(self, handler_call_details: Any) -> Handler | None:
        """Answer the handler; called by gRPC in the task of the call."""
        found = self._service.service(handler_call_details)
        if found is None:
            return None
        if len(self._bodies) >= MAX_BODILESS:
            return refusing(RateLimited("too many calls wait for their bodies", retry_after_s=1.0))
        self._bodies.expect()
        return found
