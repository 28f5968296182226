"""What a Redis must be before anything is acknowledged on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from maitred.server.stores.base import StoreError, StoreUnavailable
from maitred.server.stores.redis.address import Address

OLDEST: Final = (6, 2)
"""The feed reads ranges that exclude their beginning, which older ones cannot."""

REQUIRED: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    # Else nothing is synced while a child rewrites the log.
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
"""The settings without which an acknowledged commit may be lost to a power cut or to eviction."""

Ask = Callable[..., Awaitable[Any]]


class Server(NamedTuple):
    """A server that will do."""

    name: str
    replicas: int
    min_replicas_to_write: str
    unsafe: str
    """The settings that were accepted although they may lose data, for the log; or empty."""


async def inspect(ask: Ask, address: Address, *, accept_data_loss: bool) -> Server:
    """Look at a server.

    Raises: StoreUnavailable where it is not ready, StoreError where it will not do, RedisError.
    """
    info = _fields(await ask("INFO"))
    here = f"Redis at {address.label}"
    if info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
        raise StoreError(
            f"{here} is a cluster, where no commit could span keys: use a single primary"
        )
    if info.get("redis_mode") == "sentinel":
        raise StoreError(f"{here} is a sentinel, which holds no data: name the primary")
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise StoreError(f"{here} is version {version}: 6.2 or newer is needed")
    if info.get("loading") == "1":
        raise StoreUnavailable(f"{here} is still loading its data")
    if info.get("role") != "master":
        raise StoreUnavailable(f"{here} is a replica: name the primary")
    unsafe, least = await _unsafe(ask)
    if unsafe and not accept_data_loss:
        raise StoreError(
            f"{here} may lose what it acknowledged: {unsafe}; or start with --accept-data-loss"
        )
    name = f"Redis {version}"
    if "valkey_version" in info:
        name = f"Valkey {info['valkey_version']}"
    return Server(name, int(info.get("connected_slaves", 0)), least, unsafe)


async def _unsafe(ask: Ask) -> tuple[str, str]:
    """Say what is to be set, and read how many replicas a write needs."""
    found: dict[str, str] = {}
    try:
        for name in (*REQUIRED, "min-replicas-to-write"):
            answer = await ask("CONFIG", "GET", name)
            found[name] = answer[1].decode() if len(answer) == 2 else "unknown"
    except ResponseError as error:
        return f"it does not show its settings ({error})", "unknown"
    wrong = [
        f"set {name} {wanted} (it is {found[name]})"
        for name, wanted in REQUIRED.items()
        if found[name] != wanted
    ]
    return ", ".join(wrong), found["min-replicas-to-write"]


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
