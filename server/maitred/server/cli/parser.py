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
    """Print the version; looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("maitred")
        except metadata.PackageNotFoundError:
            version = "0+source"
        print(f"maitred {version}")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line; `run` in the answer does what it says.

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
    """Build the parser, and those of its commands by name."""
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
    _backup(add("backup", "remote:backup", "have the running server write a copy of its data"))
    _check(add("check", "check:check", "check the data of a server that is not running"))
    _restore(
        add("restore", "restore:restore", "put a backup in place of a database, no server running")
    )
    _check(
        add(
            "repair-clock",
            "repair_clock:repair_clock",
            "put right when sessions expire after the clock was ahead",
        )
    )
    _copy(add("copy", "copy:copy", "copy all data into another engine, no server running"))
    _token(add("token", "token:token", "make a bearer token and print it, once"))
    _sessions(add("sessions", "remote:sessions", "list sessions, newest first"))
    _watch(add("watch", "watch:watch", "show a session as it changes"))
    _pay(add("pay", "pay:pay", "act as the guest at the simulated provider"))
    return parser, made


def _lazy(where: str) -> Callable[[argparse.Namespace], int]:
    """A command's function, whose module is imported only when it runs."""
    module, _, function = where.partition(":")

    def run(arguments: argparse.Namespace) -> int:
        found = getattr(import_module(f"maitred.server.cli.{module}"), function)
        status: int = found(arguments)
        return status

    return run


def _remote(parser: Parser) -> None:
    group = parser.add_argument_group("the server")
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="or unix:PATH (MAITRED_ADDRESS; default: 127.0.0.1:50051)",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="file that holds the token (or the token itself in MAITRED_TOKEN; default: none)",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        help="PEM file of the authority behind the server's certificate; turns TLS on "
        "(MAITRED_CA; default: no TLS)",
    )
    group.add_argument("--tls", action="store_true", help="TLS with the system's authorities")


def _backup(parser: Parser) -> None:
    parser.add_argument(
        "path",
        nargs="?",
        default="",
        help="inside the server's backup directory; default: the server chooses a name",
    )
    _remote(parser)


def _check(parser: Parser) -> None:
    parser.add_argument(
        "data", nargs="?", default="sqlite:maitred.db", help="default: sqlite:maitred.db"
    )


def _restore(parser: Parser) -> None:
    parser.add_argument("backup", help="the backup, as maitred backup named it")
    parser.add_argument("target", help="the database it becomes, as in --data; replaced if there")


def _copy(parser: Parser) -> None:
    parser.add_argument("source", help="where the data is, as in --data")
    parser.add_argument("target", help="where it goes: an empty store, or one half copied")
    parser.add_argument(
        "--accept-data-loss",
        action="store_true",
        help="also from or to a Redis whose settings may lose acknowledged writes",
    )


def _token(parser: Parser) -> None:
    from_role = ("admin", "staff", "agent", "viewer")
    parser.add_argument("name", help="who it is for; stands in every event that it causes")
    parser.add_argument("--role", choices=from_role, required=True, help="what it may do")
    parser.add_argument("--session", default="", help="the session that a viewer may see")
    parser.add_argument("--expires", metavar="WHEN", help="30d, 12h, 90m or a time in ISO 8601")
    parser.add_argument(
        "--tokens", metavar="FILE", help="file to append to (MAITRED_TOKENS; default: tokens.jsonl)"
    )


def _sessions(parser: Parser) -> None:
    parser.add_argument("--status", choices=("active", "expired", "closed"), help="only these")
    parser.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="only those with it"
    )
    parser.add_argument("--customer", default="", help="only those of this customer")
    parser.add_argument("--attention", action="store_true", help="only those that need somebody")
    parser.add_argument("--limit", type=int, default=50, help="most to show; default: 50")
    _remote(parser)


def _watch(parser: Parser) -> None:
    parser.add_argument("session", help="id of the session")
    parser.add_argument(
        "--after", type=int, metavar="VERSION", help="begin after this version; default: now"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document a line")
    _remote(parser)


def _pay(parser: Parser) -> None:
    parser.add_argument("payment", help="the whole link, or the provider's id of the payment")
    parser.add_argument("--decline", action="store_true", help="the card is declined instead")
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help="books of the provider (MAITRED_SIMULATED_DIR; default: where the link says)",
    )
