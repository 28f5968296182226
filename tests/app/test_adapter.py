"""What the adapter does around every handler."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from tests.app.conftest import ADD_ITEM, Serve, empty_handlers, read_failure, service

from maitred.server.app.pipeline.auth import Authenticator
from maitred.server.app.pipeline.methods import ContractError
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.engine.call import Call
from maitred.server.errors import InvalidField, ShuttingDown, Violation
from maitred.server.stores import base
from maitred.server.telemetry import metrics
from maitred.v1 import order_pb2, session_pb2
from maitred.v1.common_pb2 import Role

REQUEST = order_pb2.AddItemRequest(session_id="s", item="negroni")
WATCH = "SessionService/WatchSession"
WATCH_REQUEST = session_pb2.WatchSessionRequest(session_id="s")
PRIVATE = "a secret that is nobody's business"


async def test_a_handler_gets_the_request_and_who_calls_until_when(serve: Serve) -> None:
    """A handler is given the parsed request, the actor, the rpc's name and the deadline."""
    seen: list[tuple[Any, Call]] = []

    async def add_item(self: object, request: Any, call: Call) -> Any:
        seen.append((request, call))
        return order_pb2.AddItemResponse(replayed=True)

    rig = await serve(AddItem=add_item)

    assert (await rig.call(ADD_ITEM, REQUEST, timeout=5)).replayed

    ((request, call),) = seen
    assert request == REQUEST
    assert (call.actor.name, call.actor.role) == ("local", Role.ROLE_ADMIN)
    assert call.method == "maitred.v1.OrderService/AddItem"
    assert 0 < (call.remaining() or 0) < 6
    assert call.trace_id


async def test_bytes_go_out_as_they_are(serve: Serve) -> None:
    """A handler may answer with bytes that are serialised already."""

    async def add_item(self: object, request: Any, call: Call) -> bytes:
        return order_pb2.AddItemResponse(replayed=True).SerializeToString()

    rig = await serve(AddItem=add_item)

    assert (await rig.call(ADD_ITEM, REQUEST)).replayed


