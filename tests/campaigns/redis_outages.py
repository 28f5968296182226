"""What can happen to Redis: one primary that syncs every write, behind a proxy for each server.

And what it costs to lose its machine: `measure_failover` promotes a replica that was not waited
for, and counts what had been acknowledged and is gone. That is a figure, not a promise.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from tests.campaigns.crowd import Crowd
from tests.campaigns.evidence import Evidence
from tests.campaigns.fleet import Fleet
from tests.campaigns.killing import KillFailure
from tests.campaigns.outages import GUESTS, SERVERS, Fault, OutageCampaign, swallow

from maitred.server.app.server import open_store
from maitred.server.config import Settings
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.redis_server import RedisServer
from maitred.v1 import session_pb2

PREFIX: Final = "maitred:"
PATIENCE_S: Final = 30.0


def redis_campaign(directory: Path, seed: int) -> OutageCampaign:
    """Prepare a campaign on a Redis that is made for it.

    Its `run` raises NoRedis, too.
    """
    return OutageCampaign(directory, seed, RedisPlace.opened)


class RedisPlace:
    """One Redis, and a way to it for each server."""

    def __init__(self, chance: random.Random, server: RedisServer, ways: list[Proxy]) -> None:
        self._random = chance
        self._server = server
        self._ways = ways

    @classmethod
    @asynccontextmanager
    async def opened(cls, chance: random.Random) -> AsyncIterator[RedisPlace]:
        """Start it empty. Raises: NoRedis."""
        async with AsyncExitStack() as stack:
            server = stack.enter_context(RedisServer())
            ways = [await stack.enter_async_context(Proxy(server.address)) for _ in range(SERVERS)]
            yield cls(chance, server, ways)

    @property
    def urls(self) -> list[str]:
        """By the proxies."""
        return [f"redis://{way.address}/0" for way in self._ways]

    @property
    def direct_url(self) -> str:
        """By no proxy."""
        return f"redis://{self._server.address}/0"

    @property
    def faults(self) -> Mapping[str, Fault]:
        """What can happen."""
        return {"crash": self._crash, "cut": self._cut, "swallow": self._swallow}

    async def inspect(self) -> None:
        """Count the entries of every log, and those of the feed. Raises: KillFailure."""
        ask, total = self._server.ask, 0
        for ref in await ask("ZRANGE", f"{PREFIX}refs", 0, -1):
            name = ref.decode()
            version = int(await ask("HGET", f"{PREFIX}head:{name}", "v"))
            versions = await ask("HKEYS", f"{PREFIX}log:{name}")
            requests = await ask("HVALS", f"{PREFIX}requests:{name}")
            if sorted(map(int, versions)) != list(range(1, version + 1)):
                raise KillFailure(f"{name}: the log is not versions 1 to {version}")
            if len(set(requests)) != len(requests):
                raise KillFailure(f"{name}: two requests are one event")
            total += version
        if (fed := await ask("XLEN", f"{PREFIX}feed")) != total:
            raise KillFailure(f"the feed has {fed} entries, the logs have {total}")

    async def _crash(self, _victim: int) -> None:
        """Kill Redis as `kill -9` does, and start it again."""
        self._server.kill()
        await asyncio.sleep(self._random.uniform(0, 0.5))
        await asyncio.to_thread(self._server.start)

    async def _cut(self, _victim: int) -> None:
        """Cut all connections, some times in a row."""
        for _ in range(self._random.randrange(1, 4)):
            for way in self._ways:
                way.cut()
            await asyncio.sleep(self._random.uniform(0, 0.1))

    async def _swallow(self, victim: int) -> None:
        """Keep back the answers to the other server than the victim."""
        await swallow(self._ways[1 - victim], self._random.uniform(0, 0.5))


# ---------------------------------------------------------------- the loss of a machine


@dataclass(slots=True)
class FailoverReport:
    """What was left when a replica had taken over."""

    delay_s: float
    """How far the replica was away, one way."""
    wait_replicas: int
    acknowledged: int = 0
    lost: int = 0
    """Acknowledged, and not on the replica."""
    told: int = 0
    """Watches that were told that they go on in another history."""

    def __str__(self) -> str:
        return (
            f"replica {self.delay_s * 1000:.0f} ms away, wait_replicas={self.wait_replicas}: "
            f"{self.acknowledged} acknowledged, {self.lost} of them lost, "
            f"{self.told} of {GUESTS} watches told so"
        )


async def measure_failover(
    directory: Path, seed: int, *, delay_s: float = 0.02, wait_replicas: int = 0, writes: int = 500
) -> FailoverReport:
    """Lose the machine of a Redis under load, promote its replica, and count.

    What the replica has must be whole: the beginning of what was acknowledged, with nothing amiss.

    Raises: KillFailure, NoRedis.
    """
    report = FailoverReport(delay_s, wait_replicas)
    chance = random.Random(seed)  # repeatable, not secret
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        wire = await stack.enter_async_context(Proxy(primary.address))
        wire.delay = delay_s
        host, _, port = wire.address.partition(":")
        replica = stack.enter_context(RedisServer())
        await replica.ask("REPLICAOF", host, port)
        await _follows(replica)
        ways = [await stack.enter_async_context(Proxy(primary.address)) for _ in range(SERVERS)]
        options = f"?wait_replicas={wait_replicas}" if wait_replicas else ""
        urls = [f"redis://{way.address}/0{options}" for way in ways]
        fleet = await stack.enter_async_context(Fleet(directory, urls))
        crowd = Crowd(fleet, chance, GUESTS)
        try:
            await crowd.begin()
            await crowd.seat()
            crowd.resume()
            await crowd.until(lambda: crowd.report.acknowledged >= writes, "nobody is served")
            await crowd.trial()
            # All at once, as a machine goes: what was under way to the replica is lost.
            for way in (wire, *ways):
                way.refuse = True
                way.cut()
            primary.kill()
        finally:
            await crowd.end()
        report.acknowledged = crowd.report.acknowledged
        # What the manual says for after a failover that may have lost something.
        for number in range(SERVERS):
            await fleet.kill(number)
        await replica.ask("REPLICAOF", "NO", "ONE")
        await replica.ask("HDEL", f"{PREFIX}meta", "epoch")
        for way in ways:
            way.redirect(replica.address)
            way.refuse = False
        for number in range(SERVERS):
            await fleet.start(number)
        report.lost = await _count_lost(replica, crowd)
        for number, guest in enumerate(crowd.guests):
            report.told += await _is_told(fleet, number % SERVERS, guest.session_id, guest.token)
    return report


async def _follows(replica: RedisServer) -> None:
    """Wait for the first copy: a replica without it has lost everything."""
    for _ in range(int(PATIENCE_S / 0.05)):
        info = await replica.ask("INFO", "replication")
        if info.get("master_link_status") == "up":
            return
        await asyncio.sleep(0.05)
    raise KillFailure("the replica does not follow")


async def _count_lost(replica: RedisServer, crowd: Crowd) -> int:
    lost = 0
    store = open_store(Settings(data=f"redis://{replica.address}/0"))
    await store.open()
    try:
        for guest in crowd.guests:
            evidence = Evidence(guest)
            await evidence.follow(store)
            missing = evidence.missing()
            if any(each.version <= evidence.version for each in missing):
                raise KillFailure(f"{guest.session_id}: other events stand where some were")
            lost += len(missing)
    finally:
        await store.close()
    return lost


async def _is_told(fleet: Fleet, number: int, session_id: str, token: bytes) -> bool:
    """Resume a watch of before; tell whether it is refused, as it has to be."""
    request = session_pb2.WatchSessionRequest(session_id=session_id, resume_token=token)
    method, kind = "SessionService/WatchSession", session_pb2.WatchSessionResponse
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for _ in fleet.stream(number, method, request, kind):
                return False
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.OUT_OF_RANGE
    return False
