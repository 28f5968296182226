"""ConversationService over the wire."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from tests.support.wire import failure_of

from maitred.v1 import conversation_pb2 as pb
from maitred.v1 import conversation_pb2_grpc, session_pb2, session_pb2_grpc
from maitred.v1.state_pb2 import (
    MESSAGE_ROLE_ASSISTANT,
    MESSAGE_ROLE_USER,
    PHASE_GREETING,
    PHASE_ORDER_TAKING,
)


class Guest:
    """A session of its own, and the service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.id = uuid.uuid4().hex
        self.service: Any = conversation_pb2_grpc.ConversationServiceStub(channel)
        self.sessions: Any = session_pb2_grpc.SessionServiceStub(channel)

    async def open(self) -> Guest:
        """Create the session."""
        await self.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id=self.id))
        return self

    def request(self, *texts: str, message_id: str = "") -> pb.RecordTurnRequest:
        """Build a turn."""
        request = pb.RecordTurnRequest(session_id=self.id)
        for text in texts:
            request.messages.add(role=MESSAGE_ROLE_USER, text=text)
        if message_id:
            request.inbound.channel_type = "whatsapp"
            request.inbound.channel_identifier = "+1 555 0100"
            request.inbound.message_id = message_id
        return request

    async def turn(self, *texts: str, message_id: str = "") -> Any:
        """Record a turn."""
        return await self.service.RecordTurn(self.request(*texts, message_id=message_id))

    async def messages(self, **fields: Any) -> list[list[str]]:
        """List all messages, page by page."""
        request = pb.ListMessagesRequest(session_id=self.id, **fields)
        pages = []
        while True:
            page = await self.service.ListMessages(request)
            pages.append([message.text for message in page.messages])
            if not page.next_page_token:
                return pages
            request.page_token = page.next_page_token


@pytest.fixture
async def guest(grpc_channel: grpc.aio.Channel) -> Guest:
    """A guest with a new session."""
    return await Guest(grpc_channel).open()


@pytest.fixture
async def other(grpc_channel: grpc.aio.Channel) -> Guest:
    """Another guest."""
    return await Guest(grpc_channel).open()


async def test_a_turn_moves_the_phase(guest: Guest) -> None:
    """One event says from where to where."""
    reply = await guest.turn("hello")

    turn = reply.event.turn_recorded
    assert (turn.phase_from, turn.phase_to) == (PHASE_GREETING, PHASE_ORDER_TAKING)
    assert reply.session.conversation.phase == PHASE_ORDER_TAKING


async def test_messages_are_listed_from_both_ends(guest: Guest) -> None:
    """A turn is never split, and every message comes once."""
    for number in range(3):
        await guest.turn(f"{number}a", f"{number}b")

    assert await guest.messages(page_size=3) == [["0a", "0b", "1a", "1b"], ["2a", "2b"]]
    assert await guest.messages(page_size=2, newest_first=True) == [
        ["2b", "2a"],
        ["1b", "1a"],
        ["0b", "0a"],
    ]


async def test_a_card_number_never_reaches_the_log(guest: Guest) -> None:
    """Neither the answer nor the log shows more than its last four digits."""
    reply = await guest.turn("4242 4242 4242 4242")

    assert reply.event.turn_recorded.messages[0].card_masked
    assert await guest.messages() == [["**** **** **** 4242"]]


async def test_a_redelivered_message_gets_the_first_turn(guest: Guest) -> None:
    """Whatever the agent would have answered this time, also concurrently."""
    inbound = uuid.uuid4().hex
    tries = [guest.request("hi", message_id=inbound) for _ in range(4)]
    for number, each in enumerate(tries):
        each.messages.add(role=MESSAGE_ROLE_ASSISTANT, text=f"try {number}")
    replies = await asyncio.gather(*map(guest.service.RecordTurn, tries))

    assert sorted(reply.replayed for reply in replies) == [False, True, True, True]
    assert len({reply.event.SerializeToString(deterministic=True) for reply in replies}) == 1
    assert replies[0].session.conversation.turn_count == 1


async def test_an_edited_message_is_no_redelivery(guest: Guest) -> None:
    """It is refused with the way to record it, and then recorded, once."""
    inbound = uuid.uuid4().hex
    first = await guest.turn("two beers", message_id=inbound)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await guest.turn("three beers", message_id=inbound)
    failure = failure_of(error.value)
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "INBOUND_MESSAGE_TAKEN"
    assert failure.metadata == {
        "session_id": guest.id,
        "version": str(first.event.version),
    }
    assert "inbound.revision" in (error.value.details() or "")
    edit = guest.request("three beers", message_id=inbound)
    edit.inbound.revision = "edit-1"
    recorded = [await guest.service.RecordTurn(edit) for _ in range(2)]

    assert [reply.replayed for reply in recorded] == [False, True]
    assert recorded[1].event == recorded[0].event
    assert recorded[0].event.turn_recorded.inbound.revision == "edit-1"
    assert await guest.messages() == [["two beers", "three beers"]]
    again = await guest.turn("two beers", message_id=inbound)
    assert (again.replayed, again.event) == (True, first.event)


async def test_a_redelivery_is_answered_after_the_end(guest: Guest) -> None:
    """A closed session and a stale precondition do not turn a duplicate into an error."""
    inbound = uuid.uuid4().hex
    first = await guest.turn("hi", message_id=inbound)
    stale = guest.request("hi", message_id=inbound)
    stale.expected_version = 1
    assert (await guest.service.RecordTurn(stale)).event == first.event
    await guest.sessions.CloseSession(session_pb2.CloseSessionRequest(session_id=guest.id))
    again = await guest.turn("hi", message_id=inbound)

    assert again.replayed
    assert again.event == first.event
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await guest.turn("new", message_id=uuid.uuid4().hex)
    failure = failure_of(error.value)
    assert failure.reason == "SESSION_CLOSED"


async def test_a_message_belongs_to_one_session(guest: Guest, other: Guest) -> None:
    """The refusal names the session that has it."""
    inbound = uuid.uuid4().hex
    await guest.turn("hi", message_id=inbound)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await other.turn("hi", message_id=inbound)

    failure = failure_of(error.value)
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert (failure.reason, failure.metadata["session_id"]) == ("INBOUND_MESSAGE_TAKEN", guest.id)


async def test_the_context_is_kept_and_the_phase_reset(guest: Guest) -> None:
    """Phase and counters start anew; what the agent remembers stays."""
    request = pb.UpdateContextRequest(session_id=guest.id, topic="drinks")
    request.entities.update({"table": 7})
    await guest.service.UpdateContext(request)
    unchanged = await guest.service.UpdateContext(request)
    assert not unchanged.HasField("event")
    recorded = guest.request("hi")
    recorded.messages.add(role=MESSAGE_ROLE_ASSISTANT, text="hello")
    await guest.service.RecordTurn(recorded)
    reply = await guest.service.ResetPhase(pb.ResetPhaseRequest(session_id=guest.id))

    conversation = reply.session.conversation
    assert (conversation.phase, conversation.turn_count) == (PHASE_GREETING, 0)
    assert conversation.context.topic == "drinks"
    assert conversation.context.entities.fields["table"].number_value == 7
