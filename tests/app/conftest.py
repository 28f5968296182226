"""Adapters around tiny handlers, served for real."""

from __future__ import annotations

import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from maitred.server.app.grpc_adapter import GrpcAdapter
from maitred.server.app.listening import channel_options
from maitred.server.app.pipeline.auth import Authenticator, add_token
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.config import Settings
from maitred.server.telemetry import logging
from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    menu_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
)
from maitred.v1.common_pb2 import Role

FILES = (admin_pb2, conversation_pb2, menu_pb2, order_pb2, payment_pb2, session_pb2)
ADD_ITEM = "OrderService/AddItem"


@pytest.fixture(autouse=True)
def log() -> io.StringIO:
    """The server's log, as JSON lines."""
    stream = io.StringIO()
    logging.configure("json", "info", stream)
    return stream


class Failure(NamedTuple):
    """What a failed call said."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: list[tuple[str, str]]
    retry_after_s: float | None
    details_bytes: int


def read_failure(error: grpc.aio.AioRpcError) -> Failure:
    """Read a failure with its details."""
    trailing = dict(error.trailing_metadata() or ())
    data = trailing.get("grpc-status-details-bin", b"")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, retry_after_s = error_details_pb2.RetryInfo(), None
    for detail in status_pb2.Status.FromString(data).details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return Failure(
        error.code(),
        error.details() or "",
        info.reason,
        dict(info.metadata),
        [(each.field, each.reason) for each in bad.field_violations],
        retry_after_s,
        len(data),
    )


class Caller:
    """Calls rpcs of the contract by name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def _call(self, rpc: str, kind: str) -> Any:
        service, _, name = rpc.partition("/")
        found = next(
            file.DESCRIPTOR.services_by_name[service].methods_by_name[name]
            for file in FILES
            if service in file.DESCRIPTOR.services_by_name
        )
        return getattr(self.channel, kind)(
            f"/maitred.v1.{rpc}",
            lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
            GetMessageClass(found.output_type).FromString,
        )

    async def __call__(
        self, rpc: str, request: Message | bytes, token: str = "", timeout: float = 10
    ) -> Any:
        """Make one call."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        call = self._call(rpc, "unary_unary")
        return await call(request, timeout=timeout, metadata=metadata)

    def stream(self, rpc: str, request: Message | bytes, token: str = "") -> Any:
        """Open a stream."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return self._call(rpc, "unary_stream")(request, timeout=20, metadata=metadata)

    async def fails(self, rpc: str, request: Message | bytes, **options: Any) -> Failure:
        """Make a call that fails, and tell how."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self(rpc, request, **options)
        return read_failure(caught.value)


class Rig(NamedTuple):
    """A pipeline that is being served, and a way to call it."""

    pipeline: Pipeline
    server: grpc.aio.Server
    call: Caller


Serve = Callable[..., Awaitable[Rig]]


def service(name: str) -> ServiceDescriptor:
    """Find a service of the contract."""
    found: ServiceDescriptor = next(
        file.DESCRIPTOR.services_by_name[name]
        for file in FILES
        if name in file.DESCRIPTOR.services_by_name
    )
    return found


def empty_handlers(descriptor: ServiceDescriptor, **special: Any) -> object:
    """Make an object whose methods answer every rpc of a service with an empty message."""
    methods: dict[str, Any] = {}
    for each in descriptor.methods:
        answer = GetMessageClass(each.output_type)

        async def unary(self: object, request: Any, call: Any, answer: Any = answer) -> Any:
            return answer()

        async def stream(self: object, request: Any, call: Any, answer: Any = answer) -> Any:
            yield answer()

        methods[each.name] = stream if each.server_streaming else unary
    return type("Handlers", (), methods | special)()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve an adapter whose handlers are those given by name, or empty."""
    async with AsyncExitStack() as stack:

        async def start(
            *, tokens: Path | None = None, unary_timeout_s: float = 0.0, **special: Any
        ) -> Rig:
            services = {}
            for file in FILES:
                for descriptor in file.DESCRIPTOR.services_by_name.values():
                    own = {
                        name: handler
                        for name, handler in special.items()
                        if name in descriptor.methods_by_name
                    }
                    services[descriptor] = [empty_handlers(descriptor, **own)]
            pipeline = Pipeline(services, Authenticator(tokens), unary_timeout_s=unary_timeout_s)
            server = grpc.aio.server(options=channel_options(Settings()))
            server.add_generic_rpc_handlers(GrpcAdapter(pipeline).handlers)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            )
            return Rig(pipeline, server, Caller(channel))

        yield start


class Tokens(NamedTuple):
    """A token file and the token of every role; the viewer's is bound to session `mine`."""

    path: Path
    by_role: dict[Role.ValueType, str]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Write a token file."""
    path = tmp_path / "tokens.jsonl"
    by_role = {
        role: add_token(path, name.lower(), role, "mine" if role == Role.ROLE_VIEWER else "")
        for name, role in Role.items()
        if role
    }
    return Tokens(path, by_role)


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
