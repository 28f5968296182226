"""The standard reflection services, so that clients can list, describe and call without our protos.

Not the package's servicer: that one knows only v1alpha, lists services that it cannot describe, and
answers from what the Python runtime keeps, which has neither comments nor JSON names. This one
answers from the descriptors that `scripts/gen.py` writes beside the contract's modules.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_reflection.v1alpha import reflection_pb2 as pb

from maitred.server.app.pipeline.quotas import Places

LONGEST_S: Final = 60.0
"""How long a tool may keep asking on one stream."""

MAX_STREAMS: Final = 64
"""Streams at once, a quarter of them from one address."""

SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""Both versions are served: their messages are the same on the wire."""


class _File(NamedTuple):
    """A file as it is sent, and the files that it needs."""

    body: bytes
    imports: tuple[str, ...]


class Descriptors:
    """Files of protobuf definitions, by the symbols that they define."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files: dict[str, _File] = {}
        self._symbols: dict[str, str] = {}
        self._extensions: dict[str, dict[int, str]] = {}
        for file in files:
            self._files[file.name] = _File(file.SerializeToString(), tuple(file.dependency))
            for symbol in _symbols(file):
                self._symbols[symbol] = file.name
            for extension in _extensions(file):
                of_type = self._extensions.setdefault(extension.extendee.removeprefix("."), {})
                of_type[extension.number] = file.name

    def defines(self, symbol: str) -> bool:
        """Whether any file defines it."""
        return symbol in self._symbols

    def file_of(self, symbol: str) -> str:
        """The file that defines a package's element. Raises: KeyError."""
        return self._symbols[symbol.removeprefix(".")]

    def file_of_extension(self, extended: str, number: int) -> str:
        """The file that defines an extension of a type. Raises: KeyError."""
        return self._extensions[extended.removeprefix(".")][number]

    def extension_numbers(self, extended: str) -> list[int]:
        """Numbers of the extensions that a type has, in order. Raises: KeyError."""
        extended = extended.removeprefix(".")
        if extended not in self._symbols:
            raise KeyError(extended)
        return sorted(self._extensions.get(extended, ()))

    def with_imports(self, name: str, sent: set[str]) -> list[bytes]:
        """A file, and what it needs and was not sent yet. Raises: KeyError."""
        bodies, waiting = [self._files[name].body], [*self._files[name].imports]
        sent.add(name)
        while waiting:
            needed = waiting.pop(0)
            if needed not in sent:
                sent.add(needed)
                bodies.append(self._files[needed].body)
                waiting += self._files[needed].imports
        return bodies


class Reflection:
    """One answerer for both versions of the service."""

    def __init__(self, services: Sequence[str], descriptors: Descriptors) -> None:
        """Serve reflection on services, each of which must be described."""
        missing = [name for name in services if not descriptors.defines(name)]
        if missing:
            raise ValueError(f"no descriptor of {', '.join(missing)}")
        self._services = sorted(services)
        self._descriptors = descriptors
        self._places = Places(MAX_STREAMS)

    async def info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """Answer every question of a stream; it needs no token, so it ends after a while."""
        with self._places.take(context.peer()) as there_is:
            if not there_is:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many tools ask")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_S):
                    async for answer in self._answers(requests):
                        yield answer

    async def _answers(
        self, requests: AsyncIterator[pb.ServerReflectionRequest]
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        # A file is sent once.
        sent: set[str] = set()
        async for request in requests:
            response = pb.ServerReflectionResponse(
                valid_host=request.host, original_request=request
            )
            try:
                self._answer(request, response, sent)
            except KeyError:
                response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                response.error_response.error_message = "not found"
            yield response

    def _answer(
        self,
        request: pb.ServerReflectionRequest,
        response: pb.ServerReflectionResponse,
        sent: set[str],
    ) -> None:
        known = self._descriptors
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
                return
            case "all_extension_numbers_of_type":
                extended = request.all_extension_numbers_of_type
                numbers = known.extension_numbers(extended)
                response.all_extension_numbers_response.base_type_name = extended
                response.all_extension_numbers_response.extension_number.extend(numbers)
                return
            case "file_by_filename":
                name = request.file_by_filename
            case "file_containing_symbol":
                name = known.file_of(request.file_containing_symbol)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                name = known.file_of_extension(wanted.containing_type, wanted.extension_number)
            case _:
                response.error_response.error_code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
                response.error_response.error_message = "the request asks for nothing"
                return
        bodies = known.with_imports(name, sent)
        response.file_descriptor_response.file_descriptor_proto.extend(bodies)


def handlers(services: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """What to add to a grpc.aio server that serves these services, and reflection on them."""
    reflection = Reflection((*services, *SERVICES), descriptors())
    method = grpc.stream_stream_rpc_method_handler(
        reflection.info,
        pb.ServerReflectionRequest.FromString,
        pb.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in SERVICES
    )


@cache
def descriptors() -> Descriptors:
    """Read what `scripts/gen.py` wrote."""
    written = resources.files("maitred.v1") / "descriptors.binpb"
    return Descriptors(FileDescriptorSet.FromString(written.read_bytes()).file)


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    for message in file.message_type:
        yield from _of_message(message, file.package)
    for enum in file.enum_type:
        yield from _of_enum(enum, file.package)
    for extension in file.extension:
        yield f"{file.package}.{extension.name}"
    for service in file.service:
        name = f"{file.package}.{service.name}"
        yield name
        for method in service.method:
            yield f"{name}.{method.name}"


def _of_message(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    for field in (*message.field, *message.extension):
        yield f"{name}.{field.name}"
    for oneof in message.oneof_decl:
        yield f"{name}.{oneof.name}"
    for nested in message.nested_type:
        yield from _of_message(nested, name)
    for enum in message.enum_type:
        yield from _of_enum(enum, name)


def _of_enum(enum: EnumDescriptorProto, scope: str) -> Iterator[str]:
    yield f"{scope}.{enum.name}"
    for value in enum.value:
        # As protobuf has it, a value stands beside its enum and not within it; tools ask for both.
        yield f"{scope}.{value.name}"
        yield f"{scope}.{enum.name}.{value.name}"


def _extensions(file: FileDescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from file.extension
    waiting: list[DescriptorProto] = [*file.message_type]
    while waiting:
        message = waiting.pop()
        yield from message.extension
        waiting += message.nested_type
