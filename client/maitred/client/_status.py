"""What a failed call carries: the status, and the details that travel beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from maitred.v1 import common_pb2

_PREFIX = "ERROR_REASON_"
_UNANSWERED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
_DOUBTFUL = frozenset({common_pb2.ERROR_REASON_OUTCOME_UNKNOWN, common_pb2.ERROR_REASON_INTERNAL})
_DOMAIN = "maitred"
_TRAILER = "grpc-status-details-bin"


class FieldViolation(NamedTuple):
    """One broken rule of one field of a request."""

    field: str
    rule: str
    description: str


class MaitredError(Exception):
    """Base of every refusal and failure of a call; `status` tells what the class does not.

    An error that no class stands for, because a newer server sent it or because the transport
    failed, is of this class itself.
    """

    code: ClassVar[common_pb2.ErrorReason.ValueType] = common_pb2.ERROR_REASON_UNSPECIFIED

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        status: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or reason_name(self.code)
        """Such as `INSUFFICIENT_FUNDS`; empty where the error does not come from maitred."""
        self.status = status or _status(self.code)
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        """Seconds to wait before a retry, where the server said so."""

    def __str__(self) -> str:
        return f"{self.reason or self.status.name}: {self.message}"

    @property
    def outcome_unknown(self) -> bool:
        """Whether the command may have happened: retry it with the same request id."""
        return self.code in _DOUBTFUL if self.code else self.status in _UNANSWERED


@cache
def _classes() -> dict[str, type[MaitredError]]:
    return {reason_name(each.code): each for each in MaitredError.__subclasses__() if each.code}


def error_class(reason: str) -> type[MaitredError]:
    """Find the class of a reason; the base where there is none."""
    return _classes().get(reason, MaitredError)


def from_rpc_error(error: grpc.RpcError) -> MaitredError:
    """Rebuild the error that the server raised from what came over the wire."""
    status: grpc.StatusCode = error.code()
    details = read_details(error)
    return error_class(details.reason)(
        error.details() or status.name.lower().replace("_", " "),
        reason=details.reason,
        status=status,
        metadata=details.metadata,
        violations=details.violations,
        retry_after=details.retry_after,
    )


class Details(NamedTuple):
    """What `google.rpc` details say about a failure."""

    reason: str = ""
    metadata: dict[str, str] = {}  # noqa: RUF012 - the default is never changed, only replaced
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None


def read_details(error: grpc.RpcError) -> Details:
    """Read the details of a failed call; none of them is an answer, not an error."""
    details = Details()
    for packed in _packed(error.trailing_metadata() or ()):
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            if info.domain == _DOMAIN:
                details = details._replace(reason=info.reason, metadata=dict(info.metadata))
        elif packed.Unpack(bad):
            details = details._replace(
                violations=tuple(
                    FieldViolation(broken.field, broken.reason, broken.description)
                    for broken in bad.field_violations
                )
            )
        elif packed.Unpack(retry):
            delay = retry.retry_delay
            details = details._replace(retry_after=delay.seconds + delay.nanos / 1e9)
    return details


def _packed(trailers: Iterable[Any]) -> list[any_pb2.Any]:
    for key, value in trailers:
        if key == _TRAILER and isinstance(value, bytes):
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def reason_name(code: common_pb2.ErrorReason.ValueType) -> str:
    """The reason as it travels: without the prefix of the enum."""
    return common_pb2.ErrorReason.Name(code).removeprefix(_PREFIX) if code else ""


def _status(code: common_pb2.ErrorReason.ValueType) -> grpc.StatusCode:
    value = common_pb2.ErrorReason.DESCRIPTOR.values_by_number[code]
    name = value.GetOptions().Extensions[common_pb2.reason].status
    return grpc.StatusCode[name] if name else grpc.StatusCode.UNKNOWN
