"""Exit statuses, and the error that ends a command with one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import grpc.aio

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

EXIT_STATUSES: Final = """\
exit status:
  0    done
  1    it failed, or check found something wrong
  2    a flag, a variable or a setting is wrong
  3    the server cannot be reached
  4    the server refused
  74   the disk failed while writing; restart to recover
  130  interrupted
"""


class CommandError(Exception):
    """A command failed; the message is one line: what happened, and what to do."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Read the reason that a refused call carries; empty where it is not the server's."""
    from google.rpc import error_details_pb2, status_pb2  # only where a call has failed

    from maitred.server.app.grpc_door import DETAILS_KEY

    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
    return str(info.reason)
