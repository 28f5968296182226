"""ConversationService: turns, phases, context, and the messages in the log."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from maitred.server.domain import conversations
from maitred.server.engine import claims, eventlog, identity
from maitred.server.engine.call import Call
from maitred.server.engine.command import ClaimRefused, Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.engine.paging import Listing, fill
from maitred.server.errors import (
    ConcurrentModification,
    InboundMessageTaken,
    SessionClosed,
    SessionExpired,
)
from maitred.server.kinds.session import session_ref
from maitred.server.stores.base import Claim
from maitred.v1 import conversation_pb2 as pb
from maitred.v1.event_pb2 import Event

_TURNS = ("turn_recorded",)


class ConversationService:
    """Records turns and keeps what the agent remembers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def RecordTurn(self, request: pb.RecordTurnRequest, call: Call) -> bytes:
        """Close a turn; a chat message that was taken before gives the first turn's event."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: conversations.record_turn(session, request),
            request,
            claims=lambda event: self._claims(request, event),
        )
        try:
            result = await self._engine.execute(command, call)
        except ClaimRefused as claimed:
            result = await self._first_turn(request, call, claimed.owner)
        except (ConcurrentModification, SessionClosed, SessionExpired):
            # A redelivery is answered whatever the session has come to since.
            owner = await self._owner(request)
            if owner is None:
                raise
            result = await self._first_turn(request, call, owner)
        return result.reply()

    async def ListMessages(self, request: pb.ListMessagesRequest, call: Call) -> Message:
        """Read messages from the log."""
        listing = Listing(request, self._engine.tokens, call)
        await self._engine.session(request.session_id)
        ref = session_ref(request.session_id)
        newest_first = request.newest_first

        async def read(after: int | None, limit: int) -> Sequence[Event]:
            if newest_first:
                return await self._engine.events(
                    ref, 0, limit, _TURNS, before=after, newest_first=True
                )
            return await self._engine.events(ref, after or 0, limit, _TURNS)

        turns, after = await fill(
            listing,
            read,
            lambda event: event.version,
            Event.ByteSize,
            lambda event: len(event.turn_recorded.messages),
        )
        response = pb.ListMessagesResponse(next_page_token=listing.token(after))
        for turn in turns:
            messages = conversations.messages_of(turn)
            response.messages.extend(reversed(messages) if newest_first else messages)
        return response

    async def UpdateContext(self, request: pb.UpdateContextRequest, call: Call) -> bytes:
        """Change what the agent remembers."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: conversations.update_context(session, request),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def ResetPhase(self, request: pb.ResetPhaseRequest, call: Call) -> bytes:
        """Put the conversation back to its start."""
        command = Command(
            session_ref(request.session_id),
            lambda session, _now: conversations.reset_phase(session),
            request,
        )
        return (await self._engine.execute(command, call)).reply()

    async def _owner(self, request: pb.RecordTurnRequest) -> str | None:
        if not request.HasField("inbound"):
            return None
        claim = await self._engine.reads.claim(claims.INBOUND, self._key(request))
        return None if claim is None else claim.owner

    async def _first_turn(self, request: pb.RecordTurnRequest, call: Call, owner: str) -> Result:
        """Answer the turn that recorded a chat message, if this is that turn again.

        Raises: InboundMessageTaken, where something else was said or in another session.
        """
        session_id, version = claims.parse_owner(owner)
        taken = {"session_id": session_id, "version": version}
        if session_id != request.session_id:
            raise InboundMessageTaken("another session has taken this message", metadata=taken)
        snapshot = await self._engine.session(session_id)
        turn = await self._engine.reads.events(session_ref(session_id), int(version) - 1, 1)
        same = turn[0].fingerprint == identity.fingerprint(call.method, request)
        recorded = eventlog.decode(turn[0]).turn_recorded
        if not same and not conversations.is_redelivery(recorded, request):
            raise InboundMessageTaken(
                "this message was recorded with other words; to record an edit of it, set "
                "inbound.revision to the channel's id or time of the edit",
                metadata=taken,
            )
        return Result(
            snapshot.version, snapshot.body, eventlog.decode_bytes(turn[0]), replayed=True
        )

    def _claims(self, request: pb.RecordTurnRequest, event: Event) -> tuple[Claim, ...]:
        if not request.HasField("inbound"):
            return ()
        owner = claims.owner(request.session_id, event.version)
        expires_ns = self._engine.claims.inbound_expires_ns()
        return (Claim(claims.INBOUND, self._key(request), owner, expires_ns),)

    def _key(self, request: pb.RecordTurnRequest) -> str:
        return self._engine.claims.key(claims.INBOUND, conversations.inbound_key(request.inbound))
