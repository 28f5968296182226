"""Where a watch of one session resumes."""

from __future__ import annotations

from maitred.server.engine import wire
from maitred.server.engine.tokens import Seal
from maitred.server.errors import InvalidField, VersionOutOfRange, Violation
from maitred.v1.payment_pb2 import WatchPaymentRequest
from maitred.v1.session_pb2 import WatchSessionRequest

Request = WatchSessionRequest | WatchPaymentRequest


def resume_after(request: Request, seal: Seal, newest: int) -> int | None:
    """Find the version after which to resume; None to begin with what is.

    Raises: InvalidField, VersionOutOfRange.
    """
    metadata = {"oldest": "1", "newest": str(newest)}
    if request.resume_token:
        if request.HasField("after_version"):
            raise one_of("after_version", "resume_token")
        place = seal.place(request.resume_token)
        version = None if place is None else wire.read_varint(place)
        if version is None:
            raise VersionOutOfRange(
                "the resume token is not of this stream, or of another history of this store",
                metadata=metadata,
            )
    elif request.HasField("after_version"):
        version = request.after_version
    else:
        return None
    if version > newest:
        raise VersionOutOfRange(f"version {version} is ahead of the log", metadata=metadata)
    return version


def one_of(first: str, second: str) -> InvalidField:
    """Make the refusal of two fields of which only one may be set."""
    text = f"{first} and {second} exclude one another"
    return InvalidField(text, violations=[Violation(first, "one_of", text)])
