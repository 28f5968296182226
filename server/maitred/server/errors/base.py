"""What every error has in common; the classes themselves are generated from the contract.

The gRPC status of a reason is an option of its enum value. Messages are for callers, not the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from maitred.v1 import common_pb2

DOMAIN = "maitred"


class Violation(NamedTuple):
    """One broken rule of one field of a request."""

    field: str
    rule: str
    description: str


class MaitredError(Exception):
    """Base of everything that a caller is told."""

    reason: ClassVar[common_pb2.ErrorReason.ValueType]

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    @property
    def reason_name(self) -> str:
        """The reason as it travels: without the prefix of the enum."""
        return common_pb2.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")


def status_of(reason: common_pb2.ErrorReason.ValueType) -> str:
    """Read the gRPC status of a reason from the contract."""
    value = common_pb2.ErrorReason.DESCRIPTOR.values_by_number[reason]
    return str(value.GetOptions().Extensions[common_pb2.reason].status)
