"""Stores: the protocol is in `base`, an engine is chosen by its URL."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maitred.server.stores.base import Store

__all__ = ["create_store", "remove_unfinished", "without_password"]

_ACCEPTED = (
    "memory://, sqlite:PATH, sqlite:///ABSOLUTE/PATH, the path of a file, "
    "postgresql://HOST/NAME or redis://HOST:PORT/DB"
)


def create_store(url: str, **options: Any) -> Store:
    """Return the store that a URL names, not yet opened; `options` are the engine's own.

    Raises: ValueError for a scheme that is not known.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        scheme, rest = "sqlite", url
    match scheme.lower():
        case "memory" if rest in ("", "//"):
            from maitred.server.stores.memory import MemoryStore  # only the engine chosen

            return MemoryStore(**options)
        case "sqlite" if (path := rest.removeprefix("//")) and path != ":memory:":
            from maitred.server.stores.sqlite import SqliteStore  # only the engine chosen

            return SqliteStore(path, **options)
        case "postgresql" | "postgres" if rest.startswith("//"):
            with _needing("postgres"):
                from maitred.server.stores.postgres import PostgresStore  # only the engine chosen

            return PostgresStore(url, **options)
        case "redis" | "rediss" if rest.startswith("//"):
            with _needing("redis"):
                from maitred.server.stores.redis import RedisStore  # only the engine chosen

            return RedisStore(url, **options)
    raise ValueError(f"unknown store {without_password(url)!r}: use {_ACCEPTED}")


def remove_unfinished(folder: Path) -> int:
    """Delete the backups in a folder that were cut short; returns how many. Raises: OSError."""
    from maitred.server.stores.sqlite.backup import remove_unfinished  # only the engine chosen

    return remove_unfinished(folder)


def without_password(url: str) -> str:
    """Return a store's URL as it may be shown."""
    url = re.sub(r"(://[^/@:]*):[^/?#]*@", r"\1:…@", url)
    return re.sub(r"(?<=[?&])((?:ssl)?password)=[^&]*", r"\1=…", url)


@contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"its driver is missing ({error}): pip install 'maitred[{extra}]'"
        ) from error
