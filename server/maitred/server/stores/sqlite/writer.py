"""The one task that writes: it gathers queued commits into batches."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from maitred.server.stores.base import (
    Commit,
    Committed,
    Done,
    OutcomeUnknown,
    Ref,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.inbox import (
    LINGER_S,
    QUEUE_COMMITS,
    Inbox,
    Job,
    Submission,
)
from maitred.server.stores.sqlite.batch import Answer, run_batch
from maitred.server.stores.sqlite.connection import Channel, is_io_error, translate
from maitred.server.stores.sqlite.decide import REFUSALS, RowsDisagree, refusal
from maitred.server.stores.sqlite.jobs import Again, Work, checkpoint, expire_claims
from maitred.server.telemetry.metrics import STORE_BATCH_COMMITS, STORE_BATCH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maitred.server.stores.changes import Changes

_log = structlog.get_logger(__name__)

T = TypeVar("T")

IDLE_S: Final = 0.25
"""Quiet for so long, the writer checkpoints, so that a restart has little to replay."""

AGAIN_S: Final = 5.0
"""A deletion that found no room is tried again so much later."""

EXPIRE_S: Final = 5.0
"""Expired claims are deleted so often at most, whether it is quiet or not."""


class Writer:
    """Owns the writing connection, its queue and its task."""

    def __init__(
        self,
        channel: Channel,
        changes: Changes,
        *,
        clock_ns: Callable[[], int],
        fatal: Callable[[str], None],
        queue_commits: int = QUEUE_COMMITS,
        linger_s: float = LINGER_S,
    ) -> None:
        self._channel = channel
        self._changes = changes
        self._clock_ns = clock_ns
        self._fatal = fatal
        self._inbox = Inbox(queue_commits, linger_s)
        self._loop = asyncio.get_running_loop()
        self._broken = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_write = 0.0
        self._scrub = False
        self._expired = -EXPIRE_S
        self._task = self._loop.create_task(self._run(), name="maitred-sqlite-writer")
        self.batches = 0
        self.commits = 0

    # ---------------------------------------------------------------- what callers do

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit; a full or closed queue answers from the loop, never from here."""
        if self._inbox.closed or self._broken:
            self._loop.call_soon(done, StoreUnavailable("the store is closed"))
        elif not self._inbox.offer(commit, done):
            self._loop.call_soon(done, StoreFull("too many commits are queued"))

    async def run(
        self,
        work: Work[T],
        *,
        transaction: bool = True,
        ref: Ref | None = None,
        scrub: bool = False,
    ) -> T:
        """Run a job behind what is queued; it runs to its end even if the caller is cancelled.

        `scrub` empties the write-ahead log afterwards, because it still holds what was deleted.
        """
        if self._inbox.closed or self._broken:
            raise StoreUnavailable("the store is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._scrub = self._scrub or scrub
        self._inbox.put(Job(work, answer, transaction=transaction, ref=ref))
        return await answer

    def resume(self, works: Sequence[Work[Any]]) -> None:
        """Queue jobs for which nobody waits."""
        for work in works:
            self._inbox.put(Job(work, None, transaction=True, ref=None))

    def finish(self, works: Sequence[Work[Any]]) -> None:
        """Queue deletions that a crash cut short; until there is room they are tried again."""
        self._scrub = self._scrub or bool(works)
        for work in works:
            self._inbox.put(Job(work, None, transaction=True, ref=None, again=True))

    async def drain(self) -> None:
        """Commit what is queued and take nothing new."""
        self._inbox.close()
        await self._task
        if self._broken:
            self._channel.abandon()

    async def close(self) -> None:
        """Close the connection after `drain`; last of all, so that it leaves a single file."""
        if self._broken:
            return
        try:
            await self._channel.run(lambda connection: checkpoint(connection, truncate=True))
        except sqlite3.Error as error:
            # Nothing is lost: the log is replayed by the next open.
            _log.warning("checkpoint at close failed", error=str(error))
        await self._channel.close()

    # ---------------------------------------------------------------- the task

    async def _run(self) -> None:
        batch: list[Submission] = []
        try:
            company = 0
            while not self._broken and await self._inbox.gather(company, self._last_write):
                taken = self._inbox.take()
                if isinstance(taken, Job):
                    await self._run_job(taken)
                    continue
                batch = taken
                company = len(batch)
                began = time.monotonic()
                answers = await self._write(batch)
                STORE_BATCH_SECONDS.observe(time.monotonic() - began)
                self._finish(batch, answers)
                batch = []
        except asyncio.CancelledError:
            self._channel.abandon()
            raise
        finally:
            # Reached with work left only if the loop is being torn down, or after a fatal error.
            self._inbox.close()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._answer_all(batch, OutcomeUnknown("the server stopped while committing"))
            self._abandon_queue()

    async def _write(self, batch: list[Submission]) -> list[Answer]:
        commits = [entry[0] for entry in batch]
        now = self._clock_ns()
        try:
            return await self._channel.run(
                lambda connection: self._transact(
                    connection, lambda inner: run_batch(inner, commits, now)
                )
            )
        except StoreError as error:
            return [error] * len(batch)

    def _transact(
        self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]
    ) -> T:
        """Run a function in one transaction; on the connection's thread. Raises: StoreError."""
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            committing = True
            connection.execute("COMMIT")
        except BaseException as error:
            failed = self._failed(connection, error, committing=committing)
            if failed is error:
                raise
            raise failed from error
        return result

    def _failed(
        self, connection: sqlite3.Connection, error: BaseException, *, committing: bool
    ) -> StoreError:
        """Undo a failed transaction and return what its authors are told."""
        if is_io_error(error):
            return self._stop(f"I/O error while writing: {error}", committing=committing)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            return self._stop(f"rollback failed: {second} after {error}", committing=committing)
        if isinstance(error, StoreError):
            return error
        if isinstance(error, (*REFUSALS, RowsDisagree)):
            return refusal(error)
        if not isinstance(error, sqlite3.Error | MemoryError):
            _log.error("the transaction failed", exc_info=error)
        return translate(error) if isinstance(error, Exception) else StoreError(str(error))

    def _stop(self, message: str, *, committing: bool) -> StoreError:
        """End the process: a commit that failed so may be found after a restart, or not.

        Were the process to go on, it could checkpoint pages that the kernel has already given up.
        """
        self._broken = True
        _log.critical("the store cannot continue", error=message, outcome_unknown=committing)
        self._fatal(message)
        return OutcomeUnknown(message) if committing else StoreUnavailable(message)

    def _finish(self, batch: list[Submission], answers: list[Answer]) -> None:
        """Answer a whole batch in one synchronous pass."""
        self.batches += 1
        self.commits += len(batch)
        STORE_BATCH_COMMITS.observe(len(batch))
        for (_, done, _), answer in zip(batch, answers, strict=True):
            self._answer(done, answer)
        if self._changes:
            self._changes.publish(
                append.ref
                for (commit, _, _), answer in zip(batch, answers, strict=True)
                if isinstance(answer, Committed)
                for append in commit.appends
            )
        self._wrote()

    def _answer_all(self, batch: list[Submission], answer: Answer) -> None:
        for _, done, _ in batch:
            self._answer(done, answer)

    def _answer(self, done: Done, answer: Answer) -> None:
        try:
            done(answer)
        except Exception:  # noqa: BLE001  # logged below; whatever it is, it is the caller's
            # A caller's mistake must not keep the rest of the batch from its answers.
            _log.exception("a completion callback failed")

    async def _run_job(self, job: Job) -> None:
        def on_thread(connection: sqlite3.Connection) -> Any:
            if job.transaction:
                return self._transact(connection, job.work)
            try:
                return job.work(connection)
            except BaseException as error:
                raise self._failed(connection, error, committing=False) from error

        try:
            result = await self._channel.run(on_thread)
        except asyncio.CancelledError:
            self._settle(job, OutcomeUnknown("the server stopped while committing"))
            raise
        except StoreError as error:
            if job.answer is None:
                _log.warning("housekeeping failed", error=str(error), again=job.again)
            if job.again and not self._inbox.closed:
                self._loop.call_later(AGAIN_S, self._put_again, job)
            self._settle(job, error)
            return
        if job.ref is not None and self._changes:
            self._changes.publish([job.ref])
        if job.answer is not None:
            self._wrote()
        if isinstance(result, Again):
            job.work = result.work
            self._inbox.put(job)
        else:
            self._settle(job, result)

    def _put_again(self, job: Job) -> None:
        if not self._inbox.closed:
            self._inbox.put(job)

    @staticmethod
    def _settle(job: Job, result: Any) -> None:
        if job.answer is None or job.answer.done():
            return
        if isinstance(result, StoreError):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)

    def _abandon_queue(self) -> None:
        gone = StoreUnavailable("the store is closed")
        while self._inbox:
            entry = self._inbox.take_one()
            if isinstance(entry, Job):
                self._settle(entry, gone)
            else:
                self._answer(entry[1], gone)

    # ---------------------------------------------------------------- housekeeping

    def _wrote(self) -> None:
        self._last_write = self._loop.time()
        if self._idle_timer is None and not self._inbox.closed:
            self._idle_timer = self._loop.call_later(IDLE_S, self._idle)

    def _idle(self) -> None:
        self._idle_timer = None
        quiet = self._loop.time() - self._last_write
        if self._loop.time() - self._expired >= EXPIRE_S:
            self._expired = self._loop.time()
            self.resume([expire_claims(self._clock_ns())])
        if self._inbox or quiet < IDLE_S * 0.9:
            self._idle_timer = self._loop.call_later(max(IDLE_S - quiet, 0.01), self._idle)
            return
        truncate, self._scrub = self._scrub, False

        def work(connection: sqlite3.Connection) -> None:
            if not checkpoint(connection, truncate=truncate):
                self._loop.call_soon_threadsafe(self._retry, truncate)

        self._inbox.put(Job(work, None, transaction=False, ref=None))

    def _retry(self, truncate: bool) -> None:  # called by the loop, by position
        self._scrub = self._scrub or truncate
        self._wrote()
