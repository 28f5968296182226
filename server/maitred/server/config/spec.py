"""What a setting is: a field of a dataclass with everything there is to say about it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

PREFIX: Final = "MAITRED_"


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
    everyday: bool = False,
) -> Any:
    """Declare one field of `Settings` together with everything there is to say about it.

    An `everyday` setting is one that most servers set: `--help` shows those, `--help-all` the rest.
    """
    metadata = {
        "group": group,
        "help": help,
        "choices": choices,
        "least": least,
        "secret": secret,
        "everyday": everyday,
    }
    return field(default=default, metadata=metadata, repr=not secret)


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
    everyday: bool

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
            return ",".join(map(str, self.default)) or "empty"
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return str(self.default) if self.default != "" else "empty"


def specs_of(settings: type[Any]) -> Iterator[Spec]:
    """Iterate over every setting of a class, in the order of their definition."""
    hints = typing.get_type_hints(settings)
    for each in dataclasses.fields(settings):
        yield Spec(each.name, hints[each.name], each.default, **each.metadata)


def check(spec: Spec, value: Any) -> None:
    """Hold a value to what its setting allows.

    What was given is never repeated: what stands in the wrong place is as likely as not a secret.

    Raises: SettingsError.
    """
    if spec.choices and value not in spec.choices:
        raise SettingsError(f"{spec.name}: what was given is not one of {', '.join(spec.choices)}")
    # Written so that a NaN, which compares false with everything, is refused too.
    if spec.least is not None and not value >= spec.least:
        raise SettingsError(f"{spec.name}: what was given is below {spec.least:g}")
