"""Values as people read them."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain.money import format_money
from maitred.v1.common_pb2 import Money


def safe(text: str) -> str:
    """Return a text that cannot steer a terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(each) else each for each in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    )


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
