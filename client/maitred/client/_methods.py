"""The rpcs of the contract, found by their request: every rpc has a request of its own."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
)


class Method(NamedTuple):
    """One rpc."""

    path: str
    is_mutation: bool
    """The request carries an id, so that it may be sent again."""


_FILES = (admin_pb2, conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2)
DESCRIPTORS: tuple[MethodDescriptor, ...] = tuple(
    method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
CALLS = tuple(
    (method.containing_service.full_name, method.name)
    for method in DESCRIPTORS
    if not method.server_streaming
)
"""Service and method of what has one answer."""
_METHODS = {
    method.input_type.full_name: Method(
        f"/{method.containing_service.full_name}/{method.name}",
        "request_id" in method.input_type.fields_by_name,
    )
    for method in DESCRIPTORS
}


def method_of(request: type[Message]) -> Method:
    """Find the rpc that takes such a request."""
    return _METHODS[request.DESCRIPTOR.full_name]
