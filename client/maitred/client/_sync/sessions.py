# generated: edit _async and run scripts/unasync.py
"""Sessions: their life, their log and the streams of their changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from maitred.client._cursors import SessionCursor
from maitred.client._options import Mutation
from maitred.client._sync.calls import Calls
from maitred.client._sync.pages import Pager
from maitred.client._sync.watches import (
    EventsWatch,
    ResumingStream,
    SessionWatch,
)
from maitred.client._values import struct, timestamp
from maitred.v1.event_pb2 import Event
from maitred.v1.session_pb2 import (
    CloseSessionRequest,
    CloseSessionResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    ExtendSessionRequest,
    ExtendSessionResponse,
    GetSessionRequest,
    GetSessionResponse,
    ListEventsRequest,
    ListEventsResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    ResetSessionRequest,
    ResetSessionResponse,
    UpdateSessionRequest,
    UpdateSessionResponse,
    WatchEventsRequest,
    WatchEventsResponse,
    WatchMode,
    WatchSessionRequest,
    WatchSessionResponse,
)
from maitred.v1.state_pb2 import Attention, Session, SessionStatus


class Sessions:
    """The methods of the SessionService."""

    _calls: Calls

    def get_session(self, *, session_id: str, at_version: int | None = None) -> Session:
        """Read a session, now or as it was at a version.

        Raises: InvalidSession, SessionDeleted, VersionOutOfRange.
        """
        request = GetSessionRequest(session_id=session_id, at_version=at_version)
        return (self._calls.call(request, GetSessionResponse)).session

    def list_sessions(
        self,
        *,
        statuses: Sequence[SessionStatus.ValueType] = (),
        customer_id: str = "",
        labels: Mapping[str, str] | None = None,
        attention: Attention.ValueType = Attention.ATTENTION_UNSPECIFIED,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
    ) -> Pager[Session]:
        """List sessions, newest first; every filter that is given must fit."""

        def fetch(token: str) -> tuple[Sequence[Session], str]:
            request = ListSessionsRequest(
                statuses=statuses,
                customer_id=customer_id,
                labels=labels,
                attention=attention,
                created_from=timestamp(created_from),
                created_before=timestamp(created_before),
                page_size=page_size,
                page_token=token,
            )
            answer = self._calls.call(request, ListSessionsResponse)
            return answer.sessions, answer.next_page_token

        return Pager(fetch, page_token)

    def update_session(
        self,
        *,
        session_id: str,
        labels: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        customer_id: str | None = None,
        remove_labels: Sequence[str] = (),
        remove_attributes: Sequence[str] = (),
        update_mask: Sequence[str] = (),
        **options: Unpack[Mutation],
    ) -> UpdateSessionResponse:
        """Set and remove labels and attributes one by one; set the customer, or clear it by "".

        What `update_mask` names of "labels", "attributes" and "customer_id" is replaced whole, and
        what it does not name of them is left alone.
        """
        request = UpdateSessionRequest(
            session_id=session_id,
            labels=labels,
            attributes=struct(attributes),
            customer_id=customer_id,
            update_mask=FieldMask(paths=update_mask) if update_mask else None,
            remove_labels=remove_labels,
            remove_attributes=remove_attributes,
            **options,
        )
        return self._calls.call(request, UpdateSessionResponse)

    def extend_session(
        self, *, session_id: str, idle_seconds: int = 0, **options: Unpack[Mutation]
    ) -> ExtendSessionResponse:
        """Count the idle time anew, or set how long it may be."""
        request = ExtendSessionRequest(session_id=session_id, idle_seconds=idle_seconds, **options)
        return self._calls.call(request, ExtendSessionResponse)

    def reset_session(
        self, *, session_id: str, reason: str = "", **options: Unpack[Mutation]
    ) -> ResetSessionResponse:
        """Restore the defaults of a session.

        Raises: TabOpen, ReasonRequired, PaymentOpen.
        """
        request = ResetSessionRequest(session_id=session_id, reason=reason, **options)
        return self._calls.call(request, ResetSessionResponse)

    def close_session(
        self, *, session_id: str, reason: str = "", **options: Unpack[Mutation]
    ) -> CloseSessionResponse:
        """End a session.

        Raises: TabOpen, ReasonRequired, PaymentOpen.
        """
        request = CloseSessionRequest(session_id=session_id, reason=reason, **options)
        return self._calls.call(request, CloseSessionResponse)

    def delete_session(
        self, *, session_id: str, reason: str, **options: Unpack[Mutation]
    ) -> DeleteSessionResponse:
        """Erase a session without open money; its id never comes back.

        Raises: TabOpen, PaymentOpen.
        """
        request = DeleteSessionRequest(session_id=session_id, reason=reason, **options)
        return self._calls.call(request, DeleteSessionResponse)

    def list_events(
        self,
        *,
        session_id: str,
        after_version: int = 0,
        changes: Sequence[str] = (),
        page_size: int = 0,
        page_token: str = "",
    ) -> Pager[Event]:
        """Read the log of a session in order; `changes` are names such as `line_added`."""

        def fetch(token: str) -> tuple[Sequence[Event], str]:
            request = ListEventsRequest(
                session_id=session_id,
                after_version=after_version,
                changes=changes,
                page_size=page_size,
                page_token=token,
            )
            answer = self._calls.call(request, ListEventsResponse)
            return answer.events, answer.next_page_token

        return Pager(fetch, page_token)

    def watch_session(
        self,
        *,
        session_id: str,
        after_version: int | None = None,
        resume_token: bytes = b"",
        mode: WatchMode.ValueType = WatchMode.WATCH_MODE_EVERY_EVENT,
        timeout: float | None = None,
    ) -> SessionWatch:
        """Watch a session: a snapshot first unless resuming, then every version once, in order.

        Nothing is sent before the first item is asked for. `timeout` ends the watch with
        DEADLINE_EXCEEDED.
        """
        request = WatchSessionRequest(
            session_id=session_id, after_version=after_version, resume_token=resume_token, mode=mode
        )
        source = ResumingStream(self._calls, request, WatchSessionResponse, timeout)
        return SessionWatch(source, SessionCursor(after_version, mode))

    def watch_events(
        self,
        *,
        resume_token: bytes = b"",
        from_beginning: bool = False,
        changes: Sequence[str] = (),
        session_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> EventsWatch:
        """Watch all sessions and menus, from now on unless resuming or from the beginning.

        Keep `resume_token` of the watch to go on after a restart.
        """
        request = WatchEventsRequest(
            resume_token=resume_token,
            from_beginning=from_beginning,
            changes=changes,
            session_ids=session_ids,
        )
        source = ResumingStream(self._calls, request, WatchEventsResponse, timeout)
        return EventsWatch(source, resume_token)
