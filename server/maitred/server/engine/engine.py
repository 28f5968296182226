"""The engine: lock, load, replay, preconditions, decide, submit; publish when it is durable.

From its submission on, a commit and the lock belong to the command and not to the call: the store's
callback swaps the cached state, publishes, releases the lock and resolves the reply in one
synchronous step. A cancelled call only stops waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from maitred.server.config import Settings
from maitred.server.config.settings import opening_balances
from maitred.server.domain.caps import Caps
from maitred.server.engine import audit, identity
from maitred.server.engine.cache import HeadCache
from maitred.server.engine.call import Actor, Call, late
from maitred.server.engine.claims import ClaimKeys
from maitred.server.engine.clock import Clock, Ids, RandomIds, SystemClock
from maitred.server.engine.command import Beside, ClaimRefused, Command, Result
from maitred.server.engine.committer import Committer, Decided
from maitred.server.engine.decider import Again, Decider, Overdue
from maitred.server.engine.expiry import Expiry
from maitred.server.engine.follower import Follower
from maitred.server.engine.hub import Hub
from maitred.server.engine.locks import Locks
from maitred.server.engine.reader import Reader, Snapshot
from maitred.server.engine.reads import Reads
from maitred.server.engine.tokens import Tokens
from maitred.server.engine.watchdog import Watchdog
from maitred.server.errors import (
    ConcurrentModification,
    DeadlineExceeded,
    LockTimeout,
    MaitredError,
    ShuttingDown,
    Unsupported,
)
from maitred.server.kinds import Kinds, all_kinds
from maitred.server.kinds.session import session_ref
from maitred.server.stores import base
from maitred.server.stores.base import Ref, Replayed, Store
from maitred.v1.common_pb2 import ROLE_STAFF
from maitred.v1.event_pb2 import Event

MAX_ATTEMPTS = 8
"""How often a command is decided anew after another server was faster."""

Answer = asyncio.Future[Result | base.Outcome | base.StoreError]


class Engine:
    """Everything that reads or changes aggregates goes through here."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        kinds: Kinds | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.kinds = kinds or all_kinds(settings.retention_seconds)
        self.clock = clock or SystemClock()
        self.ids = ids or RandomIds(self.clock)
        self.locks = Locks(settings.lock_timeout_s)
        self.cache = HeadCache(settings.cache_sessions, settings.cache_bytes)
        self.hub = Hub(settings.heartbeat_s, self.kinds)
        self.reads = Reads(store)
        self.committer = Committer(
            store, self.kinds, self.cache, self.locks, self.hub, self.reads.barrier
        )
        self._caps = _caps(settings)
        self.claims = ClaimKeys(self.clock, settings.inbound_seconds)
        self.info: base.StoreInfo | None = None
        self.watchdog = Watchdog(store)
        self.reader = Reader(
            self.reads, self.cache, self.locks, self.committer, self.kinds, self.watchdog
        )
        self._decider = Decider(store, self.cache, self.reader, self.kinds, self.clock, self.ids)
        self.expiry = Expiry(
            store, self.kinds, self.reader, self.execute, self.clock, self.ids.new_id()
        )
        self.reader.is_overdue = self._decider.is_overdue
        self.reader.settle = self.expiry.settle
        self._follower = Follower(store, self.hub, self.kinds)
        self._closing = False
        self._joint: list[str] = []
        """Who changes several aggregates at once."""
        self._deletions: set[asyncio.Task[Result | base.Outcome]] = set()

    async def start(self) -> base.StoreInfo:
        """Open the store and begin to publish."""
        self.info = await self.store.open()
        if self._joint:
            try:
                self._require_joint_commits()
            except Unsupported:
                await self.store.close()
                raise
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

    def caps_of(self, actor: Actor) -> Caps | None:
        """What an actor may do at most; None for STAFF, who is above the caps."""
        return None if actor.is_at_least(ROLE_STAFF) else self._caps

    async def verify(self, ref: Ref) -> audit.AuditReport:
        """Check the log of an aggregate against its chain and its state."""
        kind = self.kinds[ref.kind]
        report = await self.reads.released(audit.verify(self.store, kind, ref))
        if report is None:
            raise kind.no_such(ref.id)
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
            refs = await self._lock_all(command, call)
            pending: Answer | None = None
            answered: Result | None = None
            expiring: Ref | None = None
            try:
                decided = await self._decider.decide(command, call, who)
                if isinstance(decided, Result):
                    answered = decided
                else:
                    pending = self._submit(decided, refs)
            except Overdue as overdue:
                pending = self._submit(overdue.expiry, refs)
                expiring = overdue.expiry.ref
            except Again:
                continue
            finally:
                for ref in refs:
                    self.locks.release(ref)
            if pending is None:
                assert answered is not None
                return await self._shown(command, answered)
            outcome = await pending
            match outcome:
                case Result() if expiring is not None and command.ended:
                    continue
                case Result() if expiring is not None:
                    raise self._expired(expiring)
                case Result():
                    return outcome
                case Replayed():
                    replayed = await self._decider.replay(
                        command.ref, outcome.version, outcome.fingerprint, who
                    )
                    return await self._shown(command, replayed)
                case base.ClaimTaken():
                    raise ClaimRefused(outcome.space, outcome.key, outcome.owner)
                case base.StoreError():
                    raise outcome
        raise ConcurrentModification(
            f"{command.ref.id!r} is being changed by others all the time; try again",
            retry_after_s=0.1,
        )

    def _submit(self, decided: Decided, held: list[Ref]) -> Answer:
        """Submit a commit, which takes over the locks of what it changes."""
        pending = self.committer.submit(decided)
        for part in (decided, *decided.others):
            held.remove(part.ref)
        return pending

    async def forget(self, command: Command, call: Call) -> Result:
        """Commit a terminal event and erase the aggregate but for its tombstone.

        Raises: as `execute`.
        """
        assert not command.others, "a deletion is of one aggregate"
        who = identity.identify(command.request, call.method)
        for _attempt in range(MAX_ATTEMPTS):
            await self._lock(command.ref, call)
            work: asyncio.Task[Result | base.Outcome] | None = None
            try:
                decided = await self._decider.decide(command, call, who)
                if isinstance(decided, Result):
                    return decided
                # A task of its own: the call may be cancelled, a deletion that began may not.
                work = asyncio.create_task(self.committer.forget(decided))
                self._deletions.add(work)
                work.add_done_callback(self._deletions.discard)
                self.committer.hold()
            except Again:
                continue
            finally:
                if work is None:
                    self.locks.release(command.ref)
            outcome = await asyncio.shield(work)
            if isinstance(outcome, Result):
                return outcome
        raise ConcurrentModification(f"{command.ref.id!r} is being changed by others; try again")

    async def _shown(self, command: Command, result: Result) -> Result:
        """Answer what was not changed as a read would show it: a replay may find it overdue."""
        kind = self.kinds[command.ref.kind]
        if command.others:
            result = result._replace(others=await self._beside(command.others))
        if not result.replayed or kind.life is None:
            return result
        try:
            now = await self.reader.require(command.ref)
        except kind.gone:
            return result
        return result._replace(version=now.version, body=now.body)

    async def _beside(self, refs: Sequence[Ref]) -> dict[Ref, Beside]:
        """Read the further aggregates of a command, without those that are gone."""
        found = {}
        for ref in refs:
            kind = self.kinds[ref.kind]
            try:
                now = await self.reader.require(ref)
            except (kind.absent, kind.gone):
                continue
            found[ref] = Beside(now.version, now.body)
        return found

    def needs_joint_commits(self, who: str) -> None:
        """Refuse to start on a store that cannot commit several aggregates at once."""
        self._joint.append(who)

    def _require_joint_commits(self) -> None:
        """Raises: Unsupported."""
        if self.info is not None and not self.info.cross_aggregate:
            names = ", ".join(self._joint) or "a command"
            raise Unsupported(
                f"{names} must commit several aggregates at once, which {self.info.engine} cannot"
            )

    def _expired(self, ref: Ref) -> MaitredError:
        kind = self.kinds[ref.kind]
        assert kind.life is not None
        return kind.life.expired(f"{kind.name} {ref.id!r} has expired")

    async def _lock_all(self, command: Command, call: Call) -> list[Ref]:
        """Take the locks of a command: of several all or none, everywhere in the same order.

        Raises: Unsupported, where the store cannot commit several aggregates at once.
        """
        if not command.others:
            await self._lock(command.ref, call)
            return [command.ref]
        self._require_joint_commits()
        held: list[Ref] = []
        try:
            for ref in command.refs:
                await self._lock(ref, call)
                held.append(ref)
        except BaseException:
            for ref in held:
                self.locks.release(ref)
            raise
        return held

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


def _caps(settings: Settings) -> Caps:
    balances = opening_balances(settings.max_opening_balances)
    # What the server gives to whoever names nothing may be named, too.
    of_default = balances.get(settings.currency, balances[""])
    balances[settings.currency] = max(of_default, settings.opening_balance_minor)
    return Caps(
        opening_balances=balances,
        idle_seconds=max(settings.max_idle_seconds, settings.idle_seconds),
        resets=settings.max_resets,
        tab_lines=settings.max_tab_lines,
        tip_percentage=settings.max_tip_percentage,
    )
