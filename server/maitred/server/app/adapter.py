"""The gRPC adapter: serves plain handlers, and does around each what all of them need.

A handler is `async def Method(request, call)`, for a stream an async generator. The adapter is made
from the descriptors of the contract. Each method is wrapped once, so that a call costs a few
microseconds beside its handler: deadline, authentication, role, decoding, field rules, errors,
visibility, metrics and the context of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from maitred.server.app import errors as wire
from maitred.server.app import validation
from maitred.server.app.auth import Authenticator
from maitred.server.app.door import ACTOR, BODY_S, Bodies, Door, Quotas
from maitred.server.app.methods import Method, describe, find
from maitred.server.app.overtime import Overtime
from maitred.server.engine.call import Actor, Call
from maitred.server.errors import (
    DeadlineExceeded,
    MaitredError,
    MalformedRequest,
    PermissionDenied,
    RequestTooLarge,
    ShuttingDown,
    Unauthenticated,
    Violation,
)
from maitred.server.stores.base import StoreError
from maitred.server.telemetry import metrics
from maitred.server.telemetry.logging import CURRENT_CALL

_log = structlog.get_logger(__name__)

_RECHECK_S: Final = 5.0
"""How long a stream outlives the token that opened it."""

_NO_REQUEST_ID: Final = Violation(
    "request_id",
    "request_id.required",
    "is required by this server, so that a retry cannot act twice",
)

_TRACE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Unary = Callable[[Any, Call], Awaitable[bytes | Message]]
Stream = Callable[[Any, Call], AsyncIterator[bytes | Message]]
Validate = Callable[[Message], list[Violation]]
Context = Any
"""A grpc.aio.ServicerContext; its stubs lack what is used of it."""


class GrpcAdapter:
    """Registers handlers with grpc.aio and stands around every call."""

    def __init__(
        self,
        services: Mapping[ServiceDescriptor, Sequence[object]],
        authenticator: Authenticator,
        *,
        validate: Validate = validation.validate,
        unary_timeout_s: float = 0.0,
        require_request_id: bool = False,
        log_calls: bool = False,
        bodies: Bodies | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """Wrap the handlers of all rpcs. A service may be composed of several objects.

        Raises: ContractError where an rpc has no handler, more than one, or no minimum role.
        """
        self._authenticator = authenticator
        self._validate = validate
        self._overtime = Overtime(unary_timeout_s) if unary_timeout_s else None
        self._require_request_id = require_request_id
        self._log_calls = log_calls
        self._bodies = bodies or Bodies(BODY_S)
        self._quotas = quotas or Quotas(0, 0)
        self._trace_prefix = secrets.token_hex(6)
        self._trace_numbers = itertools.count(1)
        self._streams: set[asyncio.Task[Any]] = set()
        self._starting: set[asyncio.Task[Any]] = set()
        """Streams whose first message is being sent. Cancelled just then, gRPC would send the
        headers twice and the status never."""
        self._ending: set[asyncio.Task[Any]] = set()
        self.methods: dict[str, Method] = {}
        handlers = {
            f"/{service.full_name}/{each.name}": self._register(each, objects)
            for service, objects in services.items()
            for each in service.methods
        }
        self._doors = (Door(handlers, authenticator, self._quotas, self._bodies),)
        self.service_names = tuple(service.full_name for service in services)
        if validate is validation.validate:
            validation.compile_rules({each.request_type for each in self.methods.values()})

    @property
    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What to add to a grpc.aio server."""
        return self._doors

    def _register(
        self, rpc: MethodDescriptor, objects: Sequence[object]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = describe(rpc, find(rpc, objects))
        self.methods[method.name] = method
        # Without a deserializer the raw bytes arrive here, so that those which are no message of
        # the type are told apart from a failure, and only after the caller is known.
        if rpc.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.stream_unary_rpc_method_handler(self._unary(method))

    # --- one call ------------------------------------------------------------------------------

    def _begin(self, method: Method, context: Context, limit_s: float = 0) -> Call:
        """Establish until when a call may take and what its caller, whom the door let in, may do.

        Raises: DeadlineExceeded, PermissionDenied.
        """
        remaining = context.time_remaining()
        deadline = None
        if remaining is not None:
            if remaining <= 0:
                raise DeadlineExceeded("the deadline passed before the call was taken up")
            deadline = time.monotonic() + remaining
        elif limit_s:
            deadline = time.monotonic() + limit_s
        actor = ACTOR.get()
        call = Call(actor, method.name, deadline, self._trace_id(context.invocation_metadata()))
        CURRENT_CALL.set(call)
        if actor.role < method.minimum_role:
            call.require(method.minimum_role, method.name)
        return call

    def _trace_id(self, metadata: Sequence[tuple[str, str | bytes]]) -> str:
        for key, value in metadata:
            if key == "x-request-id" and isinstance(value, str) and _TRACE_ID.fullmatch(value):
                return value
        return f"{self._trace_prefix}-{next(self._trace_numbers):x}"

    def _decode(self, method: Method, raw: bytes, actor: Actor) -> Message:
        """Turn bytes into a valid request that the caller may make.

        Whatever takes time in proportion to what was sent comes after a bound on it.

        Raises: RequestTooLarge, MalformedRequest, PermissionDenied, InvalidField.
        """
        size = len(raw)
        if size > method.max_request_bytes:
            raise RequestTooLarge(
                f"the request takes {size} bytes; {method.name} accepts {method.max_request_bytes}",
                metadata={"limit": str(method.max_request_bytes), "size": str(size)},
            )
        try:
            request = method.parse(raw)
        except DecodeError:
            raise MalformedRequest(
                f"the request is not a {method.request_type.DESCRIPTOR.full_name}"
            ) from None
        if actor.session_id and method.bound and request.session_id != actor.session_id:  # type: ignore[attr-defined]
            raise PermissionDenied("the token is bound to another session")
        # What the contract does not know would be stored, hashed and shown without any rule.
        request.DiscardUnknownFields()
        violations = validation.oversized(request, method.sized, size) or self._validate(request)
        if violations:
            raise validation.refusal(request, violations)
        if self._require_request_id and method.takes_request_id and not request.request_id:  # type: ignore[attr-defined]
            raise validation.refusal(request, [_NO_REQUEST_ID])
        return request

    def _unary(self, method: Method) -> Callable[[object, Context], Awaitable[bytes]]:
        handler: Unary = method.handler
        filters = method.filters
        overtime = self._overtime
        limit_s = 0.0 if overtime is None else overtime.limit_s
        observe = metrics.CALL_SECONDS.labels(method.name).observe
        ok = method.finished["OK"]
        clock = time.perf_counter
        read = self._bodies.read

        async def unary(_: object, context: Context) -> bytes:
            started = clock()
            try:
                raw = await read(context)
                call = self._begin(method, context, limit_s)
                request = self._decode(method, raw, call.actor)
                if overtime is None or context.time_remaining() is not None:
                    response = await handler(request, call)
                else:
                    response = await overtime.bound(handler(request, call))
                data = response if type(response) is bytes else _serialise(response)
                hide = filters.get(call.actor.role)
                if hide is not None:
                    data = hide(data)
            except BaseException as error:
                observe(clock() - started)
                await self._fail(method, error, context)
                raise AssertionError("an abort does not return") from error
            ok.value += 1
            observe(clock() - started)
            if self._log_calls:
                _log.debug("call", status="OK", seconds=round(clock() - started, 6))
            return data

        return unary

    def _stream(self, method: Method) -> Callable[[object, Context], Awaitable[None]]:
        handler: Stream = method.handler
        is_open = metrics.STREAMS_OPEN.labels(method.name)
        sent = metrics.STREAM_MESSAGES.labels(method.name)
        recheck = not self._authenticator.is_open

        async def stream(_: object, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._streams.add(task)
            is_open.inc()
            started = False
            counted = ""
            try:
                raw = await self._bodies.read(context)
                call = self._begin(method, context)
                counted = self._quotas.open_stream(call.actor.name)
                request = self._decode(method, raw, call.actor)
                hide = method.filters.get(call.actor.role)
                recheck_at = time.monotonic() + _RECHECK_S
                messages: Any = handler(request, call)
                async with contextlib.aclosing(messages):
                    async for message in messages:
                        data = message if type(message) is bytes else _serialise(message)
                        if hide is not None:
                            data = hide(data)
                        if recheck and time.monotonic() >= recheck_at:
                            self._check_again(call.actor, context)
                            recheck_at = time.monotonic() + _RECHECK_S
                        if started:
                            await context.write(data)
                        else:
                            self._starting.add(task)
                            await context.write(data)
                            self._starting.discard(task)
                            started = True
                        sent.value += 1
                        if task in self._ending:
                            raise _going_down()  # noqa: TRY301  the status is sent in one place
            except BaseException as error:
                # From here on the status is being sent, which `end_streams` must not interrupt.
                self._streams.discard(task)
                await self._fail(method, self._told_to_end(task, error), context)
                raise AssertionError("an abort does not return") from error
            finally:
                self._streams.discard(task)
                self._starting.discard(task)
                self._ending.discard(task)
                self._quotas.close_stream(counted)
                is_open.dec()
            method.count("OK")

        return stream

    def _check_again(self, actor: Actor, context: Context) -> None:
        """End a stream whose token was withdrawn or has expired.

        Raises: Unauthenticated.
        """
        if self._authenticator.authenticate(context.invocation_metadata()) != actor:
            raise Unauthenticated("what the token allows has changed; connect again")

    async def _fail(self, method: Method, error: BaseException, context: Context) -> None:
        """End a call that did not succeed; never returns normally."""
        match error:
            case MaitredError():
                told = error
            case grpc.aio.AbortError():
                code = context.code()
                method.count(code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN")
                raise error
            case asyncio.CancelledError() if _is_cancelling():
                remaining = context.time_remaining()
                passed = remaining is not None and remaining <= 0
                method.count("DEADLINE_EXCEEDED" if passed else "CANCELLED")
                # Swallowed, it would leak native memory.
                raise error
            case Exception() | asyncio.CancelledError():
                # A CancelledError that nobody sent to this call is a handler's failure like any
                # other; let through, it would leave the caller waiting until its deadline.
                told = (wire.from_store(error) if isinstance(error, StoreError) else None) or (
                    self._incident(error)
                )
            case _:
                raise error
        sent = wire.to_wire(told)
        method.count(sent.code.name)
        if self._log_calls:
            _log.debug("call", status=sent.code.name, reason=told.reason_name)
        await context.abort(sent.code, sent.message, sent.trailing_metadata)

    def _incident(self, error: BaseException) -> MaitredError:
        incident_id = secrets.token_hex(8)
        _log.error("call failed", incident_id=incident_id, exc_info=error)
        return wire.internal(incident_id)

    # --- the end of the server -----------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """How many streams have not ended yet."""
        return len(self._streams)

    async def streams_ended(self, timeout_s: float) -> None:
        """Wait until every stream has ended, at most so long."""
        if self._streams:
            await asyncio.wait(tuple(self._streams), timeout=timeout_s)

    def end_streams(self) -> None:
        """End every stream with SHUTTING_DOWN, so that its client resumes elsewhere."""
        for task in list(self._streams):
            self._ending.add(task)
            if task not in self._starting:
                task.cancel()

    def _told_to_end(self, task: asyncio.Task[Any], error: BaseException) -> BaseException:
        if isinstance(error, asyncio.CancelledError) and task in self._ending:
            self._ending.discard(task)
            if task.uncancel() == 0:
                return _going_down()
        return error


def _going_down() -> ShuttingDown:
    return ShuttingDown("the server is going down; resume elsewhere or later")


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _serialise(message: bytes | Message) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
