"""What is known of each rpc before the first call, from the contract and from its handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from maitred.server.app.pipeline.validation import SizedField, sized_fields
from maitred.server.app.pipeline.visibility import Filter, filter_for
from maitred.server.telemetry import metrics
from maitred.v1 import common_pb2
from maitred.v1.common_pb2 import Binding, Role

DEFAULT_MAX_REQUEST_BYTES: Final = 16 * 1024
"""Most bytes of a request whose rpc sets no other bound in the contract."""


class ContractError(Exception):
    """The handlers do not fit the contract; the server does not start."""


@dataclass(slots=True)
class Method:
    """One rpc with everything about it that does not change from call to call."""

    name: str
    minimum_role: Role.ValueType
    parse: Callable[[bytes], Message]
    request_type: type[Message]
    max_request_bytes: int
    sized: tuple[SizedField, ...]
    """Fields whose messages have no rules of their own, and how large those may be."""
    takes_request_id: bool
    """It changes something, so that a retry has to say that it is one."""
    bindings: Mapping[Binding.ValueType, str]
    """Which field of the request names the thing of a kind that a token may be bound to."""
    open_to_bound: bool
    """A bound token may make the call although the request names nothing of its kind."""
    filters: Mapping[int, Filter | None]
    handler: Any
    streaming: bool
    finished: dict[str, metrics.Counter]
    observe: Callable[[float], None]
    """Record how many seconds a unary call took."""

    def count(self, status: str) -> None:
        """Count a finished call."""
        counter = self.finished.get(status)
        if counter is None:
            counter = self.finished[status] = metrics.CALLS.labels(self.name, status)
        counter.value += 1


def find(rpc: MethodDescriptor, objects: Sequence[object]) -> Any:
    """Find the one handler of an rpc.

    Raises: ContractError.
    """
    found = [getattr(each, rpc.name) for each in objects if hasattr(each, rpc.name)]
    if len(found) != 1:
        raise ContractError(f"{rpc.full_name} has {len(found) or 'no'} handler(s), not one")
    fits = inspect.isasyncgenfunction if rpc.server_streaming else inspect.iscoroutinefunction
    if rpc.client_streaming or not fits(found[0]):
        kind = "an async generator" if rpc.server_streaming else "an async function"
        raise ContractError(f"the handler of {rpc.full_name} is not {kind}")
    return found[0]


def describe(rpc: MethodDescriptor, handler: Any) -> Method:
    """Read everything about an rpc from the contract.

    Raises: ContractError.
    """
    rules = rpc.GetOptions().Extensions[common_pb2.method]
    minimum_role = rules.minimum_role
    if minimum_role == Role.ROLE_UNSPECIFIED:
        raise ContractError(f"{rpc.full_name} has no minimum_role")
    name = f"{rpc.containing_service.full_name}/{rpc.name}"
    request_type = GetMessageClass(rpc.input_type)
    response_type = GetMessageClass(rpc.output_type)
    bindings = _bindings(rpc.input_type)
    if minimum_role == Role.ROLE_VIEWER and not bindings and not rules.open_to_bound:
        raise ContractError(
            f"{rpc.full_name} is open to viewers, so a field of its request must have a binding, "
            "or the rpc must be open_to_bound"
        )
    return Method(
        name=name,
        minimum_role=minimum_role,
        parse=request_type.FromString,
        request_type=request_type,
        max_request_bytes=rules.max_request_bytes or DEFAULT_MAX_REQUEST_BYTES,
        sized=sized_fields(rpc.input_type),
        takes_request_id="request_id" in rpc.input_type.fields_by_name,
        bindings=bindings,
        open_to_bound=rules.open_to_bound,
        filters={
            role: filter_for(rpc.output_type, response_type.FromString, role)
            for role in Role.values()
        },
        handler=handler,
        streaming=rpc.server_streaming,
        finished={"OK": metrics.CALLS.labels(name, "OK")},
        observe=_discard if rpc.server_streaming else metrics.CALL_SECONDS.labels(name).observe,
    )


def _bindings(request: Descriptor) -> dict[Binding.ValueType, str]:
    """Find the fields that name what a token may be bound to.

    Raises: ContractError.
    """
    found: dict[Binding.ValueType, str] = {}
    for each in request.fields:
        binding = each.GetOptions().Extensions[common_pb2.field].binding
        if not binding:
            continue
        if each.type != FieldDescriptor.TYPE_STRING or each.is_repeated or binding in found:
            raise ContractError(
                f"{each.full_name} has a binding, so it must be one string, "
                "and the only one of its kind in the request"
            )
        found[binding] = each.name
    return found


def _discard(_: float) -> None:
    """Record nothing: how long a stream lasts says nothing about the server."""
