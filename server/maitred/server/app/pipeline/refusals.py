"""How errors are sent: the status and details of every reason, bounded in size.

What is not a `MaitredError` goes to the log and nowhere else. A transport only has to put a
`WireError` into its own frames: gRPC into trailers, Connect into JSON.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from maitred.server import errors
from maitred.server.errors import DOMAIN, MaitredError
from maitred.server.stores import base
from maitred.v1.common_pb2 import ErrorReason

MAX_DETAILS_BYTES: Final = 4096
"""Peers refuse metadata beyond 8 KiB, and base64 adds a third."""
MAX_VIOLATIONS: Final = 20
MAX_MESSAGE_BYTES: Final = 512
"""The message travels twice, once percent-encoded at up to three bytes for one."""
_MAX_VALUE_CHARS: Final = 256
_MAX_ENTRIES: Final = 16

_RETRY_AFTER_S: Final = {
    errors.StoreUnavailable: 1.0,
    errors.StoreFull: 1.0,
    errors.OutcomeUnknown: 0.5,
    errors.ShuttingDown: 1.0,
    errors.LockTimeout: 0.5,
    errors.RateLimited: 1.0,
    errors.StripeUnavailable: 2.0,
    errors.NetworkError: 2.0,
    errors.PreviousPaymentUnresolved: 2.0,
}
"""When to try again, where the error itself does not say."""

_STORE: Final[tuple[tuple[type[base.StoreError], type[MaitredError], str], ...]] = (
    (
        base.StoreFull,
        errors.StoreFull,
        "there is no room to write; nothing was changed and reads go on",
    ),
    (
        base.StoreUnavailable,
        errors.StoreUnavailable,
        "the store cannot be reached; nothing was changed",
    ),
    (
        base.OutcomeUnknown,
        errors.OutcomeUnknown,
        "the write may or may not have happened; retry with the same request_id",
    ),
    (base.SchemaTooNew, errors.SchemaTooNew, "the data was written by a newer server"),
)
"""What callers are told of a store's errors, whose own text may name files and hosts."""


class WireError(Exception):
    """The one error that a caller is told, ready to be sent by any transport."""

    def __init__(self, status: str, reason: str, proto: status_pb2.Status) -> None:
        super().__init__(proto.message)
        self.status = status
        """Name of the gRPC status, such as `NOT_FOUND`."""
        self.reason = reason
        """Name of the `ErrorReason`, without its prefix."""
        self.proto = proto
        """Number of the status, message and details: ErrorInfo, RetryInfo, BadRequest."""


def from_store(error: base.StoreError) -> MaitredError | None:
    """Translate a store's error; None for one that is nobody's business but the log's."""
    for kind, translated, message in _STORE:
        if isinstance(error, kind):
            return translated(message)
    return None


def internal(incident_id: str) -> MaitredError:
    """Say no more than where in the log the rest stands."""
    return errors.Internal(
        f"internal error; the server's log has it under {incident_id}",
        metadata={"incident_id": incident_id},
    )


@cache
def _status_of(reason: ErrorReason.ValueType) -> tuple[str, int]:
    """Look up name and number of a reason's status in the contract."""
    name = errors.status_of(reason)
    return name, code_pb2.Code.Value(name)


def to_wire(error: MaitredError) -> WireError:
    """Write an error as status, message and details."""
    name, code = _status_of(error.reason)
    message = _clip(error.message, MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=code, message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN)
    for key, value in list(error.metadata.items())[:_MAX_ENTRIES]:
        info.metadata[key[:64]] = value[:_MAX_VALUE_CHARS]
    while info.metadata and info.ByteSize() > MAX_DETAILS_BYTES // 2:
        del info.metadata[list(info.metadata)[-1]]
    _pack(status, info)
    retry_after_s = error.retry_after_s
    if retry_after_s is None:
        retry_after_s = _RETRY_AFTER_S.get(type(error))
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_after_s * 1_000_000_000))
        _pack(status, retry)
    if error.violations:
        _pack(status, _bad_request(error, MAX_DETAILS_BYTES - 64 - status.ByteSize()))
    return WireError(name, error.reason_name, status)


def _bad_request(error: MaitredError, room: int) -> error_details_pb2.BadRequest:
    """As many violations as there is room for."""
    bad = error_details_pb2.BadRequest()
    for violation in error.violations[:MAX_VIOLATIONS]:
        bad.field_violations.add(
            field=violation.field[:_MAX_VALUE_CHARS],
            reason=violation.rule[:_MAX_VALUE_CHARS],
            description=violation.description[:_MAX_VALUE_CHARS],
        )
        if bad.ByteSize() > room:
            del bad.field_violations[-1]
            break
    return bad


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = AnyMessage()
    packed.Pack(detail)  # type: ignore[arg-type]  # google.rpc has no type stubs
    status.details.append(packed)


def _clip(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"
