"""Looks after aggregates whose time has come: expiry, abandoned tabs, the end of retention."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from maitred.server.engine.call import SYSTEM_CALL
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.errors import MaitredError
from maitred.server.kinds.aggregate import Aggregate
from maitred.server.stores.base import Ref, StoreError
from maitred.server.telemetry import metrics
from maitred.server.units import NS
from maitred.v1.event_pb2 import Event

BATCH = 100
LEASE_S = 30.0
LONGEST_SLEEP_S = 5.0
"""Another server, or a clock that was set, may make an aggregate due sooner than this one knows."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Swept:
    """What a sweep did, in sessions."""

    expired: int = 0
    abandoned: int = 0
    deleted: int = 0
    failed: int = 0


class Sweeper:
    """Sends a Tick to whoever is due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owner = engine.ids.new_id()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep in the background."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        """End the background sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def sweep(self, limit: int) -> Swept:
        """Look after at most `limit` aggregates that are due now."""
        swept = Swept()
        # Looked at now and then, so that a jump is seen when it happens.
        self._engine.clock.settled_ns()
        while limit > 0:
            now_ns = self._engine.clock.now_ns()
            refs = await self._engine.store.due(now_ns, min(limit, BATCH), self._owner, LEASE_S)
            if not refs:
                break
            limit -= len(refs)
            for ref in refs:
                await self._tick(ref, swept)
        return swept

    async def _tick(self, ref: Ref, swept: Swept) -> None:
        kind = self._engine.kinds[ref.kind]
        life = kind.life
        if life is None:
            return

        def tick(state: Any, now_ns: int, *, deleting: bool) -> Event | None:
            # What is judged under the lock may ask for something else than what was seen before.
            event = life.tick(state, now_ns)
            return event if event is None or _ends(kind, event) == deleting else None

        try:
            head = await self._engine.reader.head(ref)
            if head is None:
                return
            deleting = _ends(kind, life.tick(head.state, self._engine.clock.now_ns()))
            # Erased only when it is due also by the time that has held for long.
            settled_ns = self._engine.clock.settled_ns()
            if deleting and not _ends(kind, life.tick(head.state, settled_ns)):
                return
            decide = partial(tick, deleting=deleting)
            command = Command(ref, decide, ended=True, overdue=True)
            carry_out = self._engine.forget if deleting else self._engine.execute
            result = await carry_out(command, SYSTEM_CALL)
        except (kind.absent, kind.gone):
            return
        except (MaitredError, StoreError) as error:
            # It stays due and is taken up again when its lease ends.
            swept.failed += 1
            log.warning("tick_failed", ref=ref.id, error=str(error))
            return
        except Exception:  # logged and counted: one bad session stops no other
            swept.failed += 1
            metrics.ROWS_SKIPPED.labels("sessions").inc()
            log.exception("tick_crashed", ref=ref.id)
            return
        event = result.parsed_event()
        counted = life.swept(event) if event is not None else ""
        if counted:
            setattr(swept, counted, getattr(swept, counted) + 1)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep(BATCH)
                next_ns = await self._engine.store.next_wake()
            except StoreError as error:
                log.warning("sweep_failed", error=str(error))
                next_ns = None
            except Exception:  # logged; a task that ends would sweep no more
                log.exception("sweep_crashed")
                next_ns = None
            await asyncio.sleep(self._pause_s(next_ns))

    def _pause_s(self, next_ns: int | None) -> float:
        if next_ns is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.05, (next_ns - self._engine.clock.now_ns()) / NS))


def _ends(kind: Aggregate, event: Event | None) -> bool:
    """Whether an event is to be carried out as a deletion."""
    return event is not None and event.WhichOneof("change") in kind.changes.ends_log
