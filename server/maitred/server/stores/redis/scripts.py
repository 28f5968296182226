"""The scripts of `lua/`: each is its own file behind the parts that it shares with others."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final, NamedTuple

from maitred.server.stores.values import PAGE_BYTES

_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "adopt": (),
    "bury": ("write",),
    "claim": (),
    "commit": ("write",),
    "count": (),
    "due": ("write",),
    "erase": ("write",),
    "events": ("read",),
    "feed": ("read",),
    "feed_end": (),
    "forgetting": (),
    "lease": (),
    "list_claims": (),
    "list_heads": ("walk",),
    "list_rows": ("read", "walk"),
    "load": ("read",),
    "next_wake": (),
    "probe": (),
    "record": ("read",),
    "redact": (),
    "refs": (),
    "restore": ("write", "staged"),
    "schema": (),
    "stage": ("staged",),
    "tables": (),
    "versions": (),
}
"""What each script needs besides keys.lua, in this order."""


class Script(NamedTuple):
    """A script as Redis knows it."""

    name: str
    sha: bytes
    source: bytes


def _load() -> dict[str, Script]:
    folder = resources.files(__package__ or __name__) / "lua"
    found: dict[str, Script] = {}
    for name, parts in _PARTS.items():
        source = b"\n".join(
            (folder / f"{part}.lua").read_bytes() for part in ("keys", *parts, name)
        )
        source = b"local PAGE_BYTES = %d\n" % PAGE_BYTES + source
        sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        found[name] = Script(name, sha, source)
    return found


SCRIPTS: Final = _load()
