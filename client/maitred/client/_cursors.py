"""The position of a watch: what it has delivered, so that nothing is repeated or skipped."""

from __future__ import annotations

import grpc

from maitred.client._items import (
    PaymentUpdate,
    SessionEnded,
    SessionEvent,
    SessionSnapshot,
    SessionUpdate,
)
from maitred.client.errors import MaitredError
from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import WatchPaymentResponse
from maitred.v1.session_pb2 import WatchMode, WatchSessionResponse
from maitred.v1.state_pb2 import PaymentState


class SessionCursor:
    """The place of a watch in the log of one session."""

    def __init__(self, after_version: int | None, mode: WatchMode.ValueType) -> None:
        self._version = after_version
        self._every_event = mode != WatchMode.WATCH_MODE_LATEST
        self.ended = False

    def take(self, message: WatchSessionResponse) -> list[SessionUpdate]:
        """List what is new in a message.

        Raises: MaitredError with DATA_LOSS where a version is missing.
        """
        match message.WhichOneof("update"):
            case "snapshot":
                return self._snapshot(message)
            case "events":
                return [
                    SessionEvent(event.version, event)
                    for event in message.events.events
                    if self._is_next(event)
                ]
            case "end":
                self.ended = True
                return [SessionEnded(message.version, message.end.deleted, message.end.unread)]
            case _:
                return []

    def end(self) -> SessionEnded:
        """End the watch of a session that was deleted unseen."""
        self.ended = True
        return SessionEnded(self._version or 0, deleted=True, unread=True)

    def _snapshot(self, message: WatchSessionResponse) -> list[SessionUpdate]:
        if self._version is not None:
            if message.version <= self._version:
                return []
            if self._every_event:
                raise _gap(self._version, message.version)
        self._version = message.version
        return [SessionSnapshot(message.version, message.snapshot)]

    def _is_next(self, event: Event) -> bool:
        if self._version is not None:
            if event.version <= self._version:
                return False
            if self._every_event and event.version != self._version + 1:
                raise _gap(self._version, event.version)
        self._version = event.version
        return True


class PaymentCursor:
    """The place of a watch in the payments of one session."""

    def __init__(self, after_version: int | None) -> None:
        self._version = after_version
        self.ended = False

    def take(self, message: WatchPaymentResponse) -> list[PaymentUpdate]:
        """List what is new in a message."""
        if message.heartbeat:
            return []
        self.ended = message.deleted or message.last
        if self._version is not None and message.version <= self._version and not self.ended:
            return []
        self._version = message.version
        payment = message.payment if message.HasField("payment") else None
        return [
            PaymentUpdate(
                message.version,
                message.state,
                payment,
                message.settled,
                message.deleted,
                message.outcome,
                message.unread,
                message.next_action if message.HasField("next_action") else None,
            )
        ]

    def end(self) -> PaymentUpdate:
        """End the watch of a session that was deleted unseen."""
        self.ended = True
        version = self._version or 0
        return PaymentUpdate(
            version, PaymentState(), None, settled=False, deleted=True, unread=True
        )


def _gap(seen: int, got: int) -> MaitredError:
    return MaitredError(
        f"the watch skipped from version {seen} to {got}", status=grpc.StatusCode.DATA_LOSS
    )
