"""The engine: lock, load, replay, preconditions, decide, submit; publish when it is durable.

From its submission on, a commit and the lock belong to the command and not to the call: the store's
callback swaps the cached state, publishes, releases the lock and resolves the reply in one
synchronous step. A cancelled call only stops waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from maitred.server.config import Settings
from maitred.server.domain import sessions
from maitred.server.domain.evolve import EVENT_SCHEMA
from maitred.server.engine import audit, eventlog, identity, projections
from maitred.server.engine.aggregates import NS, UNLISTED, Aggregate, aggregates
from maitred.server.engine.cache import Head, HeadCache
from maitred.server.engine.call import SYSTEM_CALL, Call, late
from maitred.server.engine.claims import ClaimKeys
from maitred.server.engine.clock import Clock, Ids, RandomIds, SystemClock
from maitred.server.engine.command import ClaimRefused, Command, Result
from maitred.server.engine.committer import Committer, Decided
from maitred.server.engine.follower import Follower
from maitred.server.engine.hub import Hub
from maitred.server.engine.locks import Locks
from maitred.server.engine.reader import Reader, Snapshot
from maitred.server.engine.reads import Reads
from maitred.server.engine.refs import menu_ref, session_ref
from maitred.server.engine.tokens import Tokens
from maitred.server.engine.watchdog import Watchdog
from maitred.server.errors import (
    ConcurrentModification,
    DeadlineExceeded,
    LockTimeout,
    MaitredError,
    SessionExpired,
    ShuttingDown,
)
from maitred.server.stores import base
from maitred.server.stores.base import Append, Commit, Kind, Ref, Replayed, Store
from maitred.v1.event_pb2 import Event

MAX_ATTEMPTS = 8
"""How often a command is decided anew after another server was faster."""

Answer = asyncio.Future[Result | base.Outcome | base.StoreError]


class _Again(Exception):
    """The decision rests on a state that is no longer the newest."""


class _Overdue(Exception):
    """The session must expire before the command can be refused."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class Engine:
    """Everything that reads or changes aggregates goes through here."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock or SystemClock()
        self.ids = ids or RandomIds(self.clock)
        self.locks = Locks(settings.lock_timeout_s)
        self.cache = HeadCache(settings.cache_sessions)
        self.hub = Hub(settings.heartbeat_s)
        self.reads = Reads(store)
        self.committer = Committer(store, self.cache, self.locks, self.hub, self.reads.barrier)
        self.claims = ClaimKeys(self.clock, settings.inbound_seconds)
        self.info: base.StoreInfo | None = None
        self._kinds: dict[Kind, Aggregate] = aggregates(settings.retention_seconds)
        self.watchdog = Watchdog(store)
        self.reader = Reader(
            self.reads, self.cache, self.locks, self.committer, self._kinds, self.watchdog
        )
        self._follower = Follower(store, self.hub, self._kinds)
        self._closing = False
        self._deletions: set[asyncio.Task[Result | base.Outcome]] = set()

    async def start(self) -> base.StoreInfo:
        """Open the store and begin to publish."""
        self.info = await self.store.open()
        self.reader.exclusive = self.reads.exclusive = self.info.exclusive
        self.tokens = Tokens(self.info.secret, self.info.epoch)
        self.hub.start(self.tokens)
        await self.claims.start(self.store, self.info.secret)
        if not self.info.exclusive:
            self._follower.start()
            self.watchdog.listeners.append(self.hub.store_changed)
            self.watchdog.start()
        return self.info

    async def stop(self) -> None:
        """Refuse what is new, end the watches, wait for what was submitted, close the store."""
        self._closing = True
        self.hub.stop()
        await self._follower.stop()
        await self.watchdog.stop()
        await self.committer.drain()
        await self.store.close()

    def fingerprint(self, rpc: str, request: Message) -> bytes:
        """Digest a request without its id and preconditions: a retry has the same."""
        return identity.fingerprint(rpc, request)

    async def verify(self, ref: Ref) -> audit.AuditReport:
        """Check the log of an aggregate against its chain and its state."""
        kind = self._kinds[ref.kind]
        report = await self.reads.released(audit.verify(self.store, ref, kind.parse, kind.evolve))
        if report is None:
            raise kind.absent(ref.id)
        return report

    # --- reading -------------------------------------------------------------------------------

    async def read(self, ref: Ref, *, at_version: int | None = None) -> Snapshot | None:
        """Read an aggregate, now or as it was; None if there never was one."""
        return await self.reader.read(ref, at_version=at_version)

    async def session(self, session_id: str, *, at_version: int | None = None) -> Snapshot:
        """Read a session.

        Raises: InvalidSession, SessionDeleted, VersionOutOfRange.
        """
        return await self.reader.require(session_ref(session_id), at_version=at_version)

    async def menu(self, menu_id: str) -> Snapshot:
        """Read a menu. Raises: MenuNotFound."""
        return await self.reader.require(menu_ref(menu_id))

    async def events(
        self,
        ref: Ref,
        after: int,
        limit: int,
        changes: Sequence[str] | None = None,
        *,
        before: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        """Read events with `after` < version < `before`, with their personal fields."""
        return await self.reader.events(
            ref, after, limit, changes, before=before, newest_first=newest_first
        )

    # --- changing ------------------------------------------------------------------------------

    async def execute(self, command: Command, call: Call) -> Result:
        """Decide a command, make it durable and answer; or answer what it led to before.

        Raises: MaitredError of the decision or of a precondition; ClaimRefused; StoreError.
        """
        who = identity.identify(command.request, call.method)
        for _attempt in range(MAX_ATTEMPTS):
            await self._lock(command.ref, call)
            pending: Answer | None = None
            expiring = False
            try:
                decided = await self._decide(command, call, who)
                if isinstance(decided, Result):
                    return decided
                pending = self.committer.submit(decided)
            except _Overdue as overdue:
                head = self.cache.get(command.ref)
                expiry = self._build(
                    command.ref, head, overdue.event, SYSTEM_CALL, identity.NOBODY, None
                )
                pending = self.committer.submit(expiry)
                expiring = True
            except _Again:
                continue
            finally:
                if pending is None:
                    self.locks.release(command.ref)
            outcome = await pending
            match outcome:
                case Result() if expiring:
                    raise SessionExpired(f"session {command.ref.id!r} has expired")
                case Result():
                    return outcome
                case Replayed():
                    return await self._replay(
                        command.ref, outcome.version, outcome.fingerprint, who
                    )
                case base.ClaimTaken():
                    raise ClaimRefused(outcome.space, outcome.key, outcome.owner)
                case base.StoreError():
                    raise outcome
        raise ConcurrentModification(
            f"{command.ref.id!r} is being changed by others all the time; try again",
            retry_after_s=0.1,
        )

    async def forget(self, command: Command, call: Call) -> Result:
        """Commit a terminal event and erase the aggregate but for its tombstone.

        Raises: as `execute`.
        """
        who = identity.identify(command.request, call.method)
        for _attempt in range(MAX_ATTEMPTS):
            await self._lock(command.ref, call)
            work: asyncio.Task[Result | base.Outcome] | None = None
            try:
                decided = await self._decide(command, call, who)
                if isinstance(decided, Result):
                    return decided
                # A task of its own: the call may be cancelled, a deletion that began may not.
                work = asyncio.create_task(self.committer.forget(decided))
                self._deletions.add(work)
                work.add_done_callback(self._deletions.discard)
                self.committer.hold()
            except _Again:
                continue
            finally:
                if work is None:
                    self.locks.release(command.ref)
            outcome = await asyncio.shield(work)
            if isinstance(outcome, Result):
                return outcome
        raise ConcurrentModification(f"{command.ref.id!r} is being changed by others; try again")

    async def _lock(self, ref: Ref, call: Call) -> None:
        if self._closing:
            raise ShuttingDown("the server is shutting down", retry_after_s=1)
        self.watchdog.check()
        remaining = call.time_left()
        if self.locks.try_acquire(ref):
            return
        try:
            await self.locks.acquire(ref, remaining)
        except LockTimeout:
            if remaining is not None and remaining < self.settings.lock_timeout_s:
                raise late() from None
            raise
        try:
            # The lock may have come late, on a loop that was too busy to say so in time.
            call.time_left()
        except DeadlineExceeded:
            self.locks.release(ref)
            raise

    async def _decide(
        self, command: Command, call: Call, who: identity.Identity
    ) -> Result | Decided:
        ref = command.ref
        head = self.cache.get(ref)
        remembered = head is not None
        if head is None:
            loaded = await self.store.load(ref, who.request_id)
            if loaded is not None:
                recorded = loaded.request_event
                if recorded is not None:
                    identity.require_same(recorded.fingerprint, who)
                    event_bytes = eventlog.decode_bytes(recorded)
                    return Result(loaded.version, loaded.body, event_bytes, replayed=True)
                head = self.reader.head_of(ref, loaded)
                self.cache.put(ref, head)
        try:
            event = await self._decision(command, head)
        except (MaitredError, _Overdue):
            answer = await self._answered_before(ref, head, who, remembered=remembered)
            if answer is not None:
                return answer
            raise
        if event is None:
            answer = await self._answered_before(ref, head, who, remembered=remembered)
            if answer is not None:
                return answer
            if head is None:
                raise self._kinds[ref.kind].absent(ref.id)
            return Result(head.version, head.body, b"", replayed=False)
        return self._build(ref, head, event, call, who, command)

    async def _decision(self, command: Command, head: Head | None) -> Event | None:
        if head is None and not command.create:
            raise self._kinds[command.ref.kind].absent(command.ref.id)
        if command.request is not None:
            identity.check_preconditions(command.request, head)
        now_ns = self._now(head)
        state = None
        if head is not None:
            state = head.state
            if not command.ended and command.ref.kind is Kind.SESSION:
                self._require_live(state, now_ns)
        if command.prepare is not None:
            await command.prepare(state)
        return command.decide(state, now_ns)

    def _require_live(self, session: Any, now_ns: int) -> None:
        sessions.require_open(session)
        if sessions.is_overdue(session, now_ns):
            event = sessions.tick(session, now_ns, self.settings.retention_seconds)
            if event is not None and event.HasField("session_expired"):
                raise _Overdue(event)

    async def _answered_before(
        self, ref: Ref, head: Head | None, who: identity.Identity, *, remembered: bool
    ) -> Result | None:
        """Look whether this request was answered already, before a refusal or a no-op is.

        Raises: _Again, where the refusal would rest on memory that another server made stale.
        """
        if who.request_id is not None:
            event = await self.store.event_by_request(ref, who.request_id)
            if event is not None:
                return await self._replay(ref, event.version, event.fingerprint, who)
        if remembered and not self.reader.exclusive and head is not None:
            versions = await self.store.versions([ref])
            if versions.get(ref, 0) != head.version:
                self.cache.drop(ref)
                raise _Again
        return None

    def _build(
        self,
        ref: Ref,
        head: Head | None,
        event: Event,
        call: Call,
        who: identity.Identity,
        command: Command | None,
    ) -> Decided:
        """Complete an event and everything that is stored with it."""
        kind = self._kinds[ref.kind]
        change = event.WhichOneof("change")
        assert change is not None
        now_ns = self._now(head)
        event.version = 1 if head is None else head.version + 1
        event.time.seconds, event.time.nanos = divmod(now_ns, NS)
        event.actor = call.actor.name
        event.actor_role = call.actor.role
        event.schema = EVENT_SCHEMA
        before = None if head is None else head.state
        expires_at_s = kind.expires_at_s(before, event, now_ns)
        if expires_at_s is not None:
            event.expires_at.seconds = expires_at_s
        state = kind.evolve(before, event)
        body = state.SerializeToString()
        encoded = eventlog.encode(event, self.ids)
        chain = eventlog.chain_next(
            eventlog.chain_start(ref) if head is None else head.chain, encoded.facts
        )
        index = head.index if head is not None and change in UNLISTED else kind.index_of(state)
        taken = command.claims(event) if command is not None and command.claims else ()
        append = Append(
            ref,
            event.version - 1,
            self.ids.random_bytes(16),
            who.request_id,
            who.fingerprint,
            now_ns,
            eventlog.change_number(change),
            encoded.facts,
            encoded.personal,
            chain,
            body,
            None if head is not None and head.index == index else index,
            kind.wake_at_ns(state),
        )
        rows = projections.rows(ref, change, event, now_ns)
        if command is not None:
            rows += command.rows
        commit = Commit((append,), taken, (), rows)
        after = Head(event.version, now_ns, chain, body, state, index)
        return Decided(ref, commit, after, change, event, encoded.full)

    async def _replay(
        self, ref: Ref, version: int, recorded: bytes, who: identity.Identity
    ) -> Result:
        identity.require_same(recorded, who)
        rows = await self.store.events(ref, version - 1, 1)
        head = await self.reader.head(ref)
        if head is None or not rows:
            raise self._kinds[ref.kind].absent(ref.id)
        return Result(head.version, head.body, eventlog.decode_bytes(rows[0]), replayed=True)

    def _now(self, head: Head | None) -> int:
        """The time of a decision: never before the event it follows."""
        now_ns = self.clock.now_ns()
        return now_ns if head is None else max(now_ns, head.time_ns)
