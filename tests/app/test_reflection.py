"""What clients learn of the contract from the server itself."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from maitred.server.app import reflection
from maitred.server.app.reflection import SERVICES
from maitred.server.testing.servers import running_server

ROOT = Path(__file__).resolve().parents[2]
HEALTH = "grpc.health.v1.Health"


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where a server listens."""
    async with running_server() as server:
        yield server.address


@pytest.fixture(params=SERVICES)
async def ask(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Any]:
    """Asks questions on one stream of one version, and answers what came back."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(
            f"/{request.param}/ServerReflectionInfo",
            pb.ServerReflectionRequest.SerializeToString,
            pb.ServerReflectionResponse.FromString,
        )

        async def answers(*questions: dict[str, Any]) -> list[Any]:
            asked = [pb.ServerReflectionRequest(**each) for each in questions]
            return [answer async for answer in method(iter(asked))]

        yield answers


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


def _files(answer: Any) -> list[FileDescriptorProto]:
    bodies = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(body) for body in bodies]


def _pool(files: list[FileDescriptorProto]) -> DescriptorPool:
    """A pool of files, each after what it needs."""
    pool, by_name = DescriptorPool(), {file.name: file for file in files}

    def add(name: str) -> None:
        file = by_name.pop(name, None)
        if file is not None:
            for needed in file.dependency:
                add(needed)
            pool.AddSerializedFile(file.SerializeToString())

    for name in list(by_name):
        add(name)
    return pool


def _elements(pool: DescriptorPool, service: str) -> Iterator[str]:
    found = pool.FindServiceByName(service)
    yield service
    for method in found.methods:
        yield method.full_name
        for message in (method.input_type, method.output_type):
            yield message.full_name
            yield from (field.full_name for field in message.fields)


async def test_every_symbol_that_is_listed_resolves(ask: Any) -> None:
    """Services, methods, messages, fields, enums, values: of ours, of health, of reflection."""
    (listed,) = await ask({"list_services": "*"})
    services = [each.name for each in listed.list_services_response.service]
    assert {"maitred.v1.SessionService", HEALTH, *SERVICES} < set(services)
    answers = await ask(*({"file_containing_symbol": name} for name in services))
    pool = _pool([file for answer in answers for file in _files(answer)])
    symbols = {symbol for service in services for symbol in _elements(pool, service)}
    symbols |= {"maitred.v1.ErrorReason", "maitred.v1.ERROR_REASON_INTERNAL", "maitred.v1.method"}
    symbols |= {"google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"}

    for symbol, answer in zip(
        symbols, await ask(*({"file_containing_symbol": each} for each in symbols)), strict=True
    ):
        assert not answer.HasField("error_response"), symbol
        assert answer.original_request.file_containing_symbol == symbol


async def test_a_file_comes_with_all_that_it_needs_and_once(ask: Any) -> None:
    """The first answer can be used by itself; what was sent is not sent again on the stream."""
    first, again = await ask(*[{"file_containing_symbol": "maitred.v1.OrderService"}] * 2)
    files = {file.name: file for file in _files(first)}

    assert all(needed in files for file in files.values() for needed in file.dependency)
    assert [file.name for file in _files(again)] == ["maitred/v1/order.proto"]


async def test_comments_and_json_names_come_along(ask: Any) -> None:
    """What the contract says of itself is what people see."""
    (answer,) = await ask({"file_by_filename": "maitred/v1/order.proto"})
    order = _files(answer)[0]
    comments = {tuple(each.path): each.leading_comments for each in order.source_code_info.location}
    add_item = next(
        at for at, each in enumerate(order.message_type) if each.name == "AddItemRequest"
    )
    field = order.message_type[add_item].field[0]

    assert comments[6, 0].startswith(" OrderService puts orders together")
    assert comments[6, 0, 2, 0].startswith(" AddItem adds a line")
    assert comments[4, add_item, 2, 0] == " The session.\n"
    assert (field.name, field.json_name) == ("session_id", "sessionId")


async def test_extensions_are_found(ask: Any) -> None:
    """The options of the contract, by their type and number."""
    numbers, file, unknown = await ask(
        {"all_extension_numbers_of_type": "google.protobuf.MethodOptions"},
        {
            "file_containing_extension": pb.ExtensionRequest(
                containing_type="google.protobuf.MethodOptions", extension_number=1740
            )
        },
        {"all_extension_numbers_of_type": "maitred.v1.Nothing"},
    )

    assert 1740 in numbers.all_extension_numbers_response.extension_number
    assert _files(file)[0].name == "maitred/v1/common.proto"
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_what_nobody_knows_is_not_found(ask: Any) -> None:
    """An answer on the stream, which goes on."""
    unknown, nothing, known = await ask(
        {"file_containing_symbol": "maitred.v1.Nothing"},
        {},
        {"file_containing_symbol": "maitred.v1.OrderService.AddItem"},
    )

    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert nothing.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert _files(known)[0].name == "maitred/v1/order.proto"


def test_a_service_that_is_not_described_is_not_listed() -> None:
    """It is a mistake of ours, seen at the start."""
    with pytest.raises(ValueError, match=r"odd\.Service"):
        reflection.Reflection(["odd.Service"], reflection.descriptors())


async def test_buf_lists_every_method(address: str) -> None:
    """`buf curl` asks v1."""
    output = await _run(
        str(Path(sys.executable).with_name("buf")),
        *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--list-methods"),
        f"http://{address}",
    )

    assert {"maitred.v1.OrderService/AddItem", f"{HEALTH}/Check", f"{HEALTH}/Watch"} < set(
        output.split()
    )
    assert {f"{name}/ServerReflectionInfo" for name in SERVICES} < set(output.split())


async def test_the_client_of_grpc_reads_every_service(address: str) -> None:
    """Python's asks v1alpha, and builds a pool of what it is told."""

    def read() -> dict[str, list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            return {
                name: [method.name for method in pool.FindServiceByName(name).methods]
                for name in database.get_services()
            }

    services = await asyncio.to_thread(read)

    assert services[HEALTH][:1] == ["Check"]
    assert "AddItem" in services["maitred.v1.OrderService"]
    assert all(services[name] == ["ServerReflectionInfo"] for name in SERVICES)


async def test_grpcurl_describes_with_comments(address: str) -> None:
    """The most common client, for methods and messages."""
    tool = shutil.which("grpcurl") or str(ROOT / ".cache" / "bin" / "grpcurl")
    if not Path(tool).exists():
        pytest.skip("grpcurl is not installed; `make tools` builds it where Go is present")
    described = {
        symbol: await _run(tool, "-plaintext", address, "describe", symbol)
        for symbol in ("maitred.v1.OrderService.AddItem", "maitred.v1.MenuItem", HEALTH, *SERVICES)
    }
    everything = await _run(tool, "-plaintext", address, "describe")

    assert "// AddItem adds a line" in described["maitred.v1.OrderService.AddItem"]
    assert "// Price of one." in described["maitred.v1.MenuItem"]
    assert "service Health" in everything
    assert everything.count("is a service:") == len(
        (await _run(tool, "-plaintext", address, "list")).split()
    )
