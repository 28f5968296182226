"""Values formatted for people."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain.money import format_money
from maitred.v1.common_pb2 import Money

_BLANKS: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
)
"""Letters, marks and symbols that have no shape and no width to speak of."""


def safe(text: str) -> str:
    """Return a text that cannot steer a terminal, nor hide anything: what is unseen is escaped.

    Whatever a command prints and did not write itself goes through here.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(each) if _is_unseen(each) else each for each in text)


def show(text: str, *, file: TextIO | None = None, painted: bool = False) -> None:
    """Print a line; one that is `painted` has colours, and its parts went through `safe`."""
    print(text if painted else safe(text), file=file, flush=True)


def _is_unseen(character: str) -> bool:
    if character in _BLANKS:
        return True
    category = unicodedata.category(character)
    # Controls, formats (zero width, bidi, tags), surrogates, private and unassigned ones, and the
    # separators of lines and paragraphs.
    return category[0] == "C" or category in ("Zl", "Zp") or _is_selector(character)


def _is_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def enum_word(enum: Any, number: int) -> str:
    """Name a value of an enum without its prefix, in lower case; `-` for none."""
    if number not in enum.values():
        return str(number)
    if number == 0:
        return "-"
    prefix: str = enum.Name(0).removesuffix("UNSPECIFIED")
    return str(enum.Name(number)).removeprefix(prefix).lower().replace("_", " ")


def money_word(amount: Money) -> str:
    """Write an amount; `-` where there is none."""
    return format_money(amount.minor_units, amount.currency) if amount.currency else "-"


def when(time: Timestamp) -> str:
    """Write a time in the reader's own zone, to the second; only the clock for today's."""
    local = time.ToDatetime(tzinfo=UTC).astimezone()
    today = local.date() == datetime.now(UTC).astimezone().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"
