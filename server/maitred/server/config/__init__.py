"""Settings: every number and name that an operator may choose, documented where it is defined.

A value comes from a flag, else from an environment variable `MAITRED_*`, else from a TOML file,
else from the default. A name that nobody knows is an error, never ignored.
"""

from collections.abc import Iterator

from maitred.server.config.settings import Settings
from maitred.server.config.sources import (
    CLIENT_VARIABLES,
    Parser,
    add_arguments,
    load,
    nearest,
    settings_from,
)
from maitred.server.config.spec import PREFIX, SettingsError, Spec, specs_of

__all__ = [
    "CLIENT_VARIABLES",
    "PREFIX",
    "Parser",
    "Settings",
    "SettingsError",
    "Spec",
    "add_arguments",
    "load",
    "nearest",
    "settings_from",
    "specs",
]


def specs() -> Iterator[Spec]:
    """Iterate over every setting, in the order of their definition."""
    return specs_of(Settings)
