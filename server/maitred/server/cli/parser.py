"""The commands and their flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib import import_module

from maitred.server.cli.failures import EXIT_STATUSES
from maitred.server.config import Parser, SettingsError, add_arguments, nearest

_DESCRIPTION = "The state server for agents that take orders and payments."


class _Version(argparse.Action):
    """Print the version, which is looked up only when needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("maitred")
        except metadata.PackageNotFoundError:
            version = "0+source"
        print(f"maitred {version}")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; `run` in the result executes it.

    Raises: SettingsError.
    """
    parser, commands = build()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        told = f" {argv[0]}" if re.fullmatch(r"[a-z-]{1,20}", argv[0]) else ""
        raise SettingsError(
            f"unknown command{told}{nearest(argv[0], commands)}; see maitred --help"
        )
    return parser.parse_strictly(argv)


def build() -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    """Build the parser, and return it with those of its commands by name."""
    parser = Parser(prog="maitred", description=_DESCRIPTION, epilog=EXIT_STATUSES)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    made: dict[str, argparse.ArgumentParser] = {}

    def add(name: str, run: str, help: str) -> Parser:
        made[name] = command = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".", epilog=EXIT_STATUSES
        )
        command.set_defaults(parser=command, run=_lazy(run))
        return command

    serve = add("serve", "serve:serve", "run the server")
    serve.usage = "maitred serve [-h] [--config FILE] [--SETTING VALUE ...]"
    add_arguments(serve)
    _backup(add("backup", "remote:backup", "make a backup on the running server"))
    _check(add("check", "check:check", "verify stored data, with no server running"))
    _restore(
        add(
            "restore", "restore:restore", "replace a database with a backup, with no server running"
        )
    )
    _check(
        add(
            "repair-clock",
            "repair_clock:repair_clock",
            "correct session expiry after the clock was ahead, with no server running",
        )
    )
    _copy(add("copy", "copy:copy", "copy all data to another store, with no server running"))
    _token(add("token", "token:token", "create a bearer token and print it once"))
    _sessions(add("sessions", "remote:sessions", "list sessions, newest first"))
    _watch(add("watch", "watch:watch", "follow a session as it changes"))
    _pay(add("pay", "pay:pay", "pay as the guest, at the simulated provider"))
    return parser, made


def _lazy(where: str) -> Callable[[argparse.Namespace], int]:
    """Return a command's function; its module is imported when it runs."""
    module, _, function = where.partition(":")

    def run(arguments: argparse.Namespace) -> int:
        found = getattr(import_module(f"maitred.server.cli.{module}"), function)
        status: int = found(arguments)
        return status

    return run


def _remote(parser: Parser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="server address, or unix:PATH (MAITRED_ADDRESS; default: 127.0.0.1:50051)",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="file that contains the token (or set the token in MAITRED_TOKEN; default: none)",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        help="PEM file of the CA that issued the server's certificate; enables TLS "
        "(MAITRED_CA; default: no TLS)",
    )
    group.add_argument(
        "--tls", action="store_true", help="use TLS with the system's CA certificates"
    )


def _backup(parser: Parser) -> None:
    parser.add_argument(
        "path",
        nargs="?",
        default="",
        help="path in the server's backup directory; default: a generated name",
    )
    _remote(parser)


def _check(parser: Parser) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        default="sqlite:maitred.db",
        help="store to open, as in --data; default: sqlite:maitred.db",
    )


def _restore(parser: Parser) -> None:
    parser.add_argument("backup", help="path of the backup")
    parser.add_argument(
        "target", help="database to restore to, as in --data; replaced if it exists"
    )


def _copy(parser: Parser) -> None:
    parser.add_argument("source", help="store to copy from, as in --data")
    parser.add_argument("target", help="store to copy to: empty, or partly copied before")
    parser.add_argument(
        "--accept-data-loss",
        action="store_true",
        help="accept a Redis whose settings may lose acknowledged writes",
    )


def _token(parser: Parser) -> None:
    from_role = ("admin", "staff", "agent", "viewer")
    parser.add_argument("name", help="who the token is for; recorded in every event it causes")
    parser.add_argument("--role", choices=from_role, required=True, help="role of the token")
    parser.add_argument("--session", default="", help="session that a viewer may read")
    parser.add_argument(
        "--expires", metavar="WHEN", help="lifetime (30d, 12h, 90m) or an ISO 8601 time"
    )
    parser.add_argument(
        "--tokens", metavar="FILE", help="file to append to (MAITRED_TOKENS; default: tokens.jsonl)"
    )


def _sessions(parser: Parser) -> None:
    parser.add_argument(
        "--status", choices=("active", "expired", "closed"), help="only sessions with this status"
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only sessions with this label; may be repeated",
    )
    parser.add_argument("--customer", default="", help="only sessions of this customer")
    parser.add_argument(
        "--attention", action="store_true", help="only sessions that need attention"
    )
    parser.add_argument("--limit", type=int, default=50, help="maximum number to show; default: 50")
    _remote(parser)


def _watch(parser: Parser) -> None:
    parser.add_argument("session", help="id of the session")
    parser.add_argument(
        "--after", type=int, metavar="VERSION", help="start after this version; default: now"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document per line")
    _remote(parser)


def _pay(parser: Parser) -> None:
    parser.add_argument("payment", help="payment link, or the provider's id of the payment")
    parser.add_argument("--decline", action="store_true", help="decline the card instead")
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="directory of the provider's records (MAITRED_SIMULATED_DIR; default: from the link)",
    )
