"""Notices from providers: durable before they are acknowledged, and processed until done.

A notice settles nothing. It is kept as a row, its payment is looked at once for all notices that
came before the look, and the commit that records what was found marks them processed. What a
crash left unprocessed is found by the next start; what another server left, a minute later.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from maitred.server.engine.engine import Engine
from maitred.server.errors import MaitredError
from maitred.server.kinds.session import SESSION
from maitred.server.kinds.tables import Table
from maitred.server.payments.provider import Notice, ProviderError
from maitred.server.payments.records import put
from maitred.server.stores.base import (
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    Outcome,
    OutcomeUnknown,
    Ref,
    Row,
    RowFilter,
    StoreError,
)
from maitred.server.telemetry import metrics

PENDING, PROCESSED, UNMATCHED = 1, 2, 3
"""Status of a row: to be worked off, done, or of a payment that is not ours to know."""

CLAIM_SPACE = "notice"
NOWHERE = Ref(SESSION, "")
"""No session has this name: a notice is not a session's, and is not erased with one."""

KEPT_S = 30 * 24 * 3600
"""Providers repeat a message for days; so long a repetition is recognised, and a row kept."""

PAUSE_S = 1.0
"""A payment is looked at no more often than this, however many notices tell of it."""

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Pauses after a look that failed; the last one stays."""

RESUBMIT_S = 0.1
REMEMBERED = 20_000
"""Ids of notices known to be durable, so that repetitions cost nothing."""

PAGE = 200
NS = 1_000_000_000

log = structlog.get_logger(__name__)


class Owner(NamedTuple):
    """Whose payment a notice is about."""

    session_id: str
    payment_id: str


class _Kept(NamedTuple):
    """What a row holds."""

    delivery: str
    """Of several deliveries of one notice, the one that was taken in: owns the claim on its id."""
    provider: str
    notice: Notice


@dataclass(slots=True)
class Group:
    """Notices of one payment that wait, and the task that works them off."""

    rows: dict[str, Row] = field(default_factory=dict)
    payment_id: str = ""
    task: asyncio.Task[None] | None = None


Find = Callable[[str, Notice], Awaitable[Owner | None]]
"""Finds whose payment it is, at a provider. Raises: ProviderError, MaitredError, StoreError."""

Look = Callable[[Owner], Awaitable[Exception | None]]
"""Has a payment looked at; answers what kept it from being done."""


class Inbox:
    """Takes notices in, and has their payments looked at."""

    def __init__(self, engine: Engine, find: Find, look: Look, *, pause_s: float = PAUSE_S) -> None:
        self._engine = engine
        self._find = find
        self._look = look
        self._pause_s = pause_s
        self._groups: dict[str, Group] = {}
        self._durable: OrderedDict[str, None] = OrderedDict()
        self._closing = False

    def __len__(self) -> int:
        """How many notices wait to be worked off."""
        return sum(len(group.rows) for group in self._groups.values())

    async def receive(self, provider: str, notice: Notice) -> bool:
        """Take a notice in; durable on return. False where it was known before.

        Raises: StoreError, where it is not known to be durable; the provider sends it again then.
        """
        key = f"{provider}/{notice.event_id}"
        if key in self._durable:
            return False
        now_ns = self._engine.clock.now_ns()
        # An owner of its own for each delivery: of two that come at once one is refused.
        delivery = self._engine.ids.random_bytes(16).hex()
        body = _encode(_Kept(delivery, provider, notice))
        row = Row(Table.INBOX, key, NOWHERE, now_ns, body, PENDING)
        claim = Claim(CLAIM_SPACE, key, delivery)
        answer = self._submit(Commit((), claims=(claim,), rows=(row,)), row)
        outcome = await answer
        if isinstance(outcome, StoreError):
            raise outcome
        return isinstance(outcome, Committed)

    def waiting(self, payment_id: str) -> tuple[Row, ...]:
        """Name the notices of a payment that a look which begins now will take care of."""
        return tuple(
            row
            for group in self._groups.values()
            if group.payment_id == payment_id
            for row in group.rows.values()
        )

    async def put_away(self, rows: Sequence[Row], *, stored: bool, status: int = PROCESSED) -> None:
        """Let go of notices that were taken care of; unless `stored`, mark their rows as well.

        Raises: StoreError.
        """
        if not rows:
            return
        if not stored:
            await put(self._engine, Commit((), rows=processed(rows, status)))
        done = {row.key for row in rows}
        for group in self._groups.values():
            for key in done & group.rows.keys():
                del group.rows[key]

    async def take_up(self) -> None:
        """Queue what is stored and was never finished, by this process or another.

        Raises: StoreError.
        """
        async for row in self._stored(RowFilter(statuses=(PENDING,))):
            self._queue(row)

    async def purge(self) -> int:
        """Delete what was finished long ago; returns how much. Raises: StoreError."""
        before_ns = self._engine.clock.now_ns() - KEPT_S * NS
        where = RowFilter(statuses=(PROCESSED, UNMATCHED), created_before_ns=before_ns)
        rows = [row async for row in self._stored(where)]
        for start in range(0, len(rows), PAGE):
            page = rows[start : start + PAGE]
            kept = [(row, _read(row)) for row in page]
            releases = tuple(
                Claim(CLAIM_SPACE, row.key, each.delivery) for row, each in kept if each is not None
            )
            drops = tuple((row.table, row.key) for row in page)
            await put(self._engine, Commit((), releases=releases, drops=drops))
        return len(rows)

    async def settled_down(self) -> None:
        """Wait until nothing waits to be worked off."""
        while tasks := [group.task for group in self._groups.values() if group.task is not None]:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """Stop working off; what is left is taken up again by the next start."""
        self._closing = True
        tasks = [group.task for group in self._groups.values() if group.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- storing -------------------------------------------------------------------------------

    def _submit(self, commit: Commit, row: Row) -> asyncio.Future[Outcome | StoreError]:
        """Submit a notice. Who waits may stop waiting: once durable, it is worked off."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome | StoreError] = loop.create_future()

        def done(outcome: Outcome | StoreError) -> None:
            if isinstance(outcome, OutcomeUnknown) and not self._closing:
                # Whether it was applied shows by submitting it again, never by reading.
                loop.call_later(RESUBMIT_S, self._engine.store.submit, commit, done)
                return
            if isinstance(outcome, (Committed, ClaimTaken)):
                self._remember(row.key)
            if isinstance(outcome, Committed):
                self._queue(row)
            if not answer.done():
                answer.set_result(outcome)

        self._engine.store.submit(commit, done)
        return answer

    async def _stored(self, where: RowFilter) -> AsyncIterator[Row]:
        after: int | None = None
        while True:
            rows = await self._engine.reads.list_rows(
                Table.INBOX, where, after, PAGE, newest_first=False
            )
            if not rows:
                return
            for row in rows:
                yield row
            after = rows[-1].position

    def _remember(self, key: str) -> None:
        self._durable[key] = None
        if len(self._durable) > REMEMBERED:
            self._durable.popitem(last=False)

    # --- working off ---------------------------------------------------------------------------

    def _queue(self, row: Row) -> None:
        if self._closing:
            return
        kept = _read(row)
        if kept is None:
            return
        _, provider, notice = kept
        name = f"{provider}/{notice.payment_id or notice.reference}"
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group()
        group.rows.setdefault(row.key, row)
        if group.task is None:
            group.task = asyncio.create_task(self._work_off(name, group), name="payment-notices")

    async def _work_off(self, name: str, group: Group) -> None:
        failures = 0
        try:
            while group.rows:
                trouble = await self._try(group)
                if trouble is None:
                    failures = 0
                    pause_s = self._pause_s
                else:
                    pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                    failures += 1
                    log.warning(
                        "notice_waits",
                        notices=len(group.rows),
                        kind=type(trouble).__name__,
                        error=str(trouble),
                        retry_in_s=pause_s,
                    )
                if group.rows:
                    await asyncio.sleep(pause_s)
        finally:
            del self._groups[name]

    async def _try(self, group: Group) -> Exception | None:
        rows = tuple(group.rows.values())
        try:
            _, provider, notice = _decode(rows[-1].body)
            owner = await self._find(provider, notice)
            if owner is None:
                metrics.NOTICES_UNMATCHED.inc(len(rows))
                await self.put_away(rows, stored=False, status=UNMATCHED)
                return None
            group.payment_id = owner.payment_id
            return await self._look(owner)
        except (ProviderError, MaitredError, StoreError) as error:
            return error
        except Exception as error:  # logged; the notice waits as for any trouble
            log.exception("notice_crashed")
            return error


def processed(rows: Sequence[Row], status: int = PROCESSED) -> tuple[Row, ...]:
    """Write rows as they are once their notices were taken care of."""
    return tuple(row._replace(status=status) for row in rows)


def _encode(kept: _Kept) -> bytes:
    """Keep of a message what is read of it: the rest may be personal, and the provider has it."""
    return json.dumps([kept.delivery, kept.provider, *kept.notice]).encode()


def _read(row: Row) -> _Kept | None:
    """Read a row; None for one that nobody can read, which must not keep the others waiting."""
    try:
        return _decode(row.body)
    except (ValueError, TypeError):
        metrics.ROWS_SKIPPED.labels("notices").inc()
        log.exception("notice_unreadable", notice=row.key)
        return None


def _decode(body: bytes) -> _Kept:
    delivery, provider, *fields = json.loads(body)
    return _Kept(delivery, provider, Notice(*fields))
