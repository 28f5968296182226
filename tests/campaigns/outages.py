"""Two servers on one database, which loses its parts one by one while guests order.

After each fault nothing is restarted but what the fault ended. Guests stop for a moment; what they
were told is held against the database, and every watch must come to the end of its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.campaigns.crowd import Crowd, CrowdReport
from tests.campaigns.evidence import Evidence
from tests.campaigns.fleet import Fleet
from tests.campaigns.killing import KillFailure

from maitred.server.app.server import open_store
from maitred.server.config import Settings
from maitred.server.stores.base import Store, StoreUnavailable
from maitred.server.testing.proxy import Proxy

SERVERS = 2
GUESTS = 8
EVENING = 10
"""Faults after which new guests come, because what grows for ever only makes everything slower."""

WITH_A_KILL = 0.2
"""The share of outages of the database in which a server is killed as well."""

SWALLOW_S = 30.0
"""The longest that a server under load may ask nothing."""

Fault = Callable[[int], Awaitable[None]]
"""Is given a server, the victim, that may be dead meanwhile."""


class Place(Protocol):
    """A database that can be broken, as servers and operators reach it."""

    @property
    def urls(self) -> list[str]:
        """Where each server finds it."""

    @property
    def direct_url(self) -> str:
        """Where an operator finds what is in charge now."""

    @property
    def faults(self) -> Mapping[str, Fault]:
        """What can be done to it; each returns when all is whole again."""

    async def inspect(self) -> None:
        """Look at its rows by its own means. Raises: KillFailure."""


@dataclass(slots=True)
class OutageReport:
    """What a campaign did and found."""

    faults: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    """Faults with a write acknowledged shortly before and one under way."""
    crowd: CrowdReport = field(default_factory=CrowdReport)
    back_s: dict[str, float] = field(default_factory=dict)
    """The longest time, by fault, until each server had acknowledged a write, in seconds.

    It begins when the fault is over: what was ended runs again, a standby follows.
    """
    checked: int = 0
    """Events that were read back and folded."""
    lost: int = 0

    def __str__(self) -> str:
        crowd = self.crowd
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        back = ", ".join(f"{name} {time_s:.1f}" for name, time_s in sorted(self.back_s.items()))
        errors = ", ".join(f"{count} {name}" for name, count in sorted(crowd.errors.items()))
        return (
            f"faults: {self.faults.total()} ({kinds}), of them trials: {self.trials}\n"
            f"writes: {crowd.acknowledged} acknowledged, {crowd.unknown_resolved} of them applied "
            f"before the answer that said so\n"
            f"answers that were none: {errors or 'none'}; {crowd.failed_over} times sent again\n"
            f"reads through the other server: {crowd.reads}, none older than what it followed\n"
            f"watched: {crowd.watched} events of sessions, {crowd.fed} of everything, "
            f"{crowd.resumed} times resumed on the other server\n"
            f"both servers wrote again after at most, in seconds: {back}\n"
            f"{self.checked} events folded; {self.lost} lost, {crowd.duplicated} doubled"
        )


class OutageCampaign:
    """Faults in an order that a seed chooses, all kinds of them equally often."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        place: Callable[[random.Random], AbstractAsyncContextManager[Place]],
    ) -> None:
        self.report = OutageReport()
        self._directory = directory
        self._random = random.Random(seed)  # repeatable, not secret
        self._open_place = place
        self._evidence: list[Evidence] = []

    async def run(self, faults: int, progress: Callable[[OutageReport], None]) -> OutageReport:
        """Break something so often.

        Raises: KillFailure.
        """
        async with (
            self._open_place(self._random) as place,
            Fleet(self._directory, place.urls) as fleet,
            _crowd(fleet, self._random) as crowd,
        ):
            self.report.crowd = crowd.report
            deck: list[str] = []
            for number in range(faults):
                if number % EVENING == 0:
                    await crowd.seat()
                    self._evidence += [Evidence(guest) for guest in crowd.present]
                if not deck:
                    deck = ["kill", *place.faults]
                    self._random.shuffle(deck)
                await self._one_fault(deck.pop(), place, fleet, crowd)
                await self._check(place, crowd)
                progress(self.report)
            await self._check_everything(place)
        return self.report

    async def _one_fault(self, kind: str, place: Place, fleet: Fleet, crowd: Crowd) -> None:
        floor = crowd.report.acknowledged + self._random.randrange(20, 100)
        crowd.resume()
        await crowd.until(lambda: crowd.report.acknowledged >= floor, "nobody is served")
        victim = self._random.randrange(SERVERS)
        killed = kind == "kill" or self._random.random() < WITH_A_KILL
        await crowd.trial()
        self.report.trials += 1
        if killed:
            await fleet.kill(victim)
        if kind != "kill":
            await place.faults[kind](victim)
            kind += " and kill" if killed else ""
        if killed:
            await fleet.start(victim)
        whole_at = time.monotonic()
        self.report.faults[kind] += 1
        await crowd.until(lambda: min(crowd.served) > whole_at, f"no write after {kind}")
        back_s = time.monotonic() - whole_at
        self.report.back_s[kind] = max(back_s, self.report.back_s.get(kind, 0.0))
        await crowd.pause()

    async def _check(self, place: Place, crowd: Crowd) -> None:
        """Hold the log of each guest against its history, and wait for the watches."""
        present = self._evidence[-len(crowd.present) :]
        async with _opened(place.direct_url) as store:
            for each in present:
                before = each.version
                await each.follow(store)
                self.report.checked += each.version - before
        for each in present:
            self.report.lost += len(each.missing())
            each.check()
            guest, wanted = each.guest, each.version
            await crowd.until(
                lambda guest=guest, wanted=wanted: (  # type: ignore[misc]  # of this round of the loop
                    min(guest.seen, crowd.fed.get(guest.session_id, 0)) >= wanted
                ),
                f"{guest.session_id}: a watch is behind version {wanted}",
            )
        await place.inspect()

    async def _check_everything(self, place: Place) -> None:
        """Read all logs once more from their beginning: nothing of an earlier evening may go."""
        async with _opened(place.direct_url) as store:
            for each in self._evidence:
                again = Evidence(each.guest)
                await again.follow(store)
                self.report.lost += len(again.missing())
                if again.version < each.version or again.missing():
                    raise KillFailure(f"{each.guest.session_id}: its log has become shorter")


async def swallow(way: Proxy, seconds: float) -> None:
    """Keep answers back that were under way, then cut: whoever waits for them has to ask again."""
    before = way.swallowed
    way.drop_replies = True
    give_up_at = time.monotonic() + SWALLOW_S
    while way.swallowed == before:
        if time.monotonic() > give_up_at:
            raise KillFailure("a server has stopped asking its database")
        await asyncio.sleep(0.005)
    await asyncio.sleep(seconds)
    way.drop_replies = False
    way.cut()


@asynccontextmanager
async def _crowd(fleet: Fleet, chance: random.Random) -> AsyncIterator[Crowd]:
    crowd = Crowd(fleet, chance, GUESTS)
    try:
        await crowd.begin()
        yield crowd
    finally:
        await crowd.end()


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Store]:
    """Open the store as an operator would, who tries again while it is coming up."""
    store = open_store(Settings(data=url))
    for _ in range(100):
        with contextlib.suppress(StoreUnavailable):
            await store.open()
            break
        await asyncio.sleep(0.1)
    else:
        raise KillFailure("the database does not come back")
    try:
        yield store
    finally:
        await store.close()
