"""Reads of single heads, many of which are asked for at once, put into one statement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from maitred.server.stores.base import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

MOST_KEYS: Final = 128
RUNNING: Final = 2
"""Statements under way at once: while one waits for the server, the next one gathers."""


class Combiner(Generic[K, V]):
    """Answers keys one by one and reads them together.

    A statement is sent after everybody whom it answers has asked, so that each sees what was
    committed before it did.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._read = read
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """Read what a key names, or None. Raises: StoreError."""
        answer = self._waiting.get(key)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._waiting[key] = answer
            if len(self._tasks) < RUNNING:
                task = asyncio.get_running_loop().create_task(self._run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        # Shielded, because others may wait for the same.
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:MOST_KEYS]
                asked = {key: self._waiting.pop(key) for key in keys}
                try:
                    await self._answer(asked)
                finally:
                    for answer in asked.values():
                        if not answer.done():
                            answer.set_exception(StoreUnavailable("the read was given up"))
                            answer.exception()
        finally:
            # Now, not by the callback a turn of the loop later: who asks in between would wait for
            # a task that has ended.
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)

    async def _answer(self, asked: dict[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._read(list(asked))
        except StoreError as error:
            if len(asked) > 1 and type(error) is StoreError:
                # One key that the database does not take must not spoil the others.
                for key, answer in asked.items():
                    await self._answer({key: answer})
                return
            for answer in asked.values():
                answer.set_exception(type(error)(*error.args))
                # Looked at, because nobody else does where the caller was cancelled.
                answer.exception()
            return
        for key, answer in asked.items():
            answer.set_result(found.get(key))
