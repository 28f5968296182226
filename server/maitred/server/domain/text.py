"""Text from people and models: what is removed, masked or refused.

Control and bidirectional characters can make a text read otherwise than it is stored, so they never
get in. Card numbers are no business of a conversation: in messages they are masked, anywhere else
they are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from maitred.server.domain import cards, names
from maitred.server.errors import CardNumberRefused, InvalidField, ReasonRequired, Violation

MAX_STRUCT_BYTES = 16 * 1024
"""Serialised size of free data, such as attributes or a context."""

MAX_STRUCT_DEPTH = 16
"""Levels of free data: protobuf reads a hundred messages within each other, of which a level takes
three, and an event is read within others.
"""

MAX_INTEGER = 2**53 - 1
"""The largest integer of free data. Its numbers are doubles, so that larger ones are read as their
neighbours, and nobody could tell which was sent.
"""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNWANTED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}]")
_NOT_IN_NAMES = re.compile(f"[\x00-\x1f\x7f-\x9f{_BIDI}]")
_NOT_IN_IDENTIFIERS = re.compile(f"[\x00-\x1f\x7f-\x9f\u200c\u200d{_BIDI}]")


def clean(text: str) -> str:
    """Drop control and bidirectional characters; line feed, tab and the joiners stay."""
    return _UNWANTED.sub("", text)


def identifier(value: str, field: str) -> str:
    """Answer an id, an address or a foreign id unchanged.

    Sixteen digits that pass for a card are an id as any other: what chats and phones are known by
    is never read as free text.

    Raises: InvalidField.
    """
    if _NOT_IN_IDENTIFIERS.search(value):
        raise _control(field)
    return visible(value, field)


def visible(value: str, field: str) -> str:
    """Answer a text unchanged, which is empty or can be seen.

    Raises: InvalidField.
    """
    if value and not names.is_visible(value):
        raise InvalidField(
            f"{field} cannot be seen",
            violations=[Violation(field, "text.visible", "must hold something that can be seen")],
        )
    return value


def line(value: str, field: str) -> str:
    """Answer a text of one line unchanged; it may hold joiners, as some scripts need them.

    An empty one is for the contract to refuse; one that cannot be seen is refused here.

    Raises: InvalidField.
    """
    if _NOT_IN_NAMES.search(value):
        raise _control(field)
    return visible(value, field)


def name(value: str, field: str) -> str:
    """Answer a name of one line unchanged: one that is stored, and so holds no card number.

    Raises: InvalidField, CardNumberRefused.
    """
    line(value, field)
    if cards.holds_card(value):
        raise _card(field)
    return value


def label(value: str, field: str) -> str:
    """Clean a name that nobody looks anything up by.

    Raises: InvalidField, CardNumberRefused.
    """
    return visible(note(value, field), field)


def note(value: str, field: str) -> str:
    """Clean a text that is no message: it must not hold a card number.

    Raises: CardNumberRefused.
    """
    cleaned = clean(value)
    if cards.holds_card(cleaned):
        raise _card(field)
    return cleaned


def why(value: str, wanted: str, metadata: Mapping[str, str] | None = None) -> str:
    """Clean a reason that must be given; `wanted` says what for.

    Raises: ReasonRequired, CardNumberRefused.
    """
    cleaned = note(value, "reason")
    if not names.is_visible(cleaned):
        raise ReasonRequired(
            f"say why {wanted}",
            metadata=metadata,
            violations=[Violation("reason", "reason.required", "is required")],
        )
    return cleaned


def message(value: str) -> tuple[str, bool]:
    """Clean the text of a message and mask card numbers; answers whether there was one."""
    cleaned = clean(value)
    masked = cards.mask(cleaned)
    return masked, masked != cleaned


class CardCheck:
    """Looks for card numbers in many texts at once, which costs far less than one by one."""

    __slots__ = ("_together",)

    def __init__(self) -> None:
        self._together = cards.Together()

    def add(self, value: str, field: str, *, near: bool = False) -> str:
        """Take a text in, and answer it; `near` where it continues the one before, as in a list."""
        self._together.add(field, value, near=near)
        return value

    def refuse(self) -> None:
        """Refuse the first card number.

        Raises: CardNumberRefused.
        """
        field = self._together.first()
        if field is not None:
            raise _card(field)


def free_data(data: Struct, field: str) -> Struct:
    """Clean free data: its texts are notes, its numbers exact, its size and depth bounded.

    Raises: InvalidField, CardNumberRefused.
    """
    require_size(data.ByteSize(), field)
    cleaned = Struct()
    check = CardCheck()
    _copy_fields(cleaned, data, field, 1, check)
    check.refuse()
    return cleaned


def require_size(size: int, field: str) -> None:
    """Refuse free data that is too large.

    Raises: InvalidField.
    """
    if size > MAX_STRUCT_BYTES:
        raise InvalidField(
            f"{field} takes {size} bytes",
            violations=[
                Violation(field, "struct.max_bytes", f"must not exceed {MAX_STRUCT_BYTES} bytes")
            ],
        )


def _copy_fields(target: Struct, source: Struct, field: str, depth: int, check: CardCheck) -> None:
    for key, value in source.fields.items():
        path = f"{field}.{key}"
        check.add(line(key, field), field)
        _copy_value(target.fields[key], value, path, depth, check)


def _copy_value(
    target: Value, source: Value, field: str, depth: int, check: CardCheck, *, near: bool = False
) -> None:
    if depth > MAX_STRUCT_DEPTH:
        raise InvalidField(
            f"{field} is nested too deeply",
            violations=[
                Violation(field, "struct.max_depth", f"must not exceed {MAX_STRUCT_DEPTH} levels")
            ],
        )
    match source.WhichOneof("kind"):
        case "string_value":
            target.string_value = check.add(clean(source.string_value), field, near=near)
        case "number_value":
            number = target.number_value = _number(source.number_value, field)
            # Digits behind a point are a measure, and any measure may pass for a card.
            if number.is_integer():
                check.add(f"{abs(number):.0f}", field, near=near)
        case "struct_value":
            target.struct_value.SetInParent()
            _copy_fields(target.struct_value, source.struct_value, field, depth + 1, check)
        case "list_value":
            target.list_value.CopyFrom(ListValue())
            for at, value in enumerate(source.list_value.values):
                item = target.list_value.values.add()
                _copy_value(item, value, f"{field}[{at}]", depth + 1, check, near=at > 0)
        case "bool_value":
            target.bool_value = source.bool_value
        case _:
            target.null_value = source.null_value


def _number(value: float, field: str) -> float:
    if not math.isfinite(value):
        raise InvalidField(
            f"{field} is not a finite number",
            violations=[Violation(field, "number.finite", "must be a finite number")],
        )
    if value.is_integer() and abs(value) > MAX_INTEGER:
        raise InvalidField(
            f"{field} is too large to be exact",
            violations=[
                Violation(field, "number.exact", f"must not exceed {MAX_INTEGER}: send a text")
            ],
        )
    return value


def _control(field: str) -> InvalidField:
    return InvalidField(
        f"{field} holds a control character",
        violations=[Violation(field, "text.control", "must not hold control or bidi characters")],
    )


def _card(field: str) -> CardNumberRefused:
    # The number itself must not travel back, nor into a log.
    return CardNumberRefused(
        f"{field} holds a card number",
        violations=[Violation(field, "text.card_number", "must not hold a card number")],
    )
