"""The one task that commits: it gathers queued commits into batches."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

import psycopg
import structlog

from maitred.server.stores.base import (
    Commit,
    Committed,
    CorruptData,
    Done,
    OutcomeUnknown,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.doubts import Doubts
from maitred.server.stores.inbox import LINGER_S, QUEUE_COMMITS, Inbox, Job, Submission
from maitred.server.stores.postgres.batch import Attempt
from maitred.server.stores.postgres.connection import cut, deadline, is_fresh
from maitred.server.stores.postgres.errors import (
    MISFITS,
    is_blocked,
    is_forgotten,
    is_lost,
    is_misfit,
    is_raced,
    is_transient,
    translate,
)
from maitred.server.telemetry.metrics import STORE_BATCH_COMMITS, STORE_BATCH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maitred.server.stores.changes import Changes
    from maitred.server.stores.postgres.connection import Connection, Connector
    from maitred.server.stores.postgres.decide import Answer

_log = structlog.get_logger(__name__)

COMMIT_S: Final = 30.0
"""A batch that is not answered by then is cut off: its outcome is unknown."""

ATTEMPTS: Final = 12
"""How often a batch is run again that the server undid because of another transaction."""

RACES: Final = 3
"""How often a batch is decided anew because something appeared between reading and writing."""

ALONE_S: Final = 8.0
"""How long the commits of one batch may take when they are applied one by one."""

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.002, 0.1


class DisjointInbox(Inbox):
    """A queue whose batches name each aggregate, each key and each row at most once."""

    def take_batch(self) -> list[Submission]:
        """Take commits up to the first that names what an earlier one does."""
        batch: list[Submission] = []
        named: set[tuple[object, ...]] = set()
        taken = self.take()
        if isinstance(taken, Job):
            raise TypeError("this queue holds commits only")
        for place, entry in enumerate(taken):
            names = _names(entry[0])
            if not named.isdisjoint(names):
                self.put_back(taken[place:])
                break
            named.update(names)
            batch.append(entry)
        return batch


def _names(commit: Commit) -> list[tuple[object, ...]]:
    (appends, claims, releases, rows, drops) = commit
    names: list[tuple[object, ...]] = [append.ref for append in appends]
    if claims or releases:
        names += [("claim", *claim[:2]) for claim in (*claims, *releases)]
    if rows or drops:
        names += [("row", *row[:2]) for row in rows]
        names += [("row", *drop) for drop in drops]
    return names


class Writer:
    """Owns the connection that commits, its queue and its task."""

    def __init__(
        self,
        connector: Connector,
        connection: Connection,
        changes: Changes,
        *,
        lane: int,
        wrote: Callable[[], None],
        queue_commits: int = QUEUE_COMMITS,
        linger_s: float = LINGER_S,
    ) -> None:
        """Begin to write; `wrote` is called after each batch that changed something."""
        self._connector = connector
        self._connection: Connection | None = connection
        self._generation = connector.generation
        self._changes = changes
        self._lane = lane
        self._wrote = wrote
        self._inbox = DisjointInbox(queue_commits, linger_s)
        self._loop = asyncio.get_running_loop()
        self._doubts = Doubts()
        self._last_write = 0.0
        self.batches = 0
        self.commits = 0
        self._task = self._loop.create_task(self._run(), name="maitred-postgres-writer")

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit; a full or closed queue answers from the loop, never from here."""
        if self._inbox.closed:
            self._loop.call_soon(done, StoreUnavailable("the store is closed"))
        elif not self._inbox.offer(commit, done):
            full = self._resolve(commit, StoreFull("too many commits are queued"))
            self._loop.call_soon(done, full)

    async def close(self) -> None:
        """Commit what is queued, take nothing new, close the connection."""
        self._inbox.close()
        await self._task
        await self._drop()

    # ---------------------------------------------------------------- the task

    async def _run(self) -> None:
        batch: list[Submission] = []
        try:
            company = 0
            while await self._inbox.gather(company, self._last_write):
                batch = self._inbox.take_batch()
                company = len(batch)
                began = time.monotonic()
                answers = await self._attempt([entry[0] for entry in batch])
                STORE_BATCH_SECONDS.observe(time.monotonic() - began)
                self._finish(batch, answers)
                batch = []
        except asyncio.CancelledError:
            if self._connection is not None:
                cut(self._connection)
            raise
        finally:
            # Reached with work left only if the loop is being torn down.
            self._inbox.close()
            for _, done, _ in batch:
                self._answer(done, OutcomeUnknown("the server stopped while committing"))
            while self._inbox:
                entry = self._inbox.take_one()
                if not isinstance(entry, Job):
                    self._answer(entry[1], StoreUnavailable("the store is closed"))

    async def _attempt(self, commits: Sequence[Commit]) -> list[Answer]:
        """Apply a batch; whatever goes wrong must not end the one task that commits."""
        try:
            return await self._apply(commits)
        except Exception:  # noqa: BLE001  # logged, and said to be unknown, which is never wrong
            _log.exception("committing failed in a way that nobody foresaw")
            await self._drop()
            return [OutcomeUnknown("committing failed")] * len(commits)

    async def _apply(self, commits: Sequence[Commit], *, surely: bool = False) -> list[Answer]:
        """Apply a batch, again if others were in its way, one by one if one spoils the others."""
        pause_s, races = BACKOFF_FIRST_S, 0
        failure: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                connection = await self._connected()
            except StoreUnavailable as error:
                return [error] * len(commits)
            attempt = Attempt(connection, self._lane)
            try:
                with deadline(connection, COMMIT_S):
                    answers = await attempt.run(commits, surely=surely)
            except (psycopg.Error, OSError, *MISFITS) as error:
                failure = error
                lost = is_lost(connection, error)
                self._connector.note(error, self._generation, lost=lost)
                if lost:
                    await self._drop()
                    return [_lost(error, unknown=attempt.committing)] * len(commits)
                if is_forgotten(error):
                    await self._drop()
                else:
                    await self._roll_back(connection)
            else:
                return await self._decide_rest(commits, answers)
            if is_raced(failure):
                races += 1
                if races >= RACES:
                    break
            elif not (is_transient(failure) or is_forgotten(failure)):
                break
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)
        assert failure is not None
        if len(commits) > 1 and (is_raced(failure) or is_misfit(failure) or is_blocked(failure)):
            return await self._apply_each(commits)
        if is_raced(failure):
            made = CorruptData(f"the log and the head of an aggregate disagree: {failure}")
            made.__cause__ = failure
            return [made]
        return [translate(failure)] * len(commits)

    async def _decide_rest(
        self, commits: Sequence[Commit], answers: Sequence[Answer | None]
    ) -> list[Answer]:
        """Decide what the quick way left open. What it has written stays, whatever comes of it."""
        rest = [commit for commit, answer in zip(commits, answers, strict=True) if answer is None]
        decided = iter(await self._apply(rest, surely=True) if rest else ())
        return [next(decided) if answer is None else answer for answer in answers]

    async def _apply_each(self, commits: Sequence[Commit]) -> list[Answer]:
        """Apply commits one by one, so that one that is refused, or has to wait, spoils no other.

        Not for ever: where many wait for locks of others, the rest is given up.
        """
        answers: list[Answer] = []
        give_up_at = self._loop.time() + ALONE_S
        for commit in commits:
            if self._loop.time() > give_up_at:
                answers.append(StoreUnavailable("others hold the locks of too many aggregates"))
            else:
                answers += await self._apply([commit])
        return answers

    async def _connected(self) -> Connection:
        """Return the connection, another one where it has ended. Raises: StoreUnavailable."""
        connection = self._connection
        if connection is not None:
            if self._generation == self._connector.generation and is_fresh(connection):
                return connection
            await self._drop()
        self._generation = self._connector.generation
        self._connection = await self._connector.connect(statement_s=None)
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _roll_back(self, connection: Connection) -> None:
        """Undo what failed: the server said so, hence nothing of it is committed."""
        try:
            with deadline(connection, COMMIT_S):
                await connection.execute(b"ROLLBACK")
        except (psycopg.Error, OSError):
            # The server undoes it by itself when the connection ends.
            cut(connection)
            await self._drop()

    # ---------------------------------------------------------------- answers

    def _finish(self, batch: list[Submission], answers: list[Answer]) -> None:
        """Answer a whole batch in one synchronous pass."""
        self.batches += 1
        self.commits += len(batch)
        self._last_write = self._loop.time()
        STORE_BATCH_COMMITS.observe(len(batch))
        for (commit, done, _), answer in zip(batch, answers, strict=True):
            self._answer(done, self._resolve(commit, answer))
        committed = [
            entry[0] for entry, a in zip(batch, answers, strict=True) if isinstance(a, Committed)
        ]
        if committed:
            if self._changes:
                self._changes.publish(a.ref for commit in committed for a in commit.appends)
            self._wrote()

    def _resolve(self, commit: Commit, answer: Answer) -> Answer:
        return self._doubts.weigh(commit, answer, vague=(StoreFull, StoreUnavailable))

    def _answer(self, done: Done, answer: Answer) -> None:
        try:
            done(answer)
        except Exception:  # noqa: BLE001  # logged below; whatever it is, it is the caller's
            # A caller's mistake must not keep the rest of the batch from its answers.
            _log.exception("a completion callback failed")


def _lost(error: BaseException, *, unknown: bool) -> Answer:
    made = OutcomeUnknown if unknown else StoreUnavailable
    lost = made(f"the connection was lost: {str(error).partition(chr(10))[0]}")
    lost.__cause__ = error
    return lost
