"""Deciding a command on one state: replay, preconditions, lifecycle, the decision, what is stored.

Whatever is decided is built on the very state that was judged, a refusal's expiry too: between the
two the head in memory may have become another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maitred.server.domain.evolve import EVENT_SCHEMA
from maitred.server.engine import eventlog, identity, limits
from maitred.server.engine.cache import HeadCache, Latest
from maitred.server.engine.call import SYSTEM_CALL, Call
from maitred.server.engine.clock import Clock, Ids
from maitred.server.engine.command import Command, Result
from maitred.server.engine.committer import Decided
from maitred.server.engine.identity import Identity
from maitred.server.engine.reader import Reader
from maitred.server.engine.soundness import require_sound
from maitred.server.errors import MaitredError
from maitred.server.kinds import Kinds
from maitred.server.stores.base import Append, Commit, Ref, Store
from maitred.server.units import NS
from maitred.v1.event_pb2 import Event, RequestRecorded


class Again(Exception):
    """The decision rests on a state that is no longer the newest."""


class Overdue(Exception):
    """The aggregate must expire first; carries the expiry, built on the state that was judged."""

    def __init__(self, expiry: Decided) -> None:
        super().__init__()
        self.expiry = expiry


class Decider:
    """Decides commands; its caller holds the aggregate's lock, and stores what is decided."""

    def __init__(
        self,
        store: Store,
        cache: HeadCache,
        reader: Reader,
        kinds: Kinds,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._cache = cache
        self._reader = reader
        self._kinds = kinds
        self._clock = clock
        self._ids = ids

    async def decide(self, command: Command, call: Call, who: Identity) -> Result | Decided:
        """Decide on the newest state that is known, or answer what the request led to before.

        Raises: MaitredError of the decision or of a precondition; Again; Overdue.
        """
        if command.others:
            return await self._decide_together(command, call, who)
        ref = command.ref
        head = self._cache.get(ref)
        remembered = head is not None
        if head is None:
            found = await self._load(ref, who)
            if isinstance(found, Result):
                return found
            head = found
        # What a command prepares is read after its state, and may be newer.
        stale = remembered or command.prepare is not None
        try:
            event = await self._decision(command, head)
            if event is not None:
                return self.build(ref, head, event, call, who, command)
        except (MaitredError, Overdue):
            answer = await self._answered_before({ref: head}, ref, who, stale=stale)
            if answer is not None:
                return answer
            raise
        if head is None:
            raise self._kinds[ref.kind].no_such(ref.id)
        if who.request_id is None:
            await self._answered_before({ref: head}, ref, who, stale=stale)
            return Result(head.version, head.body, b"", replayed=False)
        # Remembered as any other effect is: the commit finds out whether it was already.
        found_as_wished = command.about(head.state) if command.about is not None else ""
        event = self._recorded(ref, call, found_as_wished)
        return self.build(ref, head, event, call, who, command)

    async def _load(self, ref: Ref, who: Identity) -> Latest | Result | None:
        """Read a head that is not remembered, or what the request led to before."""
        loaded = await self._store.load(ref, who.request_id)
        if loaded is None:
            return None
        recorded = loaded.request_event
        if recorded is not None:
            identity.require_same(recorded.fingerprint, who)
            event_bytes = eventlog.decode_bytes(recorded, self._kinds[ref.kind].event)
            return Result(
                loaded.version,
                loaded.body,
                event_bytes,
                replayed=True,
                event_type=self._kinds[ref.kind].event,
            )
        head = self._reader.head_of(ref, loaded)
        self._cache.put(ref, head)
        return head

    def _recorded(self, ref: Ref, call: Call, payment_id: str = "") -> Any:
        """Make the event of a request that changes nothing of an aggregate."""
        recorded = RequestRecorded(method=call.method, payment_id=payment_id)
        return self._kinds[ref.kind].event(request_recorded=recorded)

    async def _decide_together(
        self, command: Command, call: Call, who: Identity
    ) -> Result | Decided:
        """Decide about several aggregates; their locks are held.

        The states may be of different moments where others write too. A commit of all of them, or
        a look at all their versions at once, shows that they were of one.
        """
        heads: dict[Ref, Latest | None] = {}
        try:
            # The one that holds the request id first: its answer comes before all refusals.
            for ref in (command.ref, *command.others):
                head = self._cache.get(ref)
                if head is None:
                    mine = who if ref == command.ref else identity.NOBODY
                    found = await self._load(ref, mine)
                    if isinstance(found, Result):
                        return found
                    head = found
                heads[ref] = head
            now_ns = self._clock.now_ns()
            states = {ref: self._judge(command, ref, head, now_ns) for ref, head in heads.items()}
            if command.prepare is not None:
                await command.prepare(states)
            events = command.decide(states, now_ns)
        except (MaitredError, Overdue):
            answer = await self._answered_before(heads, command.ref, who, stale=True)
            if answer is not None:
                return answer
            raise
        head = heads[command.ref]
        if events:
            return self._build_together(heads, events, call, who, command)
        answer = await self._answered_before(heads, command.ref, who, stale=True)
        if answer is not None:
            return answer
        if head is None:
            raise self._kinds[command.ref.kind].no_such(command.ref.id)
        if who.request_id is None:
            return Result(head.version, head.body, b"", replayed=False)
        return self.build(command.ref, head, self._recorded(command.ref, call), call, who, command)

    def _build_together(
        self,
        heads: Mapping[Ref, Latest | None],
        events: Mapping[Ref, Any],
        call: Call,
        who: Identity,
        command: Command,
    ) -> Decided:
        """Put the events of all aggregates into one commit."""
        nobody = Identity(None, who.fingerprint)
        parts: dict[Ref, Decided] = {}
        for ref, head in heads.items():
            event = events.get(ref)
            if event is None and head is None:
                continue
            first = ref == command.ref
            parts[ref] = self.build(
                ref,
                head,
                self._recorded(ref, call) if event is None else event,
                call,
                who if first else nobody,
                command if first else None,
            )
        if command.ref not in parts:
            raise self._kinds[command.ref.kind].no_such(command.ref.id)
        commits = [parts[ref].commit for ref in sorted(parts)]
        commit = Commit(
            tuple(append for each in commits for append in each.appends),
            tuple(claim for each in commits for claim in each.claims),
            (),
            tuple(row for each in commits for row in each.rows),
        )
        others = tuple(part for ref, part in parts.items() if ref != command.ref)
        return parts[command.ref]._replace(commit=commit, others=others)

    async def _decision(self, command: Command, head: Latest | None) -> Any:
        # Not the event's time, which never goes back: what a clock that was ahead has written must
        # not put its sessions forward for ever.
        now_ns = self._clock.now_ns()
        state = self._judge(command, command.ref, head, now_ns)
        if command.prepare is not None:
            await command.prepare(state)
        return command.decide(state, now_ns)

    def _judge(self, command: Command, ref: Ref, head: Latest | None, now_ns: int) -> Any:
        """Take the state to decide on, if it is there, as expected, and open.

        Raises: MaitredError; Overdue.
        """
        kind = self._kinds[ref.kind]
        if head is None and not command.create:
            raise kind.no_such(ref.id)
        if command.request is not None and ref == command.ref:
            identity.check_preconditions(command.request, kind, head)
        if head is None:
            return None
        state, life = head.state, kind.life
        if life is not None:
            if not command.ended:
                life.require_open(state)
            if not command.overdue and life.is_overdue(state, now_ns):
                raise Overdue(self._expiry(ref, head, life.expire(state)))
        return state

    def _expiry(self, ref: Ref, head: Latest, event: Event) -> Decided:
        """Build the expiry of what is overdue."""
        return self.build(ref, head, event, SYSTEM_CALL, identity.NOBODY, None)

    def is_overdue(self, ref: Ref, head: Latest) -> bool:
        """Whether a head is of what must expire before anybody is shown it."""
        if head.wake_at_ns is None or head.wake_at_ns > self._clock.now_ns():
            return False
        life = self._kinds[ref.kind].life
        return life is not None and life.is_overdue(head.state, self._clock.now_ns())

    async def _answered_before(
        self, heads: Mapping[Ref, Latest | None], ref: Ref, who: Identity, *, stale: bool
    ) -> Result | None:
        """Look whether this request was answered already, before a refusal or a no-op is.

        Raises: Again, where the refusal would rest on memory that another server made stale.
        """
        if who.request_id is not None:
            event = await self._store.event_by_request(ref, who.request_id)
            if event is not None:
                return await self.replay(ref, event.version, event.fingerprint, who)
        known = {each: head.version for each, head in heads.items() if head is not None}
        if stale and not self._reader.exclusive and known:
            versions = await self._store.versions(known)
            moved = [each for each, version in known.items() if versions.get(each, 0) != version]
            for each in moved:
                self._cache.drop(each)
            if moved:
                raise Again
        return None

    async def replay(self, ref: Ref, version: int, recorded: bytes, who: Identity) -> Result:
        """Answer the event that a request led to before, with the state as it is now.

        Raises: RequestIdReused.
        """
        identity.require_same(recorded, who)
        rows = await self._store.events(ref, version - 1, 1)
        require_sound(rows)
        head = await self._reader.head(ref)
        if head is None or not rows:
            raise self._kinds[ref.kind].no_such(ref.id)
        event = eventlog.decode_bytes(rows[0], self._kinds[ref.kind].event)
        return Result(
            head.version,
            head.body,
            event,
            replayed=True,
            event_type=self._kinds[ref.kind].event,
        )

    def build(
        self,
        ref: Ref,
        head: Latest | None,
        event: Event,
        call: Call,
        who: Identity,
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
        if kind.life is not None and change not in kind.changes.keeps_expiry:
            expires_at_s = kind.life.expires_at_s(before, event, self._clock.now_ns())
            if expires_at_s is not None:
                event.expires_at.seconds = expires_at_s
        state = kind.fold(before, event)
        body = state.SerializeToString()
        encoded = eventlog.encode(event, self._ids)
        limits.check(kind, change, head, body, encoded.full)
        chain = eventlog.chain_next(
            eventlog.chain_start(ref) if head is None else head.chain, encoded.facts
        )
        unlisted = head is not None and change in kind.changes.unlisted
        index = head.index if head is not None and unlisted else kind.index(state)
        taken = command.claims(event) if command is not None and command.claims else ()
        wake_at_ns = kind.wake_at_ns(state)
        append = Append(
            ref,
            event.version - 1,
            self._ids.random_bytes(16),
            who.request_id,
            who.fingerprint,
            now_ns,
            kind.changes.numbers[change],
            encoded.facts,
            encoded.personal,
            chain,
            body,
            None if head is not None and head.index == index else index,
            wake_at_ns,
        )
        rows = kind.rows(ref, change, event, now_ns)
        if command is not None:
            rows += command.rows
        commit = Commit((append,), taken, (), rows)
        after = Latest(event.version, now_ns, chain, body, state, index, wake_at_ns)
        return Decided(ref, commit, after, change, event, encoded.full)

    def _now(self, head: Latest | None) -> int:
        """The time of a decision: never before the event it follows."""
        now_ns = self._clock.now_ns()
        return now_ns if head is None else max(now_ns, head.time_ns)
