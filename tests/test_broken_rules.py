"""No field rule takes the place of a reason that the contract documents for the same mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from maitred.server.app.pipeline import validation
from maitred.server.errors import InvalidField
from maitred.v1 import _rules_descriptors as validate_pb2
from maitred.v1 import common_pb2
from maitred.v1.common_pb2 import ErrorReason
from tests.support.wire import METHODS

REASONS = {
    "quantity": ErrorReason.ERROR_REASON_INVALID_QUANTITY,
    "percentage": ErrorReason.ERROR_REASON_INVALID_TIP_PERCENTAGE,
    "page_token": ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN,
    "resume_token": ErrorReason.ERROR_REASON_VERSION_OUT_OF_RANGE,
    "at_version": ErrorReason.ERROR_REASON_VERSION_OUT_OF_RANGE,
    "after_version": ErrorReason.ERROR_REASON_VERSION_OUT_OF_RANGE,
}
"""Fields of requests whose bad values have a reason of their own in the contract."""

WRONG: dict[str, Any] = {
    "quantity": (-5, 0, 101, 2**31 - 1),
    "page_token": ("x" * 513, "\u00e4" * 600),
    "resume_token": (b"x" * 65,),
    "at_version": (0, -1),
    "after_version": (-1, -(2**63)),
}


def fields_of(request: Descriptor) -> Iterator[FieldDescriptor]:
    """Every field of a request, those of oneofs too."""
    yield from request.fields


FIELDS = [
    pytest.param(method.input_type, field, id=f"{method.input_type.name}.{field.name}")
    for method in METHODS.values()
    for field in fields_of(method.input_type)
    if field.name in REASONS
]
CHOSEN = [
    pytest.param(field, id=field.full_name)
    for method in METHODS.values()
    for field in fields_of(method.input_type)
    if field.GetOptions().Extensions[common_pb2.field].broken
]


def has_rules(field: FieldDescriptor) -> bool:
    """Whether protovalidate looks at a field."""
    return bool(field.GetOptions().HasExtension(validate_pb2.field))


@pytest.mark.parametrize(("request_type", "field"), FIELDS)
def test_a_bad_value_is_refused_with_its_documented_reason(
    request_type: Descriptor, field: FieldDescriptor
) -> None:
    """By the field rule itself, or by what stands behind it where the field has no rule."""
    if not has_rules(field):
        assert not field.GetOptions().Extensions[common_pb2.field].broken
        return
    for wrong in WRONG[field.name]:
        message = GetMessageClass(request_type)()
        setattr(message, field.name, wrong)
        broken = [each for each in validation.validate(message) if each.field == field.name]
        if not broken:
            continue  # What the rule lets pass, the command refuses with the same reason.
        refused = validation.refusal(message, broken)
        assert refused.reason == REASONS[field.name]
        assert type(refused) is not InvalidField


@pytest.mark.parametrize("field", CHOSEN)
def test_a_chosen_reason_belongs_to_a_rule(field: FieldDescriptor) -> None:
    """A reason without a rule would never be told, and one that is not listed above is untried."""
    assert has_rules(field)
    assert field.GetOptions().Extensions[common_pb2.field].broken == REASONS[field.name]
