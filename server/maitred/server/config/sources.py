"""Where settings come from: a flag, else a variable, else a TOML file, else the default."""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from maitred.server.config.settings import Settings
from maitred.server.config.spec import PREFIX, SettingsError, Spec, specs_of

CLIENT_VARIABLES: Final = frozenset(
    {"MAITRED_CONFIG", "MAITRED_ADDRESS", "MAITRED_TOKEN", "MAITRED_CA"}
)
"""Variables with the prefix that are no settings of the server: its file, and how to reach one."""


_WORDS: Final = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


_WANTED: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "yes or no",
    tuple[int, ...]: "a list of whole numbers",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of strings",
    str: "a string",
}

_KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "yes or no",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}

_FLAG: Final = re.compile(r"--?[a-z][a-z-]{0,39}(?![A-Za-z0-9_])")
"""What of an unknown flag may be told: words; what else is glued to it may be a secret."""

_PLACE: Final = re.compile(r"line \d+, column \d+|end of document")

_QUOTED: Final = (
    # argparse quotes what it cannot read, which may be a secret in the wrong place.
    (re.compile(r"invalid choice: .*? \(choose from ", re.DOTALL), "not one of these: ("),
    (re.compile(r"invalid (\w+) value: .*", re.DOTALL), r"not a valid \1"),
    (re.compile(r"ignored explicit argument .*", re.DOTALL), "takes no value"),
)

_SERVICE: Final = re.compile(
    r"MAITRED(_[A-Z0-9_]+)?_("
    r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINK: Final = re.compile(r"(?:tcp|udp|sctp)://[^/]+")
_LINKED: Final = re.compile(r"_(NAME|ENV_.+)")


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
        raise SettingsError(f"{spec.name}: what was given is not {_WANTED[spec.type]}") from None


def _from_toml(spec: Spec, value: Any) -> Any:
    if typing.get_origin(spec.type) is not tuple:
        return _as_type(spec, spec.type, value)
    if not isinstance(value, list):
        raise _wrong_type(spec, value)
    item = typing.get_args(spec.type)[0]
    return tuple(_as_type(spec, item, part) for part in value)


def _as_type(spec: Spec, wanted: Any, value: Any) -> Any:
    if type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    raise _wrong_type(spec, value)


def _wrong_type(spec: Spec, value: Any) -> SettingsError:
    # The kind and not the value: what stands in the wrong place is as likely as not a secret.
    found = _KINDS.get(type(value), "a date or time")
    return SettingsError(
        f"{spec.name}: {found} in the file has the wrong type, {_WANTED[spec.type]} belongs there"
    )


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
        for quoted, told in _QUOTED:
            message = quoted.sub(told, message)
        raise SettingsError(message)

    def _parse_optional(self, arg_string: str) -> Any:
        """Take what begins with one dash and is no flag for a value: ids of chats begin so."""
        is_flag = arg_string.startswith("--") or arg_string in self._option_string_actions
        return super()._parse_optional(arg_string) if is_flag else None

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`.

        Raises: SettingsError.
        """
        namespace, rest = self.parse_known_args(argv)
        if rest:
            raise SettingsError(self._stray(rest[0], argv, namespace))
        return namespace

    def _stray(self, stray: str, argv: Sequence[str], namespace: argparse.Namespace) -> str:
        """Say what nobody asked for without repeating it: it may be a secret that lost its flag."""
        if not stray.startswith("-"):
            place = list(argv).index(stray) + 1 if stray in argv else 0
            return f"unknown argument{f' in place {place}' * bool(place)}, which is not shown here"
        if not (flag := _FLAG.match(stray)):
            return "unknown flag, which is not shown here"
        return f"unknown flag {flag[0]}{nearest(flag[0], self.flags(namespace))}"

    def flags(self, namespace: argparse.Namespace) -> list[str]:
        """List the flags that would have been accepted."""
        parser: argparse.ArgumentParser = getattr(namespace, "parser", self)
        return [flag for action in parser._actions for flag in action.option_strings]


class _HelpAll(argparse.Action):
    """Print the help with every setting in it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        for action in parser._actions:
            action.help = _FULL_HELP.get(action.dest, action.help)
        parser.print_help()
        parser.exit()


_FULL_HELP: Final[dict[str, str]] = {}
"""The help of the settings that `--help` leaves out, by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser one flag for every setting, `--config` and `--help-all`."""
    parser.add_argument(
        "--help-all",
        action=_HelpAll,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show this help with every setting and exit",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of settings (MAITRED_CONFIG; default: none)"
    )
    groups: dict[str, Any] = {}
    for spec in specs_of(Settings):
        group = groups.get(spec.group) or parser.add_argument_group(spec.group)
        groups[spec.group] = group
        options: dict[str, Any] = {"dest": spec.name, "default": argparse.SUPPRESS}
        if spec.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = "|".join(spec.choices) or "VALUE"
        text = f"{spec.help} ({spec.env}; default: {spec.show_default()})".replace("%", "%%")
        if not spec.everyday:
            _FULL_HELP[spec.name], text = text, argparse.SUPPRESS
        group.add_argument(spec.flag, help=text, **options)


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Put settings together from parsed flags, the environment and the file that either names.

    Raises: SettingsError.
    """
    known = {spec.name: spec for spec in specs_of(Settings)}
    values: dict[str, Any] = {}
    path = flags.get("config") or environ.get("MAITRED_CONFIG")
    if path:
        values.update(_read_file(Path(path), known))
    by_variable = {spec.env: spec for spec in known.values()}
    links = _service_links(environ)
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES:
            continue
        if variable not in by_variable:
            if variable in links:
                continue
            raise SettingsError(f"unknown variable {variable}{nearest(variable, by_variable)}")
        spec = by_variable[variable]
        values[spec.name] = parse(spec, text)
    for name, value in flags.items():
        if name in known:
            values[name] = parse(known[name], value) if isinstance(value, str) else value
    return Settings(**values)


def _service_links(environ: Mapping[str, str]) -> set[str]:
    """Find what Kubernetes and Docker set for services that are called maitred, or begin so."""
    own = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    links = {name for name in own if _SERVICE.fullmatch(name)}
    ports = {name for name in own if name.endswith("_PORT") and _LINK.fullmatch(own[name])}
    linked = {
        name
        for name in own
        for port in ports
        if name.startswith(stem := port.removesuffix("_PORT")) and _LINKED.match(name[len(stem) :])
    }
    return links | ports | linked


def _read_file(path: Path, known: Mapping[str, Spec]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not TOML: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Only where, not what: the parser may quote what it stumbled over.
        place = _PLACE.search(str(error))
        raise SettingsError(f"{path} is not TOML{f': see {place[0]}' if place else ''}") from None
    for name in found:
        if name not in known:
            # A key is told as far as it is a word: a secret without its name stands there, too.
            told = name if re.fullmatch(r"[a-z][a-z_]{0,39}", name) else "(not shown)"
            raise SettingsError(f"unknown key {told} in {path}{nearest(name, known)}")
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
