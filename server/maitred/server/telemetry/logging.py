"""Logs: one line an event, for people or as JSON, each with the call that it belongs to."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, TextIO, cast

import structlog

from maitred.server.telemetry.redaction import redact


class CallContext(Protocol):
    """What a log line says about the call that it belongs to."""

    @property
    def method(self) -> str:
        """Full name of the rpc."""

    @property
    def trace_id(self) -> str:
        """Ties the lines of one call together."""


CURRENT_CALL: Final[ContextVar[CallContext | None]] = ContextVar("maitred_call", default=None)
"""The call whose task is running. It is looked at only when something is logged."""


class _Lossy:
    """A stream that drops what it cannot write: a full disk or a closed pipe must fail no call."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        """Flush, or leave it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Handler(logging.StreamHandler[TextIO]):
    """The handler of `configure`, so that configuring again replaces it and no other."""


def add_call(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add method and trace id of the running call; a structlog processor."""
    call = CURRENT_CALL.get()
    if call is not None:
        event.setdefault("method", call.method)
        event.setdefault("trace_id", call.trace_id)
    return event


def configure(format: str = "console", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up the log of the process; the standard library's goes the same way."""
    out = stream or sys.stderr
    shared: list[Any] = [
        add_call,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    render: Any
    if format == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.dev.ConsoleRenderer(colors=out.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lossy(out))),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(cast("TextIO", _Lossy(out)))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING) if number > logging.DEBUG else number)
    # Client cancellations at the end of the grace period are told there as errors with a traceback.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
    # Its debug lines are about every connection of the loop.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
