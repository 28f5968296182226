"""Text from people and models: what is dropped, what is masked and what is refused.

Control and bidirectional characters can make a text read otherwise than it is stored, so they never
get in. Card numbers are no business of a conversation: in messages they are masked, anywhere else
they are refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from maitred.server.domain import names
from maitred.server.errors import CardNumberRefused, InvalidField, ReasonRequired, Violation

MAX_STRUCT_BYTES = 16 * 1024
"""Serialised size of free data, such as attributes or a context."""

MAX_STRUCT_DEPTH = 16
"""Levels of free data: protobuf reads a hundred messages within each other, of which a level takes
three, and an event is read within others.
"""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNWANTED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}]")
_NOT_IN_NAMES = re.compile(f"[\x00-\x1f\x7f-\x9f{_BIDI}]")
_NOT_IN_IDENTIFIERS = re.compile(f"[\x00-\x1f\x7f-\x9f\u200c\u200d{_BIDI}]")

# What people put between the digits of a card number, and what hides there unseen.
_GAP = (
    "[ \u00a0\u2000-\u200a\u202f\u205f\u3000"
    "\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
    "\u00ad\u200b-\u200d\u2060\ufeff]"
)
_DIGITS = re.compile(rf"(?<!\d)\d(?:{_GAP}{{0,3}}\d){{12,}}")
_RANDOM = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=\d*[a-fA-F])[0-9a-fA-F]{20,})(?![0-9A-Za-z])"
)
"""UUIDs and digests in hex: their digits pass for a card now and then, and nobody writes one so."""
_SHORTEST_CARD = 13

_LONGEST_PHONE = 15
"""Digits of an international phone number (E.164), which begins with a plus sign."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""Sums of the digits of twice a digit."""


class _Issuer(NamedTuple):
    """A range of leading digits and the lengths that its cards have."""

    low: str
    high: str
    lengths: range | tuple[int, ...]


_ISSUERS = (
    _Issuer("4", "4", (13, 16, 19)),  # Visa
    _Issuer("51", "55", (16,)),  # Mastercard
    _Issuer("2221", "2720", (16,)),  # Mastercard
    _Issuer("34", "34", (15,)),  # American Express
    _Issuer("37", "37", (15,)),  # American Express
    _Issuer("6011", "6011", range(16, 20)),  # Discover
    _Issuer("644", "659", range(16, 20)),  # Discover
    _Issuer("300", "305", range(14, 20)),  # Diners Club
    _Issuer("3095", "3095", range(14, 20)),  # Diners Club
    _Issuer("36", "36", range(14, 20)),  # Diners Club
    _Issuer("38", "39", range(14, 20)),  # Diners Club
    _Issuer("3528", "3589", range(16, 20)),  # JCB
    _Issuer("62", "62", range(16, 20)),  # UnionPay
    _Issuer("81", "81", range(16, 20)),  # UnionPay, RuPay
    _Issuer("60", "60", (16,)),  # RuPay
    _Issuer("82", "82", (16,)),  # RuPay
    _Issuer("2200", "2204", range(16, 20)),  # Mir
    _Issuer("9792", "9792", (16,)),  # Troy
    _Issuer("50", "50", range(13, 20)),  # Maestro
    _Issuer("56", "58", range(13, 20)),  # Maestro
    _Issuer("6304", "6304", range(13, 20)),  # Maestro
    _Issuer("67", "67", range(13, 20)),  # Maestro
)


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


def name(value: str, field: str) -> str:
    """Answer a name of one line unchanged; it may hold joiners, as some scripts need them.

    An empty one is for the contract to refuse; one that cannot be seen is refused here.

    Raises: InvalidField, CardNumberRefused.
    """
    if _NOT_IN_NAMES.search(value):
        raise _control(field)
    if _cards(value):
        raise _card(field)
    return visible(value, field)


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
    if _cards(cleaned):
        raise _card(field)
    return cleaned


