"""Conversations: turns, phases and context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from maitred.client._async.calls import AsyncCalls
from maitred.client._async.pages import AsyncPager
from maitred.client._options import Mutation
from maitred.client._values import struct
from maitred.v1.conversation_pb2 import (
    ListMessagesRequest,
    ListMessagesResponse,
    NewMessage,
    RecordTurnRequest,
    RecordTurnResponse,
    ResetPhaseRequest,
    ResetPhaseResponse,
    UpdateContextRequest,
    UpdateContextResponse,
)
from maitred.v1.state_pb2 import InboundMessage, IntentList, Message


class AsyncConversations:
    """The methods of the ConversationService."""

    _calls: AsyncCalls

    async def record_turn(
        self,
        *,
        session_id: str,
        messages: Sequence[NewMessage],
        inbound: InboundMessage | None = None,
        **options: Unpack[Mutation],
    ) -> RecordTurnResponse:
        """Close a turn: store its messages and move the phase on.

        Raises: InboundMessageTaken.
        """
        request = RecordTurnRequest(
            session_id=session_id, messages=messages, inbound=inbound, **options
        )
        return await self._calls.call(request, RecordTurnResponse)

    def list_messages(
        self,
        *,
        session_id: str,
        newest_first: bool = False,
        page_size: int = 0,
        page_token: str = "",
    ) -> AsyncPager[Message]:
        """Read the messages of a session."""

        async def fetch(token: str) -> tuple[Sequence[Message], str]:
            request = ListMessagesRequest(
                session_id=session_id,
                newest_first=newest_first,
                page_size=page_size,
                page_token=token,
            )
            answer = await self._calls.call(request, ListMessagesResponse)
            return answer.messages, answer.next_page_token

        return AsyncPager(fetch, page_token)

    async def update_context(
        self,
        *,
        session_id: str,
        topic: str | None = None,
        intents: Sequence[str] | None = None,
        entities: Mapping[str, Any] | None = None,
        remove_entities: Sequence[str] = (),
        **options: Unpack[Mutation],
    ) -> UpdateContextResponse:
        """Change what the agent remembers: topic and intents whole, entities one by one."""
        request = UpdateContextRequest(
            session_id=session_id,
            topic=topic,
            intents=None if intents is None else IntentList(intents=intents),
            entities=struct(entities),
            remove_entities=remove_entities,
            **options,
        )
        return await self._calls.call(request, UpdateContextResponse)

    async def reset_phase(
        self, *, session_id: str, **options: Unpack[Mutation]
    ) -> ResetPhaseResponse:
        """Put the phase back to greeting and the counters to zero."""
        request = ResetPhaseRequest(session_id=session_id, **options)
        return await self._calls.call(request, ResetPhaseResponse)
