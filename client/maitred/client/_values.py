"""Plain Python values as the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


def struct(values: Mapping[str, Any] | None) -> Struct | None:
    """Make a Struct of what JSON could hold."""
    if values is None:
        return None
    made = Struct()
    made.update(dict(values))
    return made


def duration(seconds: float) -> Duration:
    """Make a Duration of seconds."""
    made = Duration()
    made.FromNanoseconds(round(seconds * 1_000_000_000))
    return made


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Make a Timestamp of an aware datetime.

    Raises: ValueError for a naive one, which names no moment.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone names no moment")
    made = Timestamp()
    made.FromDatetime(moment.astimezone(UTC))
    return made
