"""What is known of each rpc before the first call, from the contract and from its handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from maitred.server.app.validation import SizedField, sized_fields
from maitred.server.app.visibility import Filter, filter_for
from maitred.server.telemetry import metrics
from maitred.v1 import common_pb2
from maitred.v1.common_pb2 import Role

NAMES_NO_SESSION: Final = frozenset(
    {
        "maitred.v1.AdminService/GetServerInfo",
        "maitred.v1.MenuService/GetMenu",
        "maitred.v1.MenuService/FindItems",
        "maitred.v1.MenuService/Recommend",
    }
)
"""What a VIEWER may call although the request names no session that it could be bound to."""


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
    bound: bool
    """The request names a session, which must be the VIEWER's."""
    filters: Mapping[int, Filter | None]
    handler: Any
    finished: dict[str, metrics.Counter]

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
    bound = "session_id" in rpc.input_type.fields_by_name
    if minimum_role == Role.ROLE_VIEWER and not bound and name not in NAMES_NO_SESSION:
        raise ContractError(f"{rpc.full_name} is open to viewers but names no session")
    return Method(
        name=name,
        minimum_role=minimum_role,
        parse=request_type.FromString,
        request_type=request_type,
        max_request_bytes=rules.max_request_bytes or DEFAULT_MAX_REQUEST_BYTES,
        sized=sized_fields(rpc.input_type),
        takes_request_id="request_id" in rpc.input_type.fields_by_name,
        bound=bound,
        filters={
            role: filter_for(rpc.output_type, response_type.FromString, role)
            for role in Role.values()
        },
        handler=handler,
        finished={"OK": metrics.CALLS.labels(name, "OK")},
    )
