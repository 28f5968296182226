"""Stores: the protocol is in `base`, an engine is chosen by its URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maitred.server.stores.base import Store

__all__ = ["create_store", "show_url"]

_ACCEPTED = (
    "memory://, sqlite:PATH, sqlite:///ABSOLUTE/PATH, redis://HOST:PORT/DB or the path of a file"
)


def show_url(url: str) -> str:
    """Return a URL as it may be shown: without user and password."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url)


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
        case "redis" | "rediss" if rest.startswith("//"):
            try:
                from maitred.server.stores.redis import RedisStore  # only the engine chosen
            except ModuleNotFoundError as error:
                raise ValueError(f"{scheme}: needs pip install 'maitred[redis]'") from error
            return RedisStore(url, **options)
    raise ValueError(f"unknown store {show_url(url)!r}: use {_ACCEPTED}")
