"""The Redis settings that are required before anything is acknowledged."""

from __future__ import annotations

import asyncio
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

REWRITE_S: Final = 60.0
"""Longest to wait for a log to be written anew; the next connection waits on."""
REWRITE_LOOK_S: Final = 0.01

Ask = Callable[..., Awaitable[Any]]


class Server(NamedTuple):
    """A server that will do."""

    name: str
    run_id: str
    """Another one after each start."""
    has_log: bool
    replicas: int
    min_replicas_to_write: str
    unsafe: str
    """The settings that were accepted although they may lose data, for the log; or empty."""


async def identify(ask: Ask, address: Address) -> dict[str, str]:
    """Read what a server is.

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
    return info


async def inspect(
    ask: Ask, address: Address, info: dict[str, str], *, accept_data_loss: bool
) -> Server:
    """Look at the settings of a server. Raises: StoreError where it will not do, RedisError."""
    unsafe, least = await _unsafe(ask)
    if unsafe and not accept_data_loss:
        raise StoreError(
            f"Redis at {address.label} may lose what it acknowledged: {unsafe};"
            " or start with --accept-data-loss"
        )
    name = f"Redis {info['redis_version']}"
    if "valkey_version" in info:
        name = f"Valkey {info['valkey_version']}"
    return Server(
        name,
        info["run_id"],
        info.get("aof_enabled") == "1",
        int(info.get("connected_slaves", 0)),
        least,
        unsafe,
    )


async def rewrite_log(ask: Ask, address: Address) -> None:
    """Have a server write its log anew, and wait until it has.

    A power cut may tear the log in the middle of a transaction. Redis, and Valkey before its pull
    request 4342, then cut it behind the last whole command, leave a MULTI without EXEC, and append:
    at the next start half of the torn commit comes to life, or what followed it is lost. A log
    that was written anew has no such tail.

    Raises: StoreUnavailable where it takes too long or fails, RedisError.
    """
    try:
        await ask("BGREWRITEAOF")
    except ResponseError as error:
        # One that another server has asked for will do.
        if "in progress" not in str(error):
            raise
    async with asyncio.timeout(REWRITE_S):
        while True:
            info = _fields(await ask("INFO", "persistence"))
            if not {info["aof_rewrite_in_progress"], info["aof_rewrite_scheduled"]} - {"0"}:
                break
            await asyncio.sleep(REWRITE_LOOK_S)
    if info["aof_last_bgrewrite_status"] != "ok":
        raise StoreUnavailable(f"Redis at {address.label} could not write its log anew")


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
