"""Stores: the protocol is in `base`, an engine is chosen by its URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maitred.server.stores.base import Store

__all__ = ["create_store", "without_password"]

_ACCEPTED = "memory://, sqlite:PATH, sqlite:///ABSOLUTE/PATH, the path of a file, or postgresql://…"


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
            return _postgres(url, options)
    raise ValueError(f"unknown store {url!r}: use {_ACCEPTED}")


def without_password(url: str) -> str:
    """Return a store's URL as it may be logged."""
    url = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:…@", url)
    return re.sub(r"(?<=[?&])((?:ssl)?password)=[^&]*", r"\1=…", url)


def _postgres(url: str, options: dict[str, Any]) -> Store:
    if options.pop("max_bytes", None):
        raise ValueError("the size of a PostgreSQL database cannot be bounded from here")
    try:
        from maitred.server.stores.postgres import PostgresStore  # only the engine chosen
    except ImportError as error:
        raise ValueError(
            f"PostgreSQL needs its driver: pip install 'maitred[postgres]' ({error})"
        ) from error
    return PostgresStore(url, **options)
