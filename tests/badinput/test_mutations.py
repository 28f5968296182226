"""Valid requests, broken at random: whatever comes of it, the server knows what to say."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.badinput.conftest import House
from tests.support.requests import READS, VALID
from tests.support.wire import METHODS, MUTATIONS, STATUS_OF, Failure

from maitred.v1 import (
    admin_pb2,
)

EFFORT = settings().max_examples
"""Of the profile that is in force."""

WORDS = [
    "",
    "somebody",
    "x" * 200,
    "\x00",
    "a\u202eb",
    "4111111111111111",
    "../../etc/passwd",
    "%s%n{0}",
    "'; DROP TABLE events; --",
    "\U0001f378" * 40,
    "\ufdd0\uffff",
]
EXTREMES = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**12, -(10**12) - 1]
DOUBLES = [0.0, -0.0, float("nan"), float("inf"), 1e308, 5e-324, 4111111111111111.0]


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            return max(-(2**31), min(2**31 - 1, chance.choice([*EXTREMES, 7, 99])))
        case FieldDescriptor.CPPTYPE_INT64:
            return chance.choice(EXTREMES)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice(DOUBLES)
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 16, 17, 64, 65)))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(WORDS)
        case kind:
            raise AssertionError(f"the contract has a field of kind {kind}")


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def break_field(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Give one field of a message, or of a message within it, a value at the end of its range."""
    fields = message.DESCRIPTOR.fields
    if not fields or depth > 6:
        return
    field: Any = chance.choice(list(fields))
    held = getattr(message, field.name)
    if _is_map(field):
        entry = field.message_type.fields_by_name
        key, value = entry["key"], entry["value"]
        for _ in range(chance.choice((1, 40))):
            name = _value(key, chance)
            if value.message_type is not None:
                break_field(held[name], chance, depth + 1)
            else:
                held[name] = _value(value, chance)
    elif field.is_repeated:
        for _ in range(chance.choice((1, 2, 40))):
            if field.message_type is not None:
                break_field(held.add(), chance, depth + 1)
            else:
                held.append(_value(field, chance))
    elif field.message_type is not None:
        held.SetInParent()
        break_field(held, chance, depth + 1)
    else:
        setattr(message, field.name, _value(field, chance))


def _flip(raw: bytearray, chance: random.Random) -> None:
    if raw:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _cut(raw: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(raw) + 1)
    del raw[at : at + chance.choice((1, 2, 1000))]


def _repeat(raw: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(raw) + 1)
    raw[at:at] = bytes(raw[at : at + chance.randrange(40)]) * chance.choice((1, 2, 50))


def _insert(raw: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(raw) + 1)
    raw[at:at] = chance.choice((b"\xff" * 10, b"\x00", b"\x0a", chance.randbytes(5)))


BREAKS: list[Callable[[bytearray, random.Random], None]] = [_flip, _cut, _repeat, _insert]


def broken(request: Message, chance: random.Random) -> bytes:
    """Break a request by its fields, by its bytes, or both."""
    raw = bytearray(request.SerializeToString())
    style = chance.randrange(4)
    if style:
        after = type(request).FromString(bytes(raw))
        for _ in range(chance.choice((1, 1, 2, 5))):
            break_field(after, chance)
        raw = bytearray(after.SerializeToString())
    if style in {0, 3}:
        for _ in range(chance.choice((1, 1, 2, 8))):
            chance.choice(BREAKS)(raw, chance)
    return bytes(raw)


def test_every_rpc_has_a_request_to_break() -> None:
    """A new rpc needs a valid request in one of the tables."""
    assert set(READS) | set(VALID) == set(METHODS)
    assert not set(READS) & set(MUTATIONS)


@settings(
    max_examples=8 * EFFORT,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rpc=st.sampled_from(sorted(METHODS)), seed=st.integers(0, 2**32))
async def test_a_broken_request_is_never_the_servers_fault(
    house: House, rpc: str, seed: int
) -> None:
    """Random damage to valid bytes gives a status of the table, never UNKNOWN or INTERNAL."""
    chance = random.Random(seed)
    prepared = READS[rpc] if rpc in READS else (await VALID[rpc](house.wire)).request
    raw = broken(prepared, chance)
    outcome = await house.wire.outcome(rpc, raw, timeout=0.1 if rpc in READS else 30)

    if isinstance(outcome, Failure):
        assert outcome.status not in {"UNKNOWN", "INTERNAL"}, (rpc, raw, outcome)
        if outcome.reason:
            assert outcome.status == STATUS_OF[outcome.reason], (rpc, raw, outcome)
        else:
            assert outcome.status == "DEADLINE_EXCEEDED", (rpc, raw, outcome)
    else:
        assert _parses(rpc, raw)
    assert await house.wire("AdminService/GetServerInfo", admin_pb2.GetServerInfoRequest())


def _parses(rpc: str, raw: bytes) -> bool:
    try:
        GetMessageClass(METHODS[rpc].input_type).FromString(raw)
    except DecodeError:
        return False
    return True
