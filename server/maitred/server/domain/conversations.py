"""Turns, phases and the context of a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.struct_pb2 import Struct

from maitred.server.domain import text
from maitred.server.errors import InvalidField, Violation
from maitred.v1.conversation_pb2 import (
    NewMessage,
    RecordTurnRequest,
    UpdateContextRequest,
)
from maitred.v1.event_pb2 import ContextUpdated, Event, PhaseReset, TurnRecorded
from maitred.v1.state_pb2 import (
    MESSAGE_ROLE_USER,
    PHASE_GREETING,
    PHASE_ORDER_TAKING,
    PHASE_REORDER_PROMPT,
    PHASE_SMALL_TALK,
    Conversation,
    ConversationContext,
    InboundMessage,
    Message,
    Phase,
    Session,
)

SMALL_TALK_TURNS = 4
"""After so many turns of small talk it is time to ask whether the guest wants more."""

MAX_ENTITIES = 64
"""Entities that a context may hold."""


class Step(NamedTuple):
    """Where a turn leads."""

    phase: Phase.ValueType
    small_talk_count: int


def next_step(phase: Phase.ValueType, small_talk_count: int, order_placed: bool) -> Step:
    """Move the phase on by one turn.

    The first turn always leads to order taking, so that a greeting is never answered by small
    talk; an order placed in it starts the count anew all the same.
    """
    count = 0 if order_placed else small_talk_count
    if phase == PHASE_GREETING:
        return Step(PHASE_ORDER_TAKING, count)
    if order_placed:
        return Step(PHASE_SMALL_TALK, 0)
    if phase == PHASE_ORDER_TAKING:
        return Step(PHASE_ORDER_TAKING, count)
    if phase == PHASE_SMALL_TALK:
        count += 1
        return Step(PHASE_REORDER_PROMPT if count >= SMALL_TALK_TURNS else phase, count)
    return Step(PHASE_SMALL_TALK, 0)


def record_turn(session: Session, request: RecordTurnRequest) -> Event:
    """Close a turn: keep what was said, consume the order placed in it and move the phase on.

    Raises: InvalidField, CardNumberRefused.
    """
    before = session.conversation
    turn = before.turn_count + 1
    step = next_step(before.phase, before.small_talk_count, before.order_placed_since_turn)
    return Event(
        turn_recorded=TurnRecorded(
            messages=[_message(new, turn, at) for at, new in enumerate(request.messages)],
            phase_from=before.phase,
            phase_to=step.phase,
            turn_count=turn,
            small_talk_count_from=before.small_talk_count,
            small_talk_count_to=step.small_talk_count,
            last_order_turn=turn if before.order_placed_since_turn else before.last_order_turn,
            inbound=_inbound(request),
        )
    )


def inbound_key(inbound: InboundMessage) -> str:
    """Name a chat message, in one of its revisions, for the claim that takes it at most once."""
    # Only the type cannot hold the separator: its pattern excludes it.
    names = [inbound.channel_type, inbound.channel_identifier, inbound.message_id]
    if inbound.revision:
        names.append(inbound.revision)
    return "|".join(name.replace("%", "%25").replace("|", "%7C") for name in names)


def is_redelivery(recorded: TurnRecorded, request: RecordTurnRequest) -> bool:
    """Whether a turn is of the very message that was recorded: the guest's words are the same.

    What the agent says to them may differ: asked a second time, it seldom says the same.
    """
    again = [_message(new, 0, at) for at, new in enumerate(request.messages)]
    return _words(recorded.messages) == _words(again)


def _words(messages: Iterable[Message]) -> list[tuple[int, str, str]]:
    """What the guest said; all that was said where none of it is the guest's."""
    said = [(int(message.role), message.text, message.name) for message in messages]
    return [each for each in said if each[0] == MESSAGE_ROLE_USER] or said


def messages_of(event: Event) -> list[Message]:
    """List the messages of a recorded turn, with its time; none for any other event."""
    messages = []
    for stored in event.turn_recorded.messages:
        message = Message()
        message.CopyFrom(stored)
        message.time.CopyFrom(event.time)
        messages.append(message)
    return messages


def update_context(session: Session, request: UpdateContextRequest) -> Event | None:
    """Replace the parts of the context that the request names.

    Raises: InvalidField, CardNumberRefused.
    """
    before = session.conversation.context
    after = ConversationContext()
    after.CopyFrom(before)
    if request.HasField("topic"):
        after.topic = text.note(request.topic, "topic")
    if request.HasField("intents"):
        after.ClearField("intents")
        check = text.CardCheck()
        after.intents.extend(
            check.add(text.clean(intent), f"intents.intents[{at}]", near=at > 0)
            for at, intent in enumerate(request.intents.intents)
        )
        check.refuse()
    _set_entities(after, request)
    text.require_size(after.ByteSize(), "entities")
    if after == before:
        return None
    return Event(context_updated=ContextUpdated(context=after))


def reset_phase(session: Session) -> Event | None:
    """Put the phase back to greeting and every counter to zero; the context stays."""
    after = Conversation(phase=PHASE_GREETING)
    before = Conversation()
    before.CopyFrom(session.conversation)
    before.ClearField("context")
    if before == after:
        return None
    return Event(phase_reset=PhaseReset(conversation=after))


def _message(new: NewMessage, turn: int, at: int) -> Message:
    said, masked = text.message(new.text)
    return Message(
        turn=turn,
        role=new.role,
        text=said,
        name=text.label(new.name, f"messages[{at}].name"),
        card_masked=masked,
    )


def _inbound(request: RecordTurnRequest) -> InboundMessage | None:
    if not request.HasField("inbound"):
        return None
    text.identifier(request.inbound.channel_identifier, "inbound.channel_identifier")
    text.identifier(request.inbound.message_id, "inbound.message_id")
    if request.inbound.revision:
        text.identifier(request.inbound.revision, "inbound.revision")
    return request.inbound


def _set_entities(after: ConversationContext, request: UpdateContextRequest) -> None:
    added: Struct = text.free_data(request.entities, "entities")
    for name, value in added.fields.items():
        after.entities.fields[name].CopyFrom(value)
    for name in request.remove_entities:
        if name in after.entities.fields:
            del after.entities.fields[name]
    count = len(after.entities.fields)
    if count > MAX_ENTITIES:
        raise InvalidField(
            f"the context would hold {count} entities",
            violations=[
                Violation("entities", "struct.max_entries", f"must not exceed {MAX_ENTITIES}")
            ],
        )
    if not count:
        after.ClearField("entities")
