"""Field rules of the contract, checked by protovalidate behind one function."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import protovalidate
from google.protobuf.message import Message

from maitred.server.errors import InvalidField, Violation

_validator = protovalidate.Validator()


def validate(message: Message) -> list[Violation]:
    """List the broken rules of a message; empty where it is valid."""
    found = _validator.collect_violations(message)
    return [_violation(each.proto) for each in found] if found else []


def compile_rules(types: Iterable[type[Message]]) -> None:
    """Compile the rules of request types, so that no first call is slow.

    Raises: protovalidate.CompilationError for a rule that cannot be.
    """
    for each in types:
        _validator.collect_violations(each())


def refusal(violations: list[Violation]) -> InvalidField:
    """Make the error that names every broken rule."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return InvalidField(f"{first.field}: {first.description}{more}", violations=violations)


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
