"""Faults of PostgreSQL: a primary with a synchronous standby, behind proxies.

Each server reaches each of the two by a proxy of its own, so that both keep their address when
they are built anew, and one server can be cut off without the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, Final, LiteralString

from tests.campaigns.killing import KillFailure
from tests.campaigns.outages import SERVERS, Fault, OutageCampaign, swallow

from maitred.server.testing.postgres_server import PostgresServer
from maitred.server.testing.proxy import Proxy

NAMES: Final = ("standby_a", "standby_b")
SETTINGS: Final = {
    "synchronous_standby_names": f"ANY 1 ({', '.join(NAMES)})",
    "synchronous_commit": "on",
    "wal_retrieve_retry_interval": "100ms",
    "wal_keep_size": "256MB",
}
DATABASE: Final = "maitred"
PATIENCE_S: Final = 60.0

TERMINATE: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""

IN_STEP: Final = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"

UNEVEN: Final = """
SELECT a.id, a.version, count(e.version), min(e.version), max(e.version),
       count(e.request_id), count(DISTINCT e.request_id)
FROM maitred.aggregates AS a LEFT JOIN maitred.events AS e USING (kind, id)
GROUP BY a.kind, a.id, a.version
HAVING count(e.version) <> a.version OR max(e.version) <> a.version OR min(e.version) <> 1
    OR count(e.request_id) <> count(DISTINCT e.request_id)"""
"""Aggregates whose log is not versions 1, 2, … up to that of the head, each request once."""

ORPHANS: Final = """
SELECT count(*) FROM maitred.events AS e
WHERE NOT EXISTS (SELECT FROM maitred.aggregates AS a WHERE a.kind = e.kind AND a.id = e.id)"""

SAME_POSITION: Final = """
SELECT lane, position FROM maitred.events GROUP BY lane, position HAVING count(*) > 1"""


def postgres_campaign(directory: Path, seed: int) -> OutageCampaign:
    """Prepare a campaign on a PostgreSQL with a synchronous standby, both made for it.

    Its `run` raises NoPostgres, too.
    """
    return OutageCampaign(directory, seed, PostgresPlace.opened)


class PostgresPlace:
    """Two PostgreSQL that take turns as primary and synchronous standby."""

    def __init__(self, chance: random.Random, nodes: list[PostgresServer]) -> None:
        self._random = chance
        self._nodes = nodes
        self._primary = 0
        self._proxies: list[list[Proxy]] = []

    @classmethod
    @asynccontextmanager
    async def opened(cls, chance: random.Random) -> AsyncIterator[PostgresPlace]:
        """Start both, with an empty database. Raises: NoPostgres."""
        async with AsyncExitStack() as stack:
            first = stack.enter_context(closing(PostgresServer(**SETTINGS)))
            second = stack.enter_context(closing(PostgresServer(first.programs, **SETTINGS)))
            self = cls(chance, [first, second])
            for _ in range(SERVERS):
                proxies = [
                    await stack.enter_async_context(Proxy(node.address)) for node in self._nodes
                ]
                self._proxies.append(proxies)
            await asyncio.to_thread(first.start)
            await self._build_standby()
            await self._ask(f"CREATE DATABASE {DATABASE}")
            yield self

    @property
    def urls(self) -> list[str]:
        """Both hosts, of which that is taken that may be written."""
        tail = "target_session_attrs=read-write&sslmode=disable&gssencmode=disable"
        return [
            f"postgresql://maitred@{','.join(proxy.address for proxy in proxies)}/{DATABASE}?{tail}"
            for proxies in self._proxies
        ]

    @property
    def direct_url(self) -> str:
        """The database on the primary."""
        return self._nodes[self._primary].url(DATABASE)

    @property
    def faults(self) -> Mapping[str, Fault]:
        """What can happen."""
        return {
            "crash": self._crash,
            "terminate": self._terminate,
            "swallow": self._swallow,
            "promote": self._promote,
        }

    async def inspect(self) -> None:
        """Count the rows of every log. Raises: KillFailure."""
        for statement in (UNEVEN, SAME_POSITION):
            if rows := await self._ask(statement, DATABASE):
                raise KillFailure(f"{' '.join(statement.split())}: {rows}")
        if (rows := await self._ask(ORPHANS, DATABASE)) != [(0,)]:
            raise KillFailure(f"{rows} events belong to nothing")

    # ---------------------------------------------------------------- faults

    async def _crash(self, _victim: int) -> None:
        """Stop the primary as a crash does, and start it again; the standby connects by itself."""
        node = self._nodes[self._primary]
        await asyncio.to_thread(node.stop, "immediate")
        await asyncio.sleep(self._random.uniform(0, 0.5))
        await asyncio.to_thread(node.start)
        await self._in_step()

    async def _terminate(self, _victim: int) -> None:
        """End the backend of every connection."""
        for _ in range(self._random.randrange(1, 4)):
            await self._ask(TERMINATE)
            await asyncio.sleep(self._random.uniform(0, 0.1))

    async def _swallow(self, victim: int) -> None:
        """Keep back the answers to the other server than the victim."""
        await swallow(self._proxies[1 - victim][self._primary], self._random.uniform(0, 1.0))

    async def _promote(self, _victim: int) -> None:
        """Lose the machine of the primary; the standby takes its place and gets a standby."""
        lost, heir = self._primary, 1 - self._primary
        ways = [proxies[lost] for proxies in self._proxies]
        for way in ways:
            way.refuse = True
            way.cut()
        await asyncio.to_thread(self._nodes[lost].kill)
        await asyncio.sleep(self._random.uniform(0, 0.5))
        await asyncio.to_thread(self._nodes[heir].promote)
        self._primary = heir
        await self._build_standby()
        for way in ways:
            way.refuse = False

    async def _build_standby(self) -> None:
        """Make a standby of the one that is none, from a copy of the primary."""
        standby = 1 - self._primary
        node = self._nodes[standby]
        await asyncio.to_thread(node.copy, self._nodes[self._primary], NAMES[standby])
        await asyncio.to_thread(node.start)
        await self._in_step()

    async def _in_step(self) -> None:
        """Wait until the standby confirms commits, as whoever promotes it has to."""
        for _ in range(int(PATIENCE_S / 0.02)):
            if await self._ask(IN_STEP) == [(1,)]:
                return
            await asyncio.sleep(0.02)
        raise KillFailure("the standby does not follow")

    async def _ask(
        self, statement: LiteralString, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        node = self._nodes[self._primary]
        return await asyncio.to_thread(partial(node.execute, statement, url=node.url(database)))
