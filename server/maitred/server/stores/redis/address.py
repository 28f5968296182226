"""The URL of a store: what is the driver's, and what is ours."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

DEFAULT_PREFIX: Final = "maitred"


class Address(NamedTuple):
    """Where a store is, and under which names."""

    url: str
    """For the driver; it may hold a password, so it is never shown."""
    label: str
    """For people."""
    prefix: str
    """What every key of this store begins with, before a colon."""
    wait_replicas: int
    """How many replicas must have a commit before it is acknowledged."""


def parse_address(url: str) -> Address:
    """Take the parameters `prefix` and `wait_replicas` out of a URL.

    Raises: ValueError.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    prefix = query.pop("prefix", [DEFAULT_PREFIX])[-1]
    count = query.pop("wait_replicas", ["0"])[-1]
    if not count.isdecimal():
        raise ValueError(f"wait_replicas={count} is not a number of replicas")
    if not prefix or not prefix.isascii() or not prefix.isprintable():
        raise ValueError(f"prefix={prefix!r} is no prefix of keys")
    driver = urlunsplit(parts._replace(query=urlencode(query, doseq=True)))
    label = f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"
    return Address(driver, label, prefix, int(count))
