"""Field rules of the contract, checked by protovalidate behind one function."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import protovalidate
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from maitred.server.errors import InvalidField, MaitredError, Violation
from maitred.v1 import common_pb2

_SUBSCRIPT = re.compile(r"\[[^\]]*\]")

_CLASSES = {each.reason: each for each in MaitredError.__subclasses__()}

_validator = protovalidate.Validator()

MAX_LISTED_ELEMENTS: Final = 128
"""Of a request with more elements in its lists and maps, only the first broken rule is named: a
violation takes far longer to make than the element to send."""


class SizedField(NamedTuple):
    """A field of a request whose message is bounded in bytes, as it has no rules of its own."""

    name: str
    max_bytes: int


def sized_fields(request: Descriptor) -> tuple[SizedField, ...]:
    """List the fields of a request that the contract bounds in bytes."""
    bounds = ((each, each.GetOptions().Extensions[common_pb2.field]) for each in request.fields)
    return tuple(SizedField(each.name, rule.max_bytes) for each, rule in bounds if rule.max_bytes)


def oversized(message: Message, fields: Iterable[SizedField], size: int) -> list[Violation]:
    """List the fields that are too large, in a message that came in so many bytes."""
    return [
        Violation(name, "message.max_bytes", f"must not exceed {most} bytes")
        for name, most in fields
        if size > most and getattr(message, name).ByteSize() > most
    ]


def validate(message: Message) -> list[Violation]:
    """List the broken rules of a message; empty where it is valid.

    Of a message with very many elements only the first one is listed.
    """
    found = _validator.collect_violations(message, fail_fast=True)
    if not found:
        return []
    if _holds_at_most(message, MAX_LISTED_ELEMENTS) >= 0:
        found = _validator.collect_violations(message)
    return [_violation(each.proto) for each in found]


def _holds_at_most(message: Message, most: int) -> int:
    """How many more elements a message may hold; negative where there are too many already."""
    for field, value in message.ListFields():
        inner = field.message_type
        if field.is_repeated:
            most -= len(value)
        if most < 0:
            break
        if inner is None or inner.file.package == "google.protobuf" or inner.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated else (value,):
            most = _holds_at_most(each, most)
            if most < 0:
                return most
    return most


def compile_rules(types: Iterable[type[Message]]) -> None:
    """Compile the rules of request types, so that no first call is slow.

    Raises: protovalidate.CompilationError for a rule that cannot be.
    """
    for each in types:
        _validator.collect_violations(each())


def refusal(message: Message, violations: list[Violation]) -> MaitredError:
    """Make the error that names every broken rule, under the reason of the first one's field."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    kind = _kind(message.DESCRIPTOR, first.field)
    return kind(f"{first.field}: {first.description}{more}", violations=violations)


@lru_cache(maxsize=1024)
def _kind(descriptor: Descriptor, path: str) -> type[MaitredError]:
    """Find what a broken rule of a field is told as: what the contract says, or InvalidField."""
    field: FieldDescriptor | None = None
    inside: Descriptor | None = descriptor
    for step in _SUBSCRIPT.sub("", path).split("."):
        if inside is None or step not in inside.fields_by_name:
            return InvalidField
        field = inside.fields_by_name[step]
        inside = field.message_type
    assert field is not None  # a path has at least one step
    reason = field.GetOptions().Extensions[common_pb2.field].broken
    return _CLASSES[reason] if reason else InvalidField


def _violation(proto: Any) -> Violation:
    path = "".join(map(_step, proto.field.elements)) if proto.field is not None else ""
    return Violation(path.removeprefix("."), proto.rule_id, _describe(proto.rule_id, proto.message))


def _step(element: Any) -> str:
    subscript = element.subscript
    if subscript is None:
        return f".{element.field_name}"
    value = subscript.value
    # A key of a map comes from the caller and may be anything.
    shown = f"{value[:64]!r}" if isinstance(value, str) else value
    return f".{element.field_name}[{shown}]"


@lru_cache(maxsize=1024)
def _describe(rule: str, message: str) -> str:
    return message or f"breaks the rule {rule}"