def why(value: str, wanted: str, metadata: Mapping[str, str] | None = None) -> str:
    """Clean a reason that must be given; `wanted` says what for.

    Raises: ReasonRequired, CardNumberRefused.
    """
    cleaned = note(value, "reason")
    if not cleaned.strip():
        raise ReasonRequired(
            f"say why {wanted}",
            metadata=metadata,
            violations=[Violation("reason", "reason.required", "is required")],
        )
    return cleaned


def message(value: str) -> tuple[str, bool]:
    """Clean the text of a message and mask card numbers; answers whether there was one."""
    cleaned = clean(value)
    cards = _cards(cleaned)
    if not cards:
        return cleaned, False
    chars = list(cleaned)
    for start, end in cards:
        digits = [at for at in range(start, end) if chars[at].isdecimal()]
        for at in digits[:-4]:
            chars[at] = "*"
    return "".join(chars), True


def free_data(data: Struct, field: str) -> Struct:
    """Clean free data: its texts are notes, its numbers finite, its size and depth bounded.

    Raises: InvalidField, CardNumberRefused.
    """
    cleaned = Struct()
    for key, value in data.fields.items():
        _copy_value(cleaned.fields[name(key, field)], value, f"{field}.{key}", 1)
    require_size(cleaned.ByteSize(), field)
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


def _copy_value(target: Value, source: Value, field: str, depth: int) -> None:
    if depth > MAX_STRUCT_DEPTH:
        raise InvalidField(
            f"{field} is nested too deeply",
            violations=[
                Violation(field, "struct.max_depth", f"must not exceed {MAX_STRUCT_DEPTH} levels")
            ],
        )
    match source.WhichOneof("kind"):
        case "string_value":
            target.string_value = note(source.string_value, field)
        case "number_value":
            target.number_value = _number(source.number_value, field)
        case "struct_value":
            target.struct_value.SetInParent()
            for key, value in source.struct_value.fields.items():
                inner = target.struct_value.fields[name(key, field)]
                _copy_value(inner, value, f"{field}.{key}", depth + 1)
        case "list_value":
            target.list_value.CopyFrom(ListValue())
            for at, value in enumerate(source.list_value.values):
                _copy_value(target.list_value.values.add(), value, f"{field}[{at}]", depth + 1)
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
    if value.is_integer() and _cards(f"{value:.0f}"):
        raise _card(field)
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


def _cards(text: str) -> list[tuple[int, int]]:
    """Find the card numbers of a text, as ranges of it, first ones first."""
    found: list[tuple[int, int]] = []
    if len(text) < _SHORTEST_CARD:
        return found
    for run in _DIGITS.finditer(text):
        at = [i for i in range(run.start(), run.end()) if text[i].isdecimal()]
        if len(at) <= _LONGEST_PHONE and text[run.start() - 1 : run.start()] == "+":
            continue
        digits = "".join(str(unicodedata.decimal(text[i])) for i in at)
        first = 0
        while first + _SHORTEST_CARD <= len(at):
            length = _card_length(digits, at, first)
            if length:
                found.append((at[first], at[first + length - 1] + 1))
            first += length or 1
    if found:
        random = [each.span() for each in _RANDOM.finditer(text)]
        found = [
            card
            for card in found
            if not any(start <= card[0] and card[1] <= end for start, end in random)
        ]
    return found


def _card_length(digits: str, at: list[int], first: int) -> int:
    """Measure the longest card number that begins at a digit; 0 where none does.

    It has to begin and end where the writer began or ended a group, so that a part of a longer
    number is no card.
    """
    if first and at[first] == at[first - 1] + 1:
        return 0
    for length in sorted(_lengths(digits[first : first + 4]), reverse=True):
        end = first + length
        if end > len(at) or (end < len(at) and at[end] == at[end - 1] + 1):
            continue
        if _luhn(digits[first:end]):
            return length
    return 0


@lru_cache(maxsize=10_000)
def _lengths(prefix: str) -> frozenset[int]:
    """How long cards are that begin with these four digits; none where no issuer has them."""
    return frozenset(
        length
        for issuer in _ISSUERS
        if issuer.low <= prefix[: len(issuer.low)] <= issuer.high
        for length in issuer.lengths
    )


def _luhn(digits: str) -> bool:
    values = [int(char) for char in reversed(digits)]
    return (sum(values[::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0
