"""Settings: every number and name that an operator may choose, documented where it is defined.

A value comes from a flag, else from an environment variable `MAITRED_*`, else from a TOML file,
else from the default. A name that nobody knows is an error, never ignored.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

PREFIX: Final = "MAITRED_"

CLIENT_VARIABLES: Final = frozenset(
    {"MAITRED_CONFIG", "MAITRED_ADDRESS", "MAITRED_TOKEN", "MAITRED_CA"}
)
"""Variables with the prefix that are no settings of the server: its file, and how to reach one."""


class SettingsError(Exception):
    """A setting is unknown or has a value that cannot be; the message is one line for people."""


def setting(
    default: Any,
    group: str,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    secret: bool = False,
) -> Any:
    """Declare one field of `Settings` together with everything there is to say about it."""
    metadata = {"group": group, "help": help, "choices": choices, "least": least, "secret": secret}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server."""

    listen: str = setting(
        "127.0.0.1:50051", "network", "TCP address, HOST:PORT; port 0 takes a free one; empty: none"
    )
    unix_socket: str = setting("", "network", "path of a UNIX socket to listen on; empty: none")
    grace_s: float = setting(
        10.0, "network", "time that running calls get when the server stops, in seconds", least=0
    )
    keepalive_time_s: float = setting(
        30.0, "network", "a silent connection is pinged after so many seconds", least=1
    )
    keepalive_timeout_s: float = setting(
        10.0, "network", "a ping unanswered for so many seconds ends the connection", least=1
    )
    min_ping_interval_s: float = setting(
        10.0, "network", "clients may ping every so many seconds, not more often", least=0
    )
    max_receive_bytes: int = setting(
        4 * 1024 * 1024, "network", "largest request, in bytes", least=1024
    )
    max_send_bytes: int = setting(
        64 * 1024 * 1024, "network", "largest response, in bytes", least=1024
    )
    max_metadata_bytes: int = setting(
        16 * 1024, "network", "largest metadata of a call, in bytes", least=1024
    )
    max_pending_calls: int = setting(
        100_000, "network", "calls that may wait to be taken up before more are refused", least=1
    )
    unary_timeout_s: float = setting(
        60.0,
        "network",
        "longest a call without a deadline may take, streams excepted, in seconds; 0: no bound",
        least=0,
    )
    reflection: bool = setting(True, "network", "describe the contract to tools such as grpcurl")

    tokens: str = setting(
        "", "security", "file of bearer tokens (maitred token writes it); empty: local callers only"
    )
    tls_cert: str = setting("", "security", "PEM file of the server's certificate chain")
    tls_key: str = setting("", "security", "PEM file of the server's private key")
    tls_client_ca: str = setting(
        "", "security", "PEM file of the authority that callers' certificates must come from"
    )
    allow_plaintext: bool = setting(
        False, "security", "let tokens travel unencrypted beyond this machine"
    )

    data: str = setting(
        "sqlite:maitred.db",
        "store",
        "where the data lives: sqlite:PATH, a path, redis://HOST:PORT/DB, or memory://",
    )
    backup_dir: str = setting(
        "backups", "store", "directory that the Backup rpc writes into; made when it is needed"
    )
    store_max_bytes: int = setting(
        0, "store", "largest database, in bytes; writes beyond it are refused; 0: no bound", least=0
    )
    store_queue: int = setting(
        10_000, "store", "commits that may wait for the disk before more are refused", least=1
    )
    max_batch_wait_s: float = setting(
        0.001,
        "store",
        "longest that commits wait for others to share the disk with, in seconds",
        least=0,
    )
    accept_data_loss: bool = setting(
        False, "store", "use a Redis whose settings may lose acknowledged writes"
    )
    cache_sessions: int = setting(
        10_000, "store", "aggregates whose state is kept in memory", least=1
    )

    default_menu_id: str = setting("default", "sessions", "menu of sessions that name none")
    opening_balance_minor: int = setting(
        100_000, "sessions", "opening balance, in minor units of the currency", least=0
    )
    currency: str = setting("USD", "sessions", "currency of sessions that name none, ISO 4217")
    idle_seconds: int = setting(
        3600, "sessions", "a session expires after so many seconds without a write", least=1
    )
    retention_seconds: int = setting(
        30 * 24 * 3600,
        "sessions",
        "an ended session is erased after so many seconds; 0: never",
        least=0,
    )
    max_order_lines: int = setting(1000, "sessions", "most lines that one order may hold", least=1)
    lock_timeout_s: float = setting(
        10.0, "sessions", "longest that a command waits for its session, in seconds", least=0.001
    )
    heartbeat_s: float = setting(
        15.0, "sessions", "a quiet watch says that it is alive every so many seconds", least=0.01
    )

    payments: str = setting("simulated", "payments", "who takes the money", choices=("simulated",))
    tip_percentages: tuple[int, ...] = setting(
        (10, 15, 20), "payments", "tip percentages that SetTip accepts, comma-separated"
    )
    payment_expiry_seconds: int = setting(
        1800, "payments", "a link to pay dies after so many seconds", least=60
    )
    simulated_dir: str = setting(
        "", "payments", "directory of the simulated provider's books; empty: beside the data"
    )
    simulated_outcome: str = setting(
        "manual",
        "payments",
        "what simulated guests do by themselves",
        choices=("manual", "pay", "decline"),
    )
    simulated_delay_s: float = setting(
        0.0, "payments", "how long simulated guests take, in seconds", least=0
    )

    log_format: str = setting(
        "console", "telemetry", "shape of the log", choices=("console", "json")
    )
    log_level: str = setting(
        "info",
        "telemetry",
        "least level that is logged",
        choices=("debug", "info", "warning", "error"),
    )
    metrics_listen: str = setting(
        "", "telemetry", "HTTP address of the Prometheus metrics, HOST:PORT; empty: none"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        for spec in specs():
            _check(spec, getattr(self, spec.name))
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("tls_cert and tls_key are given together or not at all")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("tls_client_ca needs tls_cert and tls_key")
        if not self.listen and not self.unix_socket:
            raise SettingsError("nothing to listen on: set listen or unix_socket")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of one setting."""

    name: str
    type: Any
    default: Any
    group: str
    help: str
    choices: tuple[str, ...]
    least: float | None
    secret: bool

    @property
    def flag(self) -> str:
        """The setting on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The setting in the environment."""
        return PREFIX + self.name.upper()

    def show_default(self) -> str:
        """The default as it would be written."""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return str(self.default) if self.default != "" else "empty"


def specs() -> Iterator[Spec]:
    """Iterate over every setting, in the order of their definition."""
    hints = typing.get_type_hints(Settings)
    for each in dataclasses.fields(Settings):
        yield Spec(each.name, hints[each.name], each.default, **each.metadata)


def _check(spec: Spec, value: Any) -> None:
    if spec.choices and value not in spec.choices:
        raise SettingsError(f"{spec.name}: {value!r} is not one of {', '.join(spec.choices)}")
    # Written so that a NaN, which compares false with everything, is refused too.
    if spec.least is not None and not value >= spec.least:
        raise SettingsError(f"{spec.name}: {value} is below {spec.least:g}")


_WORDS: Final = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def parse(spec: Spec, text: str) -> Any:
    """Read a value as it stands on a command line or in the environment.

    Raises: SettingsError.
    """
    try:
        if typing.get_origin(spec.type) is tuple:
            item = typing.get_args(spec.type)[0]
            return tuple(item(part) for part in text.split(",") if part.strip())
        if spec.type is bool:
            return _WORDS[text.strip().lower()]
        return spec.type(text)
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "yes or no"}
        raise SettingsError(
            f"{spec.name}: {text!r} is not {wanted.get(spec.type, 'a list of whole numbers')}"
        ) from None


def _from_toml(spec: Spec, value: Any) -> Any:
    if typing.get_origin(spec.type) is tuple:
        item = typing.get_args(spec.type)[0]
        if isinstance(value, list) and all(type(part) is item for part in value):
            return tuple(value)
    elif type(value) is spec.type:
        return value
    elif spec.type is float and type(value) is int:
        return float(value)
    raise SettingsError(f"{spec.name}: {value!r} in the file has the wrong type")


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant; empty where none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises what is wrong in one line, with the nearest known flag."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises: SettingsError."""
        raise SettingsError(message)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`.

        Raises: SettingsError.
        """
        namespace, rest = self.parse_known_args(argv)
        if rest:
            unknown = rest[0].partition("=")[0]
            kind = "flag" if unknown.startswith("-") else "argument"
            hint = nearest(unknown, self.flags(namespace)) if kind == "flag" else ""
            raise SettingsError(f"unknown {kind} {unknown}{hint}")
        return namespace

    def flags(self, namespace: argparse.Namespace) -> list[str]:
        """List the flags that would have been accepted."""
        parser: argparse.ArgumentParser = getattr(namespace, "parser", self)
        return [flag for action in parser._actions for flag in action.option_strings]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser one flag for every setting, and `--config`."""
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of settings (MAITRED_CONFIG; default: none)"
    )
    groups: dict[str, Any] = {}
    for spec in specs():
        group = groups.get(spec.group) or parser.add_argument_group(spec.group)
        groups[spec.group] = group
        options: dict[str, Any] = {"dest": spec.name, "default": argparse.SUPPRESS}
        if spec.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = "|".join(spec.choices) or "VALUE"
        text = f"{spec.help} ({spec.env}; default: {spec.show_default()})".replace("%", "%%")
        group.add_argument(spec.flag, help=text, **options)


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Put settings together from parsed flags, the environment and the file that either names.

    Raises: SettingsError.
    """
    known = {spec.name: spec for spec in specs()}
    values: dict[str, Any] = {}
    path = flags.get("config") or environ.get("MAITRED_CONFIG")
    if path:
        values.update(_read_file(Path(path), known))
    by_variable = {spec.env: spec for spec in known.values()}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES:
            continue
        if variable not in by_variable:
            raise SettingsError(f"unknown variable {variable}{nearest(variable, by_variable)}")
        spec = by_variable[variable]
        values[spec.name] = parse(spec, text)
    for name, value in flags.items():
        if name in known:
            values[name] = parse(known[name], value) if isinstance(value, str) else value
    return Settings(**values)


def _read_file(path: Path, known: Mapping[str, Spec]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    for name in found:
        if name not in known:
            raise SettingsError(f"unknown key {name} in {path}{nearest(name, known)}")
    return {name: _from_toml(known[name], value) for name, value in found.items()}


def settings_from(
    argv: Sequence[str] = (), environ: Mapping[str, str] = types.MappingProxyType({})
) -> Settings:
    """Load settings from a bare list of flags and an environment.

    Raises: SettingsError.
    """
    parser = Parser(prog="maitred serve", add_help=False)
    add_arguments(parser)
    return load(vars(parser.parse_strictly(argv)), environ)