async def test_undecodable_bytes_are_a_malformed_request(serve: Serve) -> None:
    """Bytes that are no message of the type are INVALID_ARGUMENT, in calls and in streams."""
    rig = await serve()

    failure = await rig.call.fails(ADD_ITEM, b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.call.stream(WATCH, b"\xff\xff\xff").read()

    for each in (failure, read_failure(caught.value)):
        assert (each.code, each.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "MALFORMED_REQUEST",
        )


async def test_broken_rules_are_named_by_field(serve: Serve) -> None:
    """Every broken rule of the contract is a field violation with the field's path."""
    rig = await serve()
    request = order_pb2.AddItemRequest(
        session_id="a b", item="x", quantity=101, modifiers=["ok", ""]
    )

    failure = await rig.call.fails(ADD_ITEM, request)

    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.violations == [
        ("session_id", "string.pattern"),
        ("quantity", "int32.gte_lte"),
        ("modifiers[1]", "string.min_len"),
    ]


async def test_many_violations_stay_small(serve: Serve) -> None:
    """Details stay under four KiB and twenty violations, however much is wrong."""
    rig = await serve()
    labels = {f"Bad {number} {'x' * 500}": "y" * 1000 for number in range(32)}

    failure = await rig.call.fails(
        "SessionService/CreateSession", session_pb2.CreateSessionRequest(labels=labels)
    )

    assert failure.reason == "INVALID_FIELD"
    assert 0 < len(failure.violations) <= 20
    assert failure.details_bytes < 4096


async def test_a_request_beyond_the_limit_is_refused(serve: Serve) -> None:
    """A request larger than the limit is RESOURCE_EXHAUSTED and the connection lives on."""
    rig = await serve()

    failure = await rig.call.fails(ADD_ITEM, b"\x0a\x80\x80\x80\x04" + b"x" * (8 * 1024 * 1024))

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await rig.call(ADD_ITEM, REQUEST)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(PRIVATE),
        TimeoutError(PRIVATE),
        base.CorruptData(PRIVATE),
        base.StoreUnavailable(PRIVATE),
        base.StoreFull(PRIVATE),
        base.OutcomeUnknown(PRIVATE),
        base.SchemaTooNew(PRIVATE),
        AssertionError(PRIVATE),
        KeyError(PRIVATE),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_exceptions_text_reaches_a_caller(
    serve: Serve, error: Exception, log: io.StringIO
) -> None:
    """What was not meant for callers is INTERNAL with an incident id, or a reason of the store."""

    async def add_item(self: object, request: Any, call: Call) -> Any:
        raise error

    async def watch(self: object, request: Any, call: Call) -> Any:
        yield session_pb2.WatchSessionResponse()
        raise error

    rig = await serve(AddItem=add_item, WatchSession=watch)

    unary = await rig.call.fails(ADD_ITEM, REQUEST)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in rig.call.stream(WATCH, WATCH_REQUEST):
            pass

    expected = {
        base.StoreUnavailable: "STORE_UNAVAILABLE",
        base.StoreFull: "STORE_FULL",
        base.OutcomeUnknown: "OUTCOME_UNKNOWN",
        base.SchemaTooNew: "SCHEMA_TOO_NEW",
    }.get(type(error), "INTERNAL")  # type: ignore[arg-type]  # any other type is a miss
    for failure in (unary, read_failure(caught.value)):
        assert failure.reason == expected
        assert PRIVATE not in str(failure)
        if expected == "INTERNAL":
            assert failure.code is grpc.StatusCode.INTERNAL
            assert failure.metadata["incident_id"] in failure.message
            assert failure.metadata["incident_id"] in log.getvalue()


async def test_none_as_an_answer_is_a_failure_of_the_handler(serve: Serve) -> None:
    """A handler that answers nothing is INTERNAL, not a client's riddle."""

    async def add_item(self: object, request: Any, call: Call) -> Any:
        return None

    rig = await serve(AddItem=add_item)

    assert (await rig.call.fails(ADD_ITEM, REQUEST)).reason == "INTERNAL"


async def test_a_stray_cancellation_does_not_leave_the_caller_waiting(serve: Serve) -> None:
    """A handler whose inner task was cancelled fails with INTERNAL at once."""

    async def add_item(self: object, request: Any, call: Call) -> Any:
        inner = asyncio.ensure_future(asyncio.sleep(3600))
        inner.cancel()
        await inner

    async def watch(self: object, request: Any, call: Call) -> Any:
        yield session_pb2.WatchSessionResponse()
        raise asyncio.CancelledError

    rig = await serve(AddItem=add_item, WatchSession=watch)

    assert (await rig.call.fails(ADD_ITEM, REQUEST)).reason == "INTERNAL"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in rig.call.stream(WATCH, WATCH_REQUEST):
            pass
    assert read_failure(caught.value).reason == "INTERNAL"


async def test_a_cancelled_call_cancels_its_handler(serve: Serve) -> None:
    """Cancelling reaches the handler as CancelledError, and its clean-up runs."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def add_item(self: object, request: Any, call: Call) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    rig = await serve(AddItem=add_item)
    cancelled = metrics.CALLS.labels("maitred.v1.OrderService/AddItem", "CANCELLED")
    before = cancelled.value
    task = asyncio.ensure_future(rig.call(ADD_ITEM, REQUEST))
    await begun.wait()
    task.cancel()

    await asyncio.wait_for(cleaned.wait(), 5)

    await asyncio.gather(task, return_exceptions=True)
    assert cancelled.value == before + 1


async def test_the_deadline_of_a_call_is_kept(serve: Serve) -> None:
    """A call that takes longer than its deadline is DEADLINE_EXCEEDED, and its handler ends."""
    cleaned = asyncio.Event()

    async def add_item(self: object, request: Any, call: Call) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    rig = await serve(AddItem=add_item)

    failure = await rig.call.fails(ADD_ITEM, REQUEST, timeout=0.1)

    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(cleaned.wait(), 5)


async def test_a_call_without_deadline_is_bounded_by_the_server(serve: Serve) -> None:
    """A call without a deadline gets the server's, and a handler's own timeout is told apart."""

    async def add_item(self: object, request: Any, call: Call) -> Any:
        assert call.remaining() is not None
        await asyncio.Event().wait()

    rig = await serve(AddItem=add_item, unary_timeout_s=0.05)

    failure = await rig.call.fails(ADD_ITEM, REQUEST, timeout=None)

    assert (failure.code, failure.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
    )


async def test_the_callers_request_id_ties_the_log_together(serve: Serve) -> None:
    """x-request-id becomes the trace id; one that could disturb a log does not."""
    seen: list[str] = []

    async def add_item(self: object, request: Any, call: Call) -> Any:
        seen.append(call.trace_id)
        return order_pb2.AddItemResponse()

    rig = await serve(AddItem=add_item)
    method: Any = rig.call.channel.unary_unary(
        "/maitred.v1.OrderService/AddItem",
        order_pb2.AddItemRequest.SerializeToString,
        order_pb2.AddItemResponse.FromString,
    )
    for value in ("order-7", 'x" y', "z" * 300):
        await method(REQUEST, metadata=(("x-request-id", value),))

    assert seen[0] == "order-7"
    assert not {'x" y', "z" * 300} & set(seen)


async def test_open_streams_end_resumably(serve: Serve) -> None:
    """end_streams ends every stream with UNAVAILABLE / SHUTTING_DOWN and RetryInfo."""
    cleaned: list[int] = []

    async def watch(self: object, request: Any, call: Call) -> Any:
        try:
            yield session_pb2.WatchSessionResponse(version=1)
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    rig = await serve(WatchSession=watch)
    streams = [rig.call.stream(WATCH, WATCH_REQUEST) for _ in range(20)]
    for stream in streams:
        assert (await stream.read()).version == 1
    assert len(rig.pipeline.streams) == 20

    rig.pipeline.end_streams()

    for stream in streams:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        failure = read_failure(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert failure.retry_after_s
    await rig.pipeline.streams_ended(5)
    assert not rig.pipeline.streams
    assert len(cleaned) == 20


async def test_a_stream_that_nobody_reads_can_be_ended(serve: Serve) -> None:
    """A stream that is stuck on a slow reader ends all the same, and its handler cleans up."""
    cleaned = asyncio.Event()

    async def watch(self: object, request: Any, call: Call) -> Any:
        try:
            while True:
                yield b"\x12" + b"\x80\x80\x04" + b"x" * 65536
        finally:
            cleaned.set()

    rig = await serve(WatchSession=watch)
    stream = rig.call.stream(WATCH, WATCH_REQUEST)
    await stream.wait_for_connection()
    sent = metrics.STREAM_MESSAGES.labels("maitred.v1.SessionService/WatchSession")
    before = -1
    while sent.value != before:
        before = sent.value
        await asyncio.sleep(0.1)

    rig.pipeline.end_streams()

    await asyncio.wait_for(cleaned.wait(), 5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    assert read_failure(caught.value).reason == "SHUTTING_DOWN"


async def test_errors_of_a_stream_have_details(serve: Serve) -> None:
    """A handler's error ends a stream with its reason, its metadata and its violations."""

    async def watch(self: object, request: Any, call: Call) -> Any:
        if call.method:
            raise InvalidField(
                "no", metadata={"a": "b"}, violations=[Violation("f", "r", "d")], retry_after_s=2
            )
        yield

    rig = await serve(WatchSession=watch)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.call.stream(WATCH, WATCH_REQUEST).read()

    failure = read_failure(caught.value)
    assert failure[:6] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "no",
        "INVALID_FIELD",
        {"a": "b"},
        [("f", "r")],
        2.0,
    )


