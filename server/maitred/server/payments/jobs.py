"""At most one job per payment at a time; concurrent requests for a payment share it.

The work belongs to nobody who waits: a call that is cancelled stops waiting and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from maitred.server.errors import MaitredError, ShuttingDown
from maitred.server.payments.provider import ProviderError
from maitred.server.payments.throttle import Priority, Urgency
from maitred.server.payments.worker import Worker
from maitred.server.stores.base import StoreError

Trouble = ProviderError | MaitredError | StoreError
"""What kept a piece of work from being finished."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Job:
    """Work under way, and what was asked for meanwhile."""

    source: str
    ask: bool
    urgency: Urgency
    again: bool = False
    task: asyncio.Task[Trouble | None] | None = None


class Jobs:
    """The work under way, by payment."""

    def __init__(self, worker: Worker, finished: Callable[[str, Trouble | None], None]) -> None:
        """Take who does the work, and who is told of its end: the payment's id and the trouble."""
        self._worker = worker
        self._finished = finished
        self._jobs: dict[str, Job] = {}
        self._closing = False

    def start(
        self,
        session_id: str,
        payment_id: str,
        source: str,
        *,
        ask: bool,
        priority: Priority = Priority.ROUTINE,
    ) -> asyncio.Task[Trouble | None]:
        """Begin the work of a payment, or have the work under way look once more."""
        job = self._jobs.get(payment_id)
        if job is not None and job.task is not None:
            job.again = True
            job.ask = job.ask or ask
            job.urgency.rise(priority)
            return job.task
        job = Job(source, ask, Urgency(priority))
        job.task = asyncio.create_task(self._run(session_id, payment_id, job))
        # Whoever waits gets the exception; where nobody does, the log must have it.
        job.task.add_done_callback(_log_crash)
        self._jobs[payment_id] = job
        return job.task

    async def wait(
        self, session_id: str, payment_id: str, source: str, *, ask: bool
    ) -> Trouble | None:
        """Do the work for somebody who waits; answers what kept it from being finished."""
        task = self.start(session_id, payment_id, source, ask=ask, priority=Priority.GUEST)
        await asyncio.wait([task])
        if task.cancelled():
            raise ShuttingDown("the server is shutting down; ask again", retry_after_s=1)
        return task.result()

    async def drain(self, timeout_s: float) -> None:
        """Give what is under way its time, then abandon it: it can be done again."""
        self._closing = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, session_id: str, payment_id: str, job: Job) -> Trouble | None:
        trouble: Trouble | None = None
        try:
            while True:
                job.again, ask, job.ask = False, job.ask, False
                trouble = await self._advance(session_id, payment_id, job, ask=ask)
                if trouble is not None or not job.again or self._closing:
                    return trouble
        finally:
            del self._jobs[payment_id]
            self._finished(payment_id, trouble)

    async def _advance(
        self, session_id: str, payment_id: str, job: Job, *, ask: bool
    ) -> Trouble | None:
        try:
            return await self._worker.advance(
                session_id, payment_id, job.source, job.urgency, ask=ask
            )
        except (MaitredError, StoreError) as error:
            log.warning(
                "payment_work_failed",
                session=session_id,
                payment=payment_id,
                kind=type(error).__name__,
                error=str(error),
            )
            return error


def _log_crash(task: asyncio.Task[Trouble | None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("payment_work_crashed", exc_info=error)
