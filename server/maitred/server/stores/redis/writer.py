"""The one task that commits: it sends everything queued in one batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import NoScriptError, RedisError, ResponseError

from maitred.server.stores.base import (
    Commit,
    Committed,
    CorruptData,
    Done,
    Outcome,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.doubts import Doubts
from maitred.server.stores.inbox import BATCH_BYTES, BATCH_COMMITS, QUEUE_BYTES, QUEUE_COMMITS
from maitred.server.stores.redis.codec import commit_arguments, outcome_of
from maitred.server.stores.redis.gateway import LOST, Gateway, ask, drop, pack, refusal
from maitred.server.stores.redis.scripts import SCRIPTS
from maitred.server.telemetry.metrics import STORE_BATCH_COMMITS, STORE_BATCH_SECONDS

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from maitred.server.stores.redis.hints import Hints

_log = structlog.get_logger(__name__)

Answer = Outcome | StoreError

_SCRIPT_ARGUMENTS: Final = 5


class Submission:
    """A commit as it goes out, and who waits for it."""

    __slots__ = ("commit", "done", "payload")

    def __init__(self, commit: Commit, done: Done, payload: bytes) -> None:
        self.commit = commit
        self.done = done
        self.payload = payload


class Writer:
    """Owns the connection that commits, its queue and its task."""

    def __init__(
        self,
        gateway: Gateway,
        hints: Hints,
        doubts: Doubts,
        connection: AbstractConnection,
        *,
        queue_commits: int = QUEUE_COMMITS,
    ) -> None:
        self._gateway = gateway
        self._hints = hints
        self._doubts = doubts
        self._queue_commits = queue_commits
        self._queue: deque[Submission] = deque()
        self._bytes = 0
        self._closed = False
        self._connection: AbstractConnection | None = connection
        self._head = pack((b"EVALSHA", SCRIPTS["commit"].sha, b"0", gateway.prefix, gateway.epoch))
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()
        self._task = self._loop.create_task(self._run(), name="maitred-redis-writer")
        self.batches = 0
        """How many round trips have carried commits."""

    # ---------------------------------------------------------------- what callers do

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue a commit; whatever is wrong is answered from the loop, never from here."""
        if self._closed:
            answer = self._doubts.weigh(commit, StoreUnavailable("the store is closed"))
            self._loop.call_soon(done, answer)
            return
        try:
            arguments = commit_arguments(commit)
            count = b"*%d\r\n" % (_SCRIPT_ARGUMENTS + len(arguments))
            payload = b"".join((count, self._head, pack(arguments)))
        except (OverflowError, UnicodeError, TypeError, ValueError) as error:
            refused = StoreError(f"refused: {error}")
            refused.__cause__ = error
            self._loop.call_soon(done, refused)
            return
        if len(self._queue) >= self._queue_commits or self._bytes + len(payload) > QUEUE_BYTES:
            full = StoreFull("too many commits are queued")
            self._loop.call_soon(done, self._doubts.weigh(commit, full, vague=(StoreFull,)))
            return
        self._queue.append(Submission(commit, done, payload))
        self._bytes += len(payload)
        self._wakeup.set()

    async def close(self) -> None:
        """Commit what is queued and take nothing new."""
        self._closed = True
        self._wakeup.set()
        await self._task

    # ---------------------------------------------------------------- the task

    async def _run(self) -> None:
        batch: list[Submission] = []
        try:
            while await self._gather():
                batch = self._take()
                began = time.monotonic()
                answers = await self._attempt(batch)
                STORE_BATCH_SECONDS.observe(time.monotonic() - began)
                self._finish(batch, answers)
                batch = []
        finally:
            # Reached with work left only if the loop is being torn down.
            self._closed = True
            if self._connection is not None:
                await drop(self._connection)
            self._answer(
                batch, [OutcomeUnknown("the server stopped while committing")] * len(batch)
            )
            left = list(self._queue)
            self._queue.clear()
            self._answer(left, [StoreUnavailable("the store is closed")] * len(left))

    async def _gather(self) -> bool:
        """Wait until there is something to write; False when closed and empty."""
        while not self._queue:
            if self._closed:
                return False
            self._wakeup.clear()
            await self._wakeup.wait()
        # Handlers that are ready get their turn to queue theirs.
        for _ in range(2):
            before = len(self._queue)
            await asyncio.sleep(0)
            if len(self._queue) == before:
                break
        return True

    def _take(self) -> list[Submission]:
        batch: list[Submission] = []
        size = 0
        while self._queue and len(batch) < BATCH_COMMITS:
            size += len(self._queue[0].payload)
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
            self._bytes -= len(batch[-1].payload)
        return batch

    async def _attempt(self, batch: list[Submission]) -> list[Answer]:
        """Write a batch; whatever goes wrong must not end the one task that commits."""
        try:
            return await self._write(batch)
        except Exception:  # noqa: BLE001  # logged, and said to be unknown, which is never wrong
            _log.exception("committing failed in a way that nobody foresaw")
            await self._disconnect()
            return [OutcomeUnknown("committing failed")] * len(batch)

    async def _write(self, batch: list[Submission]) -> list[Answer]:
        if self._connection is None or not self._connection.is_connected:
            try:
                self._connection = await self._gateway.connect()
            except StoreError as error:
                gone = StoreUnavailable(str(error))
                gone.__cause__ = error
                return [gone] * len(batch)
        answers: list[Answer] = [OutcomeUnknown("the reply of Redis was lost")] * len(batch)
        try:
            await self._exchange(self._connection, batch, answers)
            confirmed = await self._gateway.wait(self._connection)
        except (*LOST, RedisError) as error:
            _log.warning("connection to redis lost while committing", error=str(error))
            await self._disconnect()
            confirmed = not self._gateway.address.wait_replicas
        if not confirmed:
            late = OutcomeUnknown("too few replicas have confirmed it in time")
            answers = [late if isinstance(each, Committed) else each for each in answers]
        if any(isinstance(each, StoreUnavailable) for each in answers):
            # Another server may be in its place by now, and is looked at when it is connected to.
            await self._disconnect()
        return answers

    async def _exchange(
        self, connection: AbstractConnection, batch: list[Submission], answers: list[Answer]
    ) -> None:
        """Send a batch and fill in the answers that come; those that do not stay as they were."""
        left = list(range(len(batch)))
        for _ in range(2):
            payload = b"".join([batch[place].payload for place in left])
            await connection.send_packed_command(payload, check_health=False)
            missing: list[int] = []
            for place in left:
                try:
                    answers[place] = outcome_of(await connection.read_response())
                except NoScriptError:
                    missing.append(place)
                except ResponseError as error:
                    answers[place] = refusal(error)
                except CorruptData as error:
                    answers[place] = error
            if not missing:
                return
            # Somebody has emptied the server's scripts; these commits were not looked at.
            await ask(connection, "SCRIPT", "LOAD", SCRIPTS["commit"].source)
            left = missing
        for place in left:
            answers[place] = StoreUnavailable("Redis does not keep the scripts")

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await drop(self._connection)
            self._connection = None

    def _finish(self, batch: list[Submission], answers: list[Answer]) -> None:
        """Answer a whole batch in one synchronous pass."""
        self.batches += 1
        STORE_BATCH_COMMITS.observe(len(batch))
        self._answer(batch, answers)
        if self._hints:
            self._hints.publish(
                append.ref
                for entry, answer in zip(batch, answers, strict=True)
                if isinstance(answer, Committed)
                for append in entry.commit.appends
            )

    def _answer(self, batch: list[Submission], answers: list[Answer]) -> None:
        for entry, answer in zip(batch, answers, strict=True):
            try:
                entry.done(self._doubts.weigh(entry.commit, answer))
            except Exception:  # noqa: BLE001  # logged below; whatever it is, it is the caller's
                # A caller's mistake must not keep the rest of the batch from its answers.
                _log.exception("a completion callback failed")
