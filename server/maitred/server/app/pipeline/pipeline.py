"""Everything that happens around a call: the one way from a caller's bytes to a handler and back.

A handler is `async def Method(request, call)`, or an async generator for a stream. The pipeline is
built from the descriptors of the contract and knows no transport. A transport makes a call in two
steps. `admit` decides, before there is a body, who calls and whether their quota allows it, so that
strangers cost little. Then `unary` turns the bytes of the request into the bytes of the response;
`stream` does the same for many responses. In both steps whatever goes wrong is a `WireError`.
A transport only has to know how bytes arrive and how an error is framed.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from maitred.server.app.pipeline import refusals, validation
from maitred.server.app.pipeline.auth import Authenticator, Authorization
from maitred.server.app.pipeline.methods import Method, describe, find
from maitred.server.app.pipeline.overtime import Overtime, until
from maitred.server.app.pipeline.quotas import Quotas
from maitred.server.app.pipeline.refusals import WireError
from maitred.server.app.pipeline.streams import Stream, serialise
from maitred.server.engine.call import Actor, Call
from maitred.server.errors import (
    DeadlineExceeded,
    MaitredError,
    MalformedRequest,
    PermissionDenied,
    RequestTooLarge,
    Violation,
)
from maitred.server.stores.base import StoreError
from maitred.server.telemetry import metrics
from maitred.server.telemetry.logging import CURRENT_CALL
from maitred.v1.common_pb2 import Binding

_log = structlog.get_logger(__name__)

_NO_REQUEST_ID: Final = Violation(
    "request_id",
    "request_id.required",
    "is required by this server, so that a retry cannot act twice",
)

_TRACE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Validate = Callable[[Message], list[Violation]]


class Caller(NamedTuple):
    """Who was let in with one call, before its body has come."""

    actor: Actor
    authorization: Authorization
    """What a stream is checked again by."""
    trace_id: str
    started: float
    """On the clock of `time.perf_counter`."""


class Unary(Protocol):
    """Answers the calls of one unary rpc."""

    def __call__(self, raw: bytes, caller: Caller, time_left: float | None) -> Awaitable[bytes]:
        """Turn a request into its answer; `time_left` is None without a deadline.

        Raises: WireError, and CancelledError where the caller went away.
        """


class Pipeline:
    """The handlers of all services, and what stands around every call of them."""

    def __init__(
        self,
        services: Mapping[ServiceDescriptor, Sequence[object]],
        authenticator: Authenticator,
        *,
        validate: Validate = validation.validate,
        unary_timeout_s: float = 0.0,
        require_request_id: bool = False,
        log_calls: bool = False,
        quotas: Quotas | None = None,
    ) -> None:
        """Find the handlers of all rpcs. A service may be composed of several objects.

        Raises: ContractError where an rpc has no handler, more than one, or no minimum role.
        """
        self.authenticator = authenticator
        self.quotas = quotas or Quotas(0, 0)
        self._validate = validate
        self._overtime = Overtime(unary_timeout_s) if unary_timeout_s else None
        self._require_request_id = require_request_id
        self._log_calls = log_calls
        self._trace_prefix = secrets.token_hex(6)
        self._trace_numbers = itertools.count(1)
        self.streams: set[Stream] = set()
        """Those that have not ended yet."""
        self.service_names = tuple(service.full_name for service in services)
        described = [
            describe(rpc, find(rpc, objects))
            for service, objects in services.items()
            for rpc in service.methods
        ]
        self.methods: dict[str, Method] = {each.name: each for each in described}
        """By full name: `maitred.v1.OrderService/AddItem`."""
        if validate is validation.validate:
            validation.compile_rules({each.request_type for each in described})

    # --- before the body -----------------------------------------------------------------------

    def admit(self, authorization: Authorization, trace_id: str | bytes = "") -> Caller:
        """Say who makes a call, and count it against their quota.

        `authorization` is every value under that name; `trace_id` is the caller's `x-request-id`.

        Raises: WireError.
        """
        try:
            actor = self.authenticator.authenticate(authorization)
            self.quotas.take(actor.name)
        except MaitredError as error:
            raise turned_away(error) from None
        if not isinstance(trace_id, str) or not _TRACE_ID.fullmatch(trace_id):
            trace_id = f"{self._trace_prefix}-{next(self._trace_numbers):x}"
        return Caller(actor, authorization, trace_id, time.perf_counter())

    # --- one call ------------------------------------------------------------------------------

    def begin(
        self, method: Method, caller: Caller, deadline: float | None, limit_s: float = 0
    ) -> Call:
        """Establish until when a call may take, and that its caller may make it.

        Raises: DeadlineExceeded, PermissionDenied.
        """
        if deadline is not None:
            if deadline <= time.monotonic():
                raise DeadlineExceeded("the deadline passed before the call was taken up")
        elif limit_s:
            deadline = time.monotonic() + limit_s
        actor = caller.actor
        call = Call(actor, method.name, deadline, caller.trace_id)
        CURRENT_CALL.set(call)
        if actor.role < method.minimum_role:
            call.require(method.minimum_role, method.name)
        return call

    def decode(self, method: Method, raw: bytes, actor: Actor) -> Message:
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
        if actor.bound_to:
            _check_binding(method, request, actor)
        # What the contract does not know would be stored, hashed and shown without any rule.
        request.DiscardUnknownFields()
        violations = validation.oversized(request, method.sized, size) or self._validate(request)
        if violations:
            raise validation.refusal(request, violations)
        if self._require_request_id and method.takes_request_id and not request.request_id:  # type: ignore[attr-defined]
            raise validation.refusal(request, [_NO_REQUEST_ID])
        return request

    def unary(self, method: Method, *, keeps_deadlines: bool = False) -> Unary:
        """Make what answers the calls of a unary rpc; once, because it is made for speed.

        A transport that cancels a call at its deadline by itself, as gRPC does, `keeps_deadlines`.
        """
        handler: Callable[[Any, Call], Awaitable[bytes | Message]] = method.handler
        filters, observe = method.filters, method.observe
        overtime = self._overtime
        limit_s = 0.0 if overtime is None else overtime.limit_s
        ok = method.finished["OK"]
        begin, decode = self.begin, self.decode
        monotonic, clock = time.monotonic, time.perf_counter

        async def run(raw: bytes, caller: Caller, time_left: float | None) -> bytes:
            deadline = None if time_left is None else monotonic() + time_left
            try:
                call = begin(method, caller, deadline, limit_s)
                request = decode(method, raw, call.actor)
                if deadline is None:
                    work = handler(request, call)
                    response = await (work if overtime is None else overtime.bound(work))
                elif keeps_deadlines:
                    response = await handler(request, call)
                else:
                    response = await until(deadline, handler(request, call))
                data = response if type(response) is bytes else serialise(response)
                hide = filters.get(call.actor.role)
                if hide is not None:
                    data = hide(data)
            except BaseException as error:  # noqa: BLE001  it is told, or raised again
                late = deadline is not None and monotonic() >= deadline
                raise self.failure(method, caller, error, late=late) from None
            ok.value += 1
            seconds = clock() - caller.started
            observe(seconds)
            if self._log_calls:
                _log.debug("call", status="OK", seconds=round(seconds, 6))
            return data

        return run

    def stream(self, method: Method, caller: Caller, *, keeps_deadlines: bool = False) -> Stream:
        """Make a stream of a streaming rpc."""
        return Stream(self, method, caller, keeps_deadlines=keeps_deadlines)

    def failure(
        self, method: Method, caller: Caller, error: BaseException, *, late: bool = False
    ) -> WireError:
        """Count a call that did not succeed, and say what its caller is told.

        A transport asks when a body does not come. `late` says that the call's deadline has passed.

        Raises: the error itself where nobody is there to be told, such as CancelledError.
        """
        method.observe(time.perf_counter() - caller.started)
        match error:
            case MaitredError():
                told = error
            case asyncio.CancelledError() if _is_cancelling():
                method.count("DEADLINE_EXCEEDED" if late else "CANCELLED")
                # Swallowed, it would leave the transport's task running.
                raise error
            case Exception() | asyncio.CancelledError():
                # A CancelledError that nobody sent to this call is a handler's failure like any
                # other; let through, it would leave the caller waiting until its deadline.
                told = (refusals.from_store(error) if isinstance(error, StoreError) else None) or (
                    _incident(error)
                )
            case _:
                raise error
        sent = refusals.to_wire(told)
        method.count(sent.status)
        if self._log_calls:
            _log.debug("call", status=sent.status, reason=sent.reason)
        return sent

    # --- the end of the server -----------------------------------------------------------------

    async def streams_ended(self, timeout_s: float) -> None:
        """Wait until every stream has ended, at most so long."""
        tasks = {each.task for each in self.streams if each.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def end_streams(self) -> None:
        """End every stream with SHUTTING_DOWN, so that its client resumes elsewhere."""
        for each in list(self.streams):
            each.end()


def turned_away(error: MaitredError) -> WireError:
    """Count a call that was refused before its body came, and say what its caller is told."""
    metrics.CALLS_REFUSED.labels(error.reason_name.lower()).inc()
    return refusals.to_wire(error)


def _check_binding(method: Method, request: Message, actor: Actor) -> None:
    """Hold a bound token to what it is bound to.

    Raises: PermissionDenied.
    """
    field = method.bindings.get(actor.binding)
    if field is None:
        if not method.open_to_bound:
            raise PermissionDenied("the token is bound, and the request names nothing of its kind")
    elif getattr(request, field) != actor.bound_to:
        kind = Binding.Name(actor.binding).removeprefix("BINDING_").lower()
        raise PermissionDenied(f"the token is bound to another {kind}")


def _incident(error: BaseException) -> MaitredError:
    incident_id = secrets.token_hex(8)
    _log.error("call failed", incident_id=incident_id, exc_info=error)
    return refusals.internal(incident_id)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