async def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    """What the contract does not know is UNIMPLEMENTED."""
    rig = await serve()
    unknown: Any = rig.call.channel.unary_unary("/maitred.v1.OrderService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_burst_of_streams_is_taken(serve: Serve) -> None:
    """Two thousand streams opened in one burst are all served."""

    async def watch(self: object, request: Any, call: Call) -> Any:
        yield session_pb2.WatchSessionResponse(version=1)

    rig = await serve(WatchSession=watch)
    streams = [rig.call.stream(WATCH, WATCH_REQUEST) for _ in range(2000)]

    versions = [message.version for message in await asyncio.gather(*(s.read() for s in streams))]

    assert versions == [1] * 2000


def test_an_rpc_without_handler_is_refused_at_start() -> None:
    """Every rpc has exactly one handler, of the right kind, or the server does not start."""
    orders = service("OrderService")
    whole = empty_handlers(orders)
    partial = type("Partial", (), {"AddItem": vars(type(whole))["AddItem"]})()

    async def generator(self: object, request: Any, call: Any) -> Any:
        yield

    for objects, problem in (
        ([partial], "has no handler"),
        ([whole, partial], "has 2 handler"),
        ([empty_handlers(orders, AddItem=generator)], "is not an async function"),
    ):
        with pytest.raises(ContractError, match=problem):
            Pipeline({orders: objects}, Authenticator(None))


def test_a_service_may_be_composed_of_several_objects() -> None:
    """Handlers are found by name on whichever object has them."""
    orders = service("OrderService")
    methods = type(empty_handlers(orders)).__dict__
    parts = [type("Part", (), {name: methods[name]})() for name in orders.methods_by_name]

    pipeline = Pipeline({orders: parts}, Authenticator(None))

    assert len(pipeline.methods) == len(orders.methods)


def test_an_rpc_without_minimum_role_is_refused_at_start() -> None:
    """A method that does not say who may call it keeps the server from starting."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.message_type.add(name="M")
    file.service.add(name="S").method.add(name="Do", input_type=".t.M", output_type=".t.M")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindServiceByName("t.S")
    assert message_factory.GetMessageClass(descriptor.methods[0].input_type)

    with pytest.raises(ContractError, match="no minimum_role"):
        Pipeline({descriptor: [empty_handlers(descriptor)]}, Authenticator(None))


async def test_time_is_measured(serve: Serve) -> None:
    """Every finished call is counted by status and its duration is observed."""
    rig = await serve()
    ok = metrics.CALLS.labels("maitred.v1.OrderService/AddItem", "OK")
    seconds = metrics.CALL_SECONDS.labels("maitred.v1.OrderService/AddItem")
    before, observed = ok.value, sum(seconds.counts)
    started = time.perf_counter()

    await rig.call(ADD_ITEM, REQUEST)

    assert ok.value == before + 1
    assert sum(seconds.counts) == observed + 1
    assert seconds.total > 0
    assert time.perf_counter() > started


def test_shutting_down_is_an_error_with_a_time_to_retry() -> None:
    """The end of a server tells clients when to come back."""
    from maitred.server.app.pipeline.refusals import to_wire

    assert b"RetryInfo" in to_wire(ShuttingDown("bye")).proto.SerializeToString()
