"""Separates personal fields from the rest, so that erasing a person leaves the log intact.

The contract marks the fields with the option `personal`. What is taken out of an event is kept as
an event of the same shape that holds nothing but those fields; list elements keep their places.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from maitred.v1 import common_pb2
from maitred.v1.event_pb2 import Event

EventT = TypeVar("EventT", bound=Message)
"""An event of any kind of aggregate."""


class _Step(NamedTuple):
    name: str
    leaf: bool
    repeated: bool
    inner: tuple[_Step, ...]


def split(event: EventT) -> tuple[EventT, EventT | None]:
    """Part an event into (facts, personal); personal is None where it holds nothing of it."""
    change = event.WhichOneof("change")
    plan = _change_plan(event.DESCRIPTOR, change) if change else ()
    if not plan:
        return event, None
    facts, personal = type(event)(), type(event)()
    facts.CopyFrom(event)
    return (facts, personal) if _move(facts, personal, plan) else (event, None)


def merge(facts: EventT, personal: EventT) -> EventT:
    """Put the parts of an event together again, in place of `facts`."""
    change = facts.WhichOneof("change")
    if change is not None:
        _move(personal, facts, _change_plan(facts.DESCRIPTOR, change))
    return facts


def holds_personal(change: str) -> bool:
    """Whether a change, by its field name in Event, may hold personal data at all."""
    return bool(_change_plan(Event.DESCRIPTOR, change))


def clear(message: Message) -> None:
    """Clear every personal field of a message, in place."""
    _move(message, type(message)(), _plan(message.DESCRIPTOR))


@cache
def _change_plan(event: Descriptor, change: str) -> tuple[_Step, ...]:
    field = event.fields_by_name[change]
    inner = _plan(field.message_type)
    return (_Step(change, leaf=False, repeated=False, inner=inner),) if inner else ()


@cache
def _plan(descriptor: Descriptor) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    for field in descriptor.fields:
        if field.GetOptions().Extensions[common_pb2.field].personal:
            steps.append(_Step(field.name, leaf=True, repeated=field.is_repeated, inner=()))
        elif _descends(field):
            inner = _plan(field.message_type)
            if inner:
                steps.append(_Step(field.name, leaf=False, repeated=field.is_repeated, inner=inner))
    return tuple(steps)


def _descends(field: FieldDescriptor) -> bool:
    # Well-known types are recursive (Struct) and hold nothing of ours; maps hold only scalars.
    return (
        field.message_type is not None
        and not field.message_type.full_name.startswith("google.")
        and not field.message_type.GetOptions().map_entry
    )


def _move(source: Any, target: Any, plan: tuple[_Step, ...]) -> bool:
    moved = False
    for step in plan:
        if step.leaf:
            moved = _move_leaf(source, target, step) or moved
        elif step.repeated:
            elements = getattr(source, step.name)
            into = getattr(target, step.name)
            while len(into) < len(elements):
                into.add()
            for element, place in zip(elements, into, strict=False):
                moved = _move(element, place, step.inner) or moved
        elif source.HasField(step.name):
            moved = (
                _move(getattr(source, step.name), getattr(target, step.name), step.inner) or moved
            )
    return moved


def _move_leaf(source: Any, target: Any, step: _Step) -> bool:
    value = getattr(source, step.name)
    if step.repeated:
        if not value:
            return False
        getattr(target, step.name).extend(value)
    elif isinstance(value, Message):
        if not source.HasField(step.name):
            return False
        getattr(target, step.name).CopyFrom(value)
    else:
        if not value:
            return False
        setattr(target, step.name, value)
    source.ClearField(step.name)
    return True
