"""maitred sessions and maitred backup: commands sent to a running server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from maitred.server.cli.connection import connect
from maitred.server.cli.failures import CommandError
from maitred.server.cli.words import enum_word, money_word, safe, show, when
from maitred.server.config import SettingsError
from maitred.v1 import admin_pb2, session_pb2, state_pb2

PAGE = 500


def sessions(arguments: argparse.Namespace) -> int:
    """Print a table of sessions."""
    found = asyncio.run(_list(arguments))
    if not found:
        show("no sessions", file=sys.stderr)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("SESSION", "STATUS", "VERSION", "PHASE", "TAB", "PAYMENT", "CHANGED", "LABELS"):
        table.add_column(heading, no_wrap=heading == "SESSION", justify="left")
    for each in found:
        table.add_row(*_row(each))
    # Piped, a table must not be cut at eighty columns.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False, soft_wrap=False).print(table)
    return 0


def _row(session: state_pb2.Session) -> list[str]:
    status = enum_word(state_pb2.SessionStatus, session.status)
    if session.attention:
        status += f" ({enum_word(state_pb2.Attention, session.attention)})"
    return [
        safe(session.session_id),
        status,
        str(session.version),
        enum_word(state_pb2.Phase, session.conversation.phase),
        money_word(session.payment.tab_total),
        enum_word(state_pb2.TabStatus, session.payment.status),
        when(session.updated_at),
        safe(" ".join(f"{key}={value}" for key, value in sorted(session.labels.items()))),
    ]


async def _list(arguments: argparse.Namespace) -> list[state_pb2.Session]:
    request = session_pb2.ListSessionsRequest(
        labels=dict(map(_label, arguments.label)), customer_id=arguments.customer
    )
    if arguments.status:
        request.statuses.append(
            state_pb2.SessionStatus.Value(f"SESSION_STATUS_{arguments.status.upper()}")
        )
    found: list[state_pb2.Session] = []
    async with connect(arguments) as server:
        while len(found) < arguments.limit:
            request.page_size = min(PAGE, arguments.limit - len(found))
            page = await server.call(
                "SessionService/ListSessions", request, session_pb2.ListSessionsResponse
            )
            found += (each for each in page.sessions if each.attention or not arguments.attention)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return found[: arguments.limit]


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--label {text!r} is not KEY=VALUE")
    return key, value


def backup(arguments: argparse.Namespace) -> int:
    """Have a copy written, and print where it is."""
    show(asyncio.run(_backup(arguments)))
    return 0


async def _backup(arguments: argparse.Namespace) -> str:
    request = admin_pb2.BackupRequest(path=arguments.path)
    async with connect(arguments) as server:
        messages = server.stream("AdminService/Backup", request, admin_pb2.BackupResponse)
        last = admin_pb2.BackupResponse()
        with Progress("copying") as tell:
            async for last in messages:
                tell(last.done, last.total)
    if not last.path:
        raise CommandError("the server ended the backup without a copy; see its log")
    show(f"{last.size_bytes} bytes, {last.events} events, checked", file=sys.stderr)
    return last.path


class Progress:
    """A bar on stderr while something takes long; silent where nobody looks."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None

    def __enter__(self) -> Any:
        """Show the bar; answers the function that moves it."""
        if not sys.stderr.isatty():
            return lambda done, total, what="": None
        from rich.console import Console
        from rich.progress import Progress as Bar

        self._bar = Bar(console=Console(stderr=True), transient=True)
        self._bar.start()
        task = self._bar.add_task(self._what, total=None)
        return lambda done, total, what="": self._bar.update(
            task, completed=done, total=total or None, description=what or self._what
        )

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
