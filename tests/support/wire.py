"""Calls by name over a real connection, and everything that a failed one says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from maitred.server.app.server import Server
from maitred.server.testing.servers import running_server
from maitred.v1 import (
    admin_pb2,
    common_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
)

FILES = (admin_pb2, conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2)

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every rpc of the contract, by `Service/Method`."""

MUTATIONS: dict[str, MethodDescriptor] = {
    name: method
    for name, method in METHODS.items()
    if "request_id" in method.input_type.fields_by_name
}
"""Every rpc that changes something: those that a request id makes safe to repeat."""

STATUS_OF: dict[str, str] = {
    value.name.removeprefix("ERROR_REASON_"): str(
        value.GetOptions().Extensions[common_pb2.reason].status
    )
    for value in common_pb2.ErrorReason.DESCRIPTOR.values
}
"""The contract's table: the gRPC status of every reason."""

METADATA_OF: dict[str, frozenset[str]] = {
    value.name.removeprefix("ERROR_REASON_"): frozenset(
        value.GetOptions().Extensions[common_pb2.reason].metadata
    )
    for value in common_pb2.ErrorReason.DESCRIPTOR.values
}
"""The contract's other table: the keys of metadata that a reason may carry."""


class Failure(NamedTuple):
    """What a failed call said."""

    status: str
    reason: str
    message: str
    metadata: dict[str, str]
    fields: tuple[str, ...]
    """Of the field violations."""


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """Read a failure with its details."""
    details: list[Any] = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            details += status_pb2.Status.FromString(value).details
    return read_details(error.code().name, error.details() or "", details)


def read_details(status: str, message: str, details: Iterable[Any]) -> Failure:
    """Read what a refusal says, however it came."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in details:
        detail.Unpack(info)
        detail.Unpack(bad)
    strangers = info.metadata.keys() - METADATA_OF.get(info.reason, frozenset())
    assert not strangers, f"the contract names no {sorted(strangers)} for {info.reason}"
    return Failure(
        status,
        info.reason,
        message,
        dict(info.metadata),
        tuple(violation.field for violation in bad.field_violations),
    )


class Wire:
    """Calls rpcs of the contract by name, with messages or with raw bytes."""

    def __init__(self, channel: grpc.aio.Channel, token: str = "") -> None:
        self.channel = channel
        self.token = token
        self._stubs: dict[str, Any] = {}

    def call(
        self,
        rpc: str,
        request: Message | bytes,
        *,
        token: str | None = None,
        timeout: float | None = 30.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """Start a call; it can be awaited, read or cancelled."""
        stub = self._stubs.get(rpc)
        if stub is None:
            found = METHODS[rpc]
            kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
            stub = self._stubs[rpc] = kind(
                f"/{found.containing_service.full_name}/{found.name}",
                request_serializer=_bytes_of,
                response_deserializer=GetMessageClass(found.output_type).FromString,
            )
        token = self.token if token is None else token
        if token:
            metadata = (*metadata, ("authorization", f"Bearer {token}"))
        return stub(request, timeout=timeout, metadata=metadata)

    async def __call__(self, rpc: str, request: Message | bytes, **options: Any) -> Any:
        """Make a call and answer its response; of a stream, the first message."""
        call = self.call(rpc, request, **options)
        if not METHODS[rpc].server_streaming:
            return await call
        try:
            first = await call.read()
        finally:
            call.cancel()
        assert first is not grpc.aio.EOF
        return first

    async def outcome(self, rpc: str, request: Message | bytes, **options: Any) -> Any:
        """Make a call and answer its response, or its failure."""
        try:
            return await self(rpc, request, **options)
        except grpc.aio.AioRpcError as error:
            return failure_of(error)

    async def fails(self, rpc: str, request: Message | bytes, **options: Any) -> Failure:
        """Make a call that fails, and answer how."""
        found = await self.outcome(rpc, request, **options)
        assert isinstance(found, Failure), f"{rpc} succeeded"
        return found


@asynccontextmanager
async def wired(**options: Any) -> AsyncIterator[tuple[Server, Wire]]:
    """Run a server with these options of `running_server`, and connect to it."""
    async with (
        running_server(**options) as server,
        grpc.aio.insecure_channel(
            server.address, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        yield server, Wire(channel)


def _bytes_of(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
