"""Every reason of the contract crosses the wire and comes out as its own class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

import maitred.client
from maitred.client import AsyncClient, Client, MaitredError, Retries, _status
from maitred.server import errors as server_errors
from maitred.server.app.grpc_adapter import GrpcAdapter
from maitred.server.app.pipeline.auth import Authenticator
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.engine.call import Call
from maitred.v1 import common_pb2, session_pb2

PREFIX = "ERROR_REASON_"
REASONS = [
    value.name.removeprefix(PREFIX)
    for value in common_pb2.ErrorReason.DESCRIPTOR.values
    if value.number
]
ONCE = Retries(attempts=1)
TRAILER = "grpc-status-details-bin"


def status_in_contract(reason: str) -> grpc.StatusCode:
    """The status that the contract gives a reason."""
    value = common_pb2.ErrorReason.DESCRIPTOR.values_by_name[PREFIX + reason]
    return grpc.StatusCode[value.GetOptions().Extensions[common_pb2.reason].status]


def packed(*details: Message) -> list[any_pb2.Any]:
    """Details as they travel."""
    wrapped = []
    for detail in details:
        wrapper = any_pb2.Any()
        wrapper.Pack(detail)
        wrapped.append(wrapper)
    return wrapped


class Aborting(grpc.GenericRpcHandler):
    """A protocol double: answers whatever is asked with one status, details and all."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.UNKNOWN
        self.details: Sequence[any_pb2.Any] | bytes = ()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Answer any method."""

        async def answer(_request: bytes, context: Any) -> bytes:
            trailer = self.details
            if not isinstance(trailer, bytes):
                code = code_pb2.Code.Value(self.code.name)
                trailer = status_pb2.Status(code=code, details=trailer).SerializeToString()
            context.set_trailing_metadata(((TRAILER, trailer),))
            await context.abort(self.code, "what is told")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving(handler: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    """Serve one generic handler on a free port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def failures(address: str, session_id: str = "s") -> list[MaitredError]:
    """How one call fails for either client."""
    found: list[MaitredError] = []
    async with AsyncClient(address, retries=ONCE) as client:
        with pytest.raises(MaitredError) as caught:
            await client.get_session(session_id=session_id)
        found.append(caught.value)
    with Client(address, retries=ONCE) as blocking:
        with pytest.raises(MaitredError) as caught:
            await asyncio.to_thread(blocking.get_session, session_id=session_id)
        found.append(caught.value)
    return found


def test_each_reason_has_a_class_of_its_name() -> None:
    """`INSUFFICIENT_FUNDS` is `InsufficientFunds`, here and at the server."""
    for reason in REASONS:
        name = "".join(word.capitalize() for word in reason.split("_"))

        assert _status.error_class(reason) is getattr(maitred.client, name)
        assert getattr(server_errors, name).reason == common_pb2.ErrorReason.Value(PREFIX + reason)


def test_an_error_made_by_hand_has_the_status_of_the_contract() -> None:
    """Tests of those who use the client can raise what the server would."""
    for reason in REASONS:
        error = _status.error_class(reason)("told")

        assert error.reason == reason
        assert error.status is status_in_contract(reason)
        assert str(error) == f"{reason}: told"


async def test_every_reason_crosses_from_the_real_adapter() -> None:
    """What a handler raises is what the caller catches, with message, metadata and violations."""

    class Raising:
        async def GetSession(self, request: session_pb2.GetSessionRequest, call: Call) -> bytes:
            raising = {each.__name__: each for each in server_errors.MaitredError.__subclasses__()}
            raise raising[request.session_id](
                f"told of {request.session_id}",
                metadata={"price": "1100"},
                violations=[server_errors.Violation("amount", "int64.gte", "must not be negative")],
                retry_after_s=1.5,
            )

    for name in session_pb2.DESCRIPTOR.services_by_name["SessionService"].methods_by_name:
        if not hasattr(Raising, name):
            streams = name.startswith("Watch")
            setattr(Raising, name, _unused_stream if streams else _unused)
    service = session_pb2.DESCRIPTOR.services_by_name["SessionService"]
    pipeline = Pipeline({service: [Raising()]}, Authenticator(None), unary_timeout_s=5)
    (handler,) = GrpcAdapter(pipeline).handlers
    async with serving(handler) as address, AsyncClient(address, retries=ONCE) as client:
        for reason in REASONS:
            kind = _status.error_class(reason)
            with pytest.raises(kind) as caught:
                await client.get_session(session_id=kind.__name__)
            error = caught.value

            assert type(error) is kind
            assert error.reason == reason
            assert error.status is status_in_contract(reason)
            assert error.message == f"told of {kind.__name__}"
            assert error.metadata["price"] == "1100"
            assert error.violations == (("amount", "int64.gte", "must not be negative"),)
            assert error.retry_after == 1.5


async def _unused(_self: object, request: Any, call: Call) -> bytes:
    return b""


async def _unused_stream(_self: object, request: Any, call: Call) -> AsyncIterator[bytes]:
    yield b""


async def test_both_clients_read_all_details() -> None:
    """Reason, metadata, field violations and retry delay come from the status details."""
    handler = Aborting()
    handler.code = grpc.StatusCode.FAILED_PRECONDITION
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="amount", reason="int64.gte", description="must not be negative"
    )
    handler.details = packed(
        error_details_pb2.ErrorInfo(
            reason="INSUFFICIENT_FUNDS", domain="maitred", metadata={"balance": "5"}
        ),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500000000)),
    )
    async with serving(handler) as address:
        found = await failures(address)

    for error in found:
        assert type(error) is maitred.client.InsufficientFunds
        assert error.metadata == {"balance": "5"}
        assert error.violations == (("amount", "int64.gte", "must not be negative"),)
        assert error.retry_after == 2.5
        assert not error.outcome_unknown


async def test_an_unknown_reason_is_the_base_with_its_status() -> None:
    """A newer server's reason is kept by name, though no class stands for it."""
    handler = Aborting()
    handler.code = grpc.StatusCode.ABORTED
    handler.details = packed(
        error_details_pb2.ErrorInfo(reason="KITCHEN_ON_FIRE", domain="maitred")
    )
    async with serving(handler) as address:
        found = await failures(address)

    for error in found:
        assert type(error) is MaitredError
        assert error.reason == "KITCHEN_ON_FIRE"
        assert error.status is grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    "details",
    [b"", b"\xff not a status", packed(error_details_pb2.ErrorInfo(reason="X", domain="other"))],
    ids=["none", "garbage", "foreign"],
)
async def test_an_error_that_is_not_maitreds_is_the_base(
    details: list[any_pb2.Any] | bytes,
) -> None:
    """Without a reason of maitred's the status is all there is to know."""
    handler = Aborting()
    handler.code = grpc.StatusCode.UNAVAILABLE
    handler.details = details
    async with serving(handler) as address:
        found = await failures(address)

    for error in found:
        assert type(error) is MaitredError
        assert error.reason == ""
        assert error.status is grpc.StatusCode.UNAVAILABLE
        assert error.message == "what is told"
        assert error.outcome_unknown


async def test_nobody_there_is_said() -> None:
    """An address at which nothing listens is UNAVAILABLE, and the outcome unknown."""
    async with serving(Aborting()) as address:
        pass
    found = await failures(address)

    for error in found:
        assert error.status is grpc.StatusCode.UNAVAILABLE
        assert error.outcome_unknown
