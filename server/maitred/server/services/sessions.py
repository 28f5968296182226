"""SessionService: the life of sessions and their log. The streams are in `watching`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from maitred.server.domain import caps, sessions, updates
from maitred.server.domain.changes import MARKS
from maitred.server.engine import claims, eventlog, identity, wire
from maitred.server.engine.call import Call
from maitred.server.engine.command import ClaimRefused, Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.errors import InvalidField, MaitredError, RequestIdReused, Violation
from maitred.server.kinds.session import SESSION, attention_label, session_ref
from maitred.server.services.allowance import Allowance
from maitred.server.stores.base import Claim, Head, HeadFilter, Ref, StoredEvent
from maitred.v1 import session_pb2 as pb
from maitred.v1.common_pb2 import ROLE_STAFF
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Session

_MAX_NS = 2**63 - 1
_BEGINNINGS = [eventlog.change_number(name) for name in sorted(MARKS.begins)]
_CHANGES = frozenset(field.name for field in Event.DESCRIPTOR.oneofs_by_name["change"].fields)


class SessionService:
    """Creates, reads, changes and ends sessions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        life = engine.kinds[SESSION].life
        assert life is not None
        self._life = life
        settings = engine.settings
        self._allowance = Allowance(settings.max_sessions_per_hour)
        self._defaults = sessions.Defaults(
            menu_id=settings.default_menu_id,
            opening_balance_minor=settings.opening_balance_minor,
            currency=settings.currency,
            idle_seconds=settings.idle_seconds,
        )

    async def CreateSession(self, request: pb.CreateSessionRequest, call: Call) -> bytes:
        """Open a session, join the one that the same request opened, or begin a new visit."""
        session_id = request.session_id or self._engine.ids.new_id()
        ref = session_ref(session_id)
        most, visit = self._engine.caps_of(call.actor), self._allowance.visit(call.actor)
        begun: StoredEvent | None = None
        fingerprint = identity.fingerprint(call.method, request)

        async def prepare(state: Session | None) -> None:
            nonlocal begun
            if state is not None and sessions.is_active(state):
                begun = await self._beginning(ref)

        def decide(state: Session | None, _now: int) -> Event | None:
            same = begun is not None and begun.fingerprint == fingerprint
            if state is None or not sessions.is_active(state):
                caps.require_opening(most, request)
                visit.take()
            return sessions.create(state, request, session_id, self._defaults, same=same)

        command = Command(
            ref,
            decide,
            request,
            prepare,
            # An id of the server's cannot tell a retry, so the caller's request id has to.
            claims=None if request.session_id else lambda _: self._claim(request, call, session_id),
            ended=True,
            create=True,
        )
        try:
            result = await self._engine.execute(command, call)
            began = not result.replayed
        except ClaimRefused as claimed:
            result, began = await self._created_before(claimed.owner, fingerprint), False
        except MaitredError:
            visit.give_back()
            raise
        if not began:
            visit.give_back()
        event = result.parsed_event()
        if event is None:
            assert begun is not None
            event = eventlog.decode(begun)
            result = result._replace(event=event.SerializeToString(), replayed=True)
        elif event.HasField("request_recorded"):
            result = result._replace(replayed=True)
        if event.HasField("visit_started"):
            return result.reply(pb.CreateSessionResponse(new_visit=True))
        return result.reply()

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> bytes:
        """Read a session, now or as it was."""
        at_version = request.at_version if request.HasField("at_version") else None
        snapshot = await self._engine.session(request.session_id, at_version=at_version)
        return wire.bodies([snapshot.body])

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> bytes:
        """List sessions, newest first."""
        calls = (attention_label(request.attention),) if request.attention else ()
        where = HeadFilter(
            statuses=tuple(request.statuses),
            owner=request.customer_id or None,
            labels=(*calls, *sorted(request.labels.items())),
            created_from_ns=_ns(request, "created_from"),
            created_before_ns=_ns(request, "created_before"),
        )
        listing = Listing(request, self._engine.tokens, call)

        async def read(after: int | None, limit: int) -> Sequence[Head]:
            return await self._engine.expiry.listed(
                self._life,
                partial(self._engine.reads.list_heads, SESSION, where, after, limit),
                where.statuses,
            )

        heads, after = await fill(
            listing, read, lambda head: head.position, lambda head: len(head.body)
        )
        return wire.bodies((head.body for head in heads), listing.token(after))

    async def UpdateSession(self, request: pb.UpdateSessionRequest, call: Call) -> bytes:
        """Set and remove labels and attributes; set the customer."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: updates.update(session, request),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def ExtendSession(self, request: pb.ExtendSessionRequest, call: Call) -> bytes:
        """Move the expiry."""
        command = Command(
            session_ref(request.session_id),
            partial(_extend, request, self._engine.caps_of(call.actor)),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def ResetSession(self, request: pb.ResetSessionRequest, call: Call) -> bytes:
        """Restore the defaults."""
        most = self._engine.caps_of(call.actor)

        def decide(session: Session, _now: int) -> Event:
            caps.require_reset(most, session)
            return sessions.reset(session, request.reason, staff=most is None)

        command = Command(session_ref(request.session_id), decide, request)
        return (await self._engine.execute(command, call)).reply()

    async def CloseSession(self, request: pb.CloseSessionRequest, call: Call) -> bytes:
        """End a session."""
        staff = call.actor.is_at_least(ROLE_STAFF)
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: sessions.close(session, request.reason, staff=staff),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def DeleteSession(self, request: pb.DeleteSessionRequest, call: Call) -> bytes:
        """Erase a session."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: sessions.delete(session, request.reason),
            request,
            ended=True,
            overdue=True,
        )
        return (await self._engine.forget(command, call)).reply()

    async def ListEvents(self, request: pb.ListEventsRequest, call: Call) -> Message:
        """Read the log of a session in order."""
        unknown = [
            Violation(f"changes[{at}]", "change.known", "is no change of an event")
            for at, name in enumerate(request.changes)
            if name not in _CHANGES
        ]
        if unknown:
            raise InvalidField("changes: unknown change", violations=unknown)
        listing = Listing(request, self._engine.tokens, call)
        await self._engine.session(request.session_id)
        ref = session_ref(request.session_id)
        changes = list(request.changes) or None

        async def read(after: int | None, limit: int) -> Sequence[Event]:
            start = request.after_version if after is None else after
            return await self._engine.events(ref, start, limit, changes)

        events, after = await fill(listing, read, lambda event: event.version, Event.ByteSize)
        return pb.ListEventsResponse(events=events, next_page_token=listing.token(after))

    async def _beginning(self, ref: Ref) -> StoredEvent:
        """Read the event with which the present visit began."""
        found = await self._engine.reads.events(ref, 0, 1, _BEGINNINGS, newest_first=True)
        return found[0]

    async def _created_before(self, session_id: str, fingerprint: bytes) -> Result:
        """Answer the session that a request id without a session id created.

        Raises: RequestIdReused, where it was another request; SessionDeleted.
        """
        snapshot = await self._engine.session(session_id)
        created = (await self._engine.reads.events(session_ref(session_id), 0, 1))[0]
        if created.fingerprint != fingerprint:
            raise RequestIdReused("this request id was used for another request")
        return Result(
            snapshot.version, snapshot.body, eventlog.decode_bytes(created), replayed=True
        )

    def _claim(
        self, request: pb.CreateSessionRequest, call: Call, session_id: str
    ) -> tuple[Claim, ...]:
        if not request.request_id:
            return ()
        names = (call.actor.name, request.request_id)
        # Escaped, so that no caller's name can make its ids another caller's.
        text = "/".join(name.replace("%", "%25").replace("/", "%2F") for name in names)
        return (Claim(claims.CREATION, self._engine.claims.key(claims.CREATION, text), session_id),)


def _extend(
    request: pb.ExtendSessionRequest, most: caps.Caps | None, session: Session, _now: int
) -> Event:
    caps.require_idle(most, request.idle_seconds)
    return sessions.extend(session, request)


def _ns(request: pb.ListSessionsRequest, field: str) -> int | None:
    """Read a bound of a listing, as far as stored times reach.

    Raises: InvalidField, where it is no time.
    """
    if not request.HasField(field):  # type: ignore[arg-type]  # one of two literal names
        return None
    at: Timestamp = getattr(request, field)
    try:
        return max(-_MAX_NS, min(_MAX_NS, at.ToNanoseconds()))
    except ValueError:
        raise InvalidField(
            f"{field} is no time",
            violations=[Violation(field, "timestamp.range", "must be in the years 1 to 9999")],
        ) from None
