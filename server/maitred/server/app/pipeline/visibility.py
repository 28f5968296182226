"""Visibility: fields that the caller's role may not see are cleared before a reply is sent.

A field marked `visible_from` is cleared for every role below; a field marked `personal` for VIEWER.
The walk is compiled once for each message type and role.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from maitred.server.engine.wire import varint
from maitred.v1 import common_pb2
from maitred.v1.common_pb2 import Role

Filter = Callable[[bytes], bytes]

_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_DOUBLE: 1,
    FieldDescriptor.TYPE_FIXED64: 1,
    FieldDescriptor.TYPE_SFIXED64: 1,
    FieldDescriptor.TYPE_FLOAT: 5,
    FieldDescriptor.TYPE_FIXED32: 5,
    FieldDescriptor.TYPE_SFIXED32: 5,
    FieldDescriptor.TYPE_STRING: 2,
    FieldDescriptor.TYPE_BYTES: 2,
    FieldDescriptor.TYPE_MESSAGE: 2,
}

_REMEMBERED_BYTES: Final = 64 * 1024


def is_hidden(option_holder: FieldDescriptor, role: Role.ValueType) -> bool:
    """Whether the contract keeps a field from a role."""
    options = option_holder.GetOptions()
    if options.Extensions[common_pb2.field].visible_from > role:
        return True
    return role <= Role.ROLE_VIEWER and bool(options.Extensions[common_pb2.field].personal)


@dataclass(slots=True)
class _Plan:
    """What to clear in one message type, and where to go on."""

    clear: list[tuple[str, bool]] = field(default_factory=list)
    """Names, and whether the field knows that it was set."""
    single: list[tuple[str, _Plan]] = field(default_factory=list)
    repeated: list[tuple[str, _Plan]] = field(default_factory=list)
    mapped: list[tuple[str, _Plan]] = field(default_factory=list)
    tags: set[bytes] = field(default_factory=set)
    """For each path to a hidden field the longest tag on it: long ones seldom stand in bytes by
    chance, and without any of them in its bytes a message holds nothing hidden.
    """

    def apply(self, message: Any) -> bool:
        """Clear hidden fields; whether there were any."""
        changed = False
        for each, has_presence in self.clear:
            if message.HasField(each) if has_presence else getattr(message, each):
                message.ClearField(each)
                changed = True
        for each, plan in self.single:
            if message.HasField(each):
                changed |= plan.apply(getattr(message, each))
        for each, plan in self.repeated:
            for part in getattr(message, each):
                changed |= plan.apply(part)
        for each, plan in self.mapped:
            for part in getattr(message, each).values():
                changed |= plan.apply(part)
        return changed


_OPEN: Final = _Plan()
"""Stands for a type whose plan is being made."""

_plans: dict[tuple[Descriptor, int], _Plan | None] = {}


def _plan(message: Descriptor, role: Role.ValueType) -> _Plan | None:
    """Compile the walk over a type, once; None where nothing below it is hidden.

    Raises: ValueError for a type that contains itself and hides something, which no walk finds.
    """
    key = (message, role)
    if key in _plans:
        return _plans[key]
    _plans[key] = _OPEN
    plan, recursive = _Plan(), False
    for each in message.fields:
        if is_hidden(each, role):
            plan.clear.append((each.name, each.has_presence))
            plan.tags.add(_tag(each))
            continue
        inner, target = each.message_type, plan.repeated if each.is_repeated else plan.single
        if inner is not None and inner.GetOptions().map_entry:
            inner, target = inner.fields_by_name["value"].message_type, plan.mapped
        below = None if inner is None else _plan(inner, role)
        if below is _OPEN:
            recursive = True
        elif below is not None:
            target.append((each.name, below))
            tag = _tag(each)
            plan.tags |= {
                max(tag, other, key=lambda each: (len(each), each)) for other in below.tags
            }
    if recursive and plan.tags:
        raise ValueError(f"{message.full_name} contains itself and hides something")
    _plans[key] = plan if plan.tags else None
    return _plans[key]


def _tag(described: FieldDescriptor) -> bytes:
    wire_type = 2 if described.is_repeated else _WIRE_TYPES.get(described.type, 0)
    return varint(described.number << 3 | wire_type)


def filter_for(
    message: Descriptor, parse: Callable[[bytes], Message], role: Role.ValueType
) -> Filter | None:
    """Return what to send instead of a serialised message; None where the role sees it all.

    Most messages hold nothing hidden. Whether one may is told by the tags that its bytes would have
    to contain; only then is it parsed. The last answer is remembered, because a watched event goes
    to many watchers as the same object.
    """
    plan = _plan(message, role)
    if plan is None:
        return None
    needed = tuple(plan.tags)
    last_in, last_out = b"", b""

    def hide(data: bytes) -> bytes:
        nonlocal last_in, last_out
        if data is last_in:
            return last_out
        out = data
        if any(tag in data for tag in needed):
            parsed = parse(data)
            if plan.apply(parsed):
                out = parsed.SerializeToString()
        if len(data) <= _REMEMBERED_BYTES:
            last_in, last_out = data, out
        return out

    return hide
