"""The door of gRPC: what is asked of a call before its body comes, so that strangers cost little.

gRPC asks for a handler as soon as the head of a call is there. That is where the pipeline is asked
who calls; a call that fails there is refused at once. Handlers are registered as if they took many
requests: only those are called before the first one, and can end a call whose body does not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import grpc

from maitred.server.app.pipeline.pipeline import Caller, Pipeline, turned_away
from maitred.server.app.pipeline.refusals import WireError, to_wire
from maitred.server.errors import DeadlineExceeded, MalformedRequest, RateLimited
from maitred.server.telemetry import metrics

MAX_BODILESS: Final = 16_384
"""Calls that wait for their bodies at once; a burst of honest ones passes within milliseconds."""

BODY_S: Final = 10.0
"""How long a body may take after its head, where nothing else is set."""

CHECKS: Final = 10
"""How often a call that waits for its body is looked at; it ends that much late."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailer that carries a `google.rpc.Status`."""

CALLER: Final[ContextVar[Caller]] = ContextVar("maitred_caller")
"""Who was let in, for the handler: it runs in the same task."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

Context = Any
"""A grpc.aio.ServicerContext; its stubs lack what is used of it."""

if TYPE_CHECKING:
    _Generic: TypeAlias = grpc.GenericRpcHandler
else:
    _Generic = grpc.GenericRpcHandler


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

    def __init__(self, handlers: Mapping[str, Handler], pipeline: Pipeline, bodies: Bodies) -> None:
        """Take handlers by the path of their rpc."""
        self._handlers = handlers
        self._admit = pipeline.admit
        self._bodies = bodies

    def service(self, handler_call_details: Any) -> Handler | None:
        """Answer the handler; called by gRPC in the task of the call."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            return None
        authorization: tuple[str | bytes, ...] = ()
        trace_id: str | bytes = ""
        for key, value in handler_call_details.invocation_metadata:
            if key == "authorization":
                authorization += (value,)
            elif key == "x-request-id":
                trace_id = trace_id or value
        try:
            caller = self._admit(authorization, trace_id)
        except WireError as error:
            return refusing(error)
        if len(self._bodies) >= MAX_BODILESS:
            return refusing(turned_away(_too_many()))
        CALLER.set(caller)
        self._bodies.expect()
        return handler


def _too_many() -> RateLimited:
    return RateLimited("too many calls wait for their bodies", retry_after_s=1.0)


def refusing(error: WireError) -> Handler:
    """Make a handler that refuses a call without waiting for its body."""

    async def answer(_: object, context: Context) -> None:
        await abort(error, context)

    return grpc.stream_stream_rpc_method_handler(answer)


_CODES: Final = {code.name: code for code in grpc.StatusCode}


async def abort(error: WireError, context: Context) -> NoReturn:
    """End a call with an error."""
    trailers = ((DETAILS_KEY, error.proto.SerializeToString()),)
    await context.abort(_CODES[error.status], error.proto.message, trailers)
    raise AssertionError("an abort does not return")


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
            return refusing(to_wire(_too_many()))
        self._bodies.expect()
        return found
