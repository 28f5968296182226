"""The command line: `maitred`. What fails says in one line what happened and what to do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from maitred.server.cli.failures import (
    FAILED,
    INTERRUPTED,
    REFUSED,
    UNREACHABLE,
    USAGE,
    CommandError,
)
from maitred.server.config import SettingsError

if TYPE_CHECKING:
    import grpc

__all__ = ["main"]


EXTRAS: Final = dict.fromkeys(
    "aiosqlite grpc_health grpc_reflection httptools prometheus_client protobuf protovalidate rich "
    "structlog uvicorn".split(),
    "server",
) | {"stripe": "stripe", "starlette": "stripe", "psycopg": "postgres", "redis": "redis"}
"""What a command may miss, and the extra that brings it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; answers the exit status."""
    from maitred.server.cli.parser import parse

    # gRPC's own lines about connections are not for people.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        status: int = arguments.run(arguments)
    except SettingsError as error:
        return _say(str(error), USAGE)
    except CommandError as error:
        return _say(str(error), error.status)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python must not complain while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ImportError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _say(f"{error.name} is not installed: pip install 'maitred[{extra}]'", USAGE)
    except Exception as error:
        from grpc.aio import AioRpcError

        if not isinstance(error, AioRpcError):
            raise
        return _say(*_explain(error))
    return status


def _say(message: str, status: int) -> int:
    from maitred.server.cli.words import show

    show(f"maitred: {' '.join(message.split())}", file=sys.stderr)
    return status


def _explain(error: grpc.aio.AioRpcError) -> tuple[str, int]:
    """Tell a failed call in words."""
    from maitred.server.cli.failures import reason_of

    code = error.code().name
    reason = reason_of(error)
    if not reason and code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return f"cannot reach the server: {error.details()}; is maitred serve running?", UNREACHABLE
    if code == "UNAUTHENTICATED":
        return f"{error.details()}; set MAITRED_TOKEN or --token-file", REFUSED
    return f"refused: {reason or code}: {error.details()}", REFUSED
