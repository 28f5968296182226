"""The writer's queue: bounded, in order, and drained in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from maitred.server.stores.base import Commit, Done, Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH_COMMITS: Final = 256
BATCH_BYTES: Final = 4 * 1024 * 1024
QUEUE_COMMITS: Final = 4096
QUEUE_BYTES: Final = 64 * 1024 * 1024

LINGER_S: Final = 0.001
LINGER_ABOVE: Final = 4
"""With fewer commits in flight than this, waiting for company costs more than it saves."""

_ROW_BYTES: Final = 200
"""What a commit takes in the queue besides its payload, about."""

Submission = tuple[Commit, Done, int]


class Job:
    """A piece of work that gets a transaction of its own."""

    __slots__ = ("again", "answer", "ref", "transaction", "work")

    def __init__(
        self,
        work: Callable[[Any], Any],
        answer: asyncio.Future[Any] | None,
        *,
        transaction: bool,
        ref: Ref | None,
        again: bool = False,
    ) -> None:
        self.work = work
        self.again = again
        self.answer = answer
        self.transaction = transaction
        self.ref = ref


class Inbox:
    """What waits for the writing connection; for the event loop's thread only."""

    def __init__(self, max_commits: int, linger_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Submission | Job] = deque()
        self._bytes = 0
        self._max_commits = max_commits
        self._linger_s = linger_s
        self._wakeup: asyncio.Future[None] | None = None
        self._wake_at = 1
        self.closed = False
        """Nothing new is taken; what waits is still written."""

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, commit: Commit, done: Done) -> bool:
        """Queue a commit; False where there is no room."""
        size = _ROW_BYTES
        for append in commit.appends:
            size += len(append.facts) + len(append.body) + len(append.personal or b"")
        for row in commit.rows:
            size += len(row.body)
        if len(self._queue) >= self._max_commits or self._bytes + size > QUEUE_BYTES:
            return False
        self._bytes += size
        self.put((commit, done, size))
        return True

    def put(self, entry: Submission | Job) -> None:
        """Queue an entry, however full the queue is."""
        self._queue.append(entry)
        if self._wakeup is not None and len(self._queue) >= self._wake_at:
            self.wake()

    def wake(self) -> None:
        """Let the writer look again."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def close(self) -> None:
        """Take nothing new."""
        self.closed = True
        self.wake()

    async def gather(self, company: int, last_write: float) -> bool:
        """Wait until there is something to write; False when closed and empty.

        `company` is how many commits the last batch had: their authors are likely to be about to
        submit again.
        """
        while not self._queue:
            if self.closed:
                return False
            await self._sleep_until(1, None)
        # Handlers that are ready get their turn to queue theirs.
        for _ in range(2):
            before = len(self._queue)
            await asyncio.sleep(0)
            if len(self._queue) == before:
                break
        if LINGER_ABOVE < company > len(self._queue) and self._linger_s and not self.closed:
            left = self._linger_s - (self._loop.time() - last_write)
            if left > 0:
                await self._sleep_until(company, left)
        return True

    async def _sleep_until(self, count: int, timeout_s: float | None) -> None:
        self._wakeup = self._loop.create_future()
        self._wake_at = count
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self.wake)
        try:
            await self._wakeup
        finally:
            self._wakeup = None
            if timer is not None:
                timer.cancel()

    def take(self) -> Job | list[Submission]:
        """Take the job at the front, or the commits up to the next job or the bound of a batch."""
        queue = self._queue
        first = queue[0]
        if isinstance(first, Job):
            queue.popleft()
            return first
        batch: list[Submission] = []
        size = 0
        while queue and len(batch) < BATCH_COMMITS:
            entry = queue[0]
            if isinstance(entry, Job) or (batch and size + entry[2] > BATCH_BYTES):
                break
            size += entry[2]
            batch.append(entry)
            queue.popleft()
        self._bytes -= size
        return batch

    def put_back(self, entries: Sequence[Submission]) -> None:
        """Put commits that were taken to the front again."""
        self._queue.extendleft(reversed(entries))
        self._bytes += sum(entry[2] for entry in entries)

    def take_one(self) -> Submission | Job:
        """Take the entry at the front."""
        entry = self._queue.popleft()
        if not isinstance(entry, Job):
            self._bytes -= entry[2]
        return entry
