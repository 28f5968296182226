"""A watch hands out each version once, in order, or fails loudly."""

from __future__ import annotations

import grpc
import pytest

from maitred.client import MaitredError, SessionEnded, SessionEvent, SessionSnapshot, WatchMode
from maitred.client._cursors import PaymentCursor, SessionCursor
from maitred.v1.event_pb2 import Event
from maitred.v1.payment_pb2 import WatchPaymentResponse
from maitred.v1.session_pb2 import EventBatch, Heartbeat, WatchEnd, WatchSessionResponse
from maitred.v1.state_pb2 import Session

EVERY = WatchMode.WATCH_MODE_EVERY_EVENT
LATEST = WatchMode.WATCH_MODE_LATEST


def events(*versions: int) -> WatchSessionResponse:
    """A message with these events."""
    batch = EventBatch(events=[Event(version=version) for version in versions])
    return WatchSessionResponse(version=versions[-1], events=batch)


def snapshot(version: int) -> WatchSessionResponse:
    """A message with the whole session."""
    return WatchSessionResponse(version=version, snapshot=Session(version=version))


def test_a_batch_becomes_single_events() -> None:
    """Events that came in one message are handed out one by one."""
    cursor = SessionCursor(None, EVERY)
    first = cursor.take(snapshot(3))
    then = cursor.take(events(4, 5))

    assert first == [SessionSnapshot(3, Session(version=3))]
    assert then == [SessionEvent(4, Event(version=4)), SessionEvent(5, Event(version=5))]


def test_what_was_handed_out_does_not_come_again() -> None:
    """Messages that a new connection repeats, in whole or in part, add only what is new."""
    cursor = SessionCursor(0, EVERY)
    cursor.take(events(1, 2, 3))
    again = cursor.take(events(2, 3, 4))

    assert [item.version for item in again] == [4]


@pytest.mark.parametrize("message", [events(5), snapshot(5)], ids=["event", "snapshot"])
def test_a_missing_version_is_an_error(message: WatchSessionResponse) -> None:
    """Who follows every event is never silently left with a hole."""
    cursor = SessionCursor(3, EVERY)
    with pytest.raises(MaitredError) as caught:
        cursor.take(message)

    assert caught.value.status is grpc.StatusCode.DATA_LOSS


def test_the_newest_state_may_leave_versions_out() -> None:
    """In mode LATEST only what is older than the last snapshot is dropped."""
    cursor = SessionCursor(None, LATEST)
    found = [cursor.take(snapshot(version)) for version in (3, 9, 7)]

    assert [len(items) for items in found] == [1, 1, 0]


def test_heartbeats_are_swallowed_and_the_end_is_not() -> None:
    """A quiet watch hands out nothing; a deleted session ends it."""
    cursor = SessionCursor(4, EVERY)
    quiet = cursor.take(WatchSessionResponse(version=4, heartbeat=Heartbeat()))
    ended = cursor.take(WatchSessionResponse(version=5, end=WatchEnd(deleted=True)))

    assert quiet == []
    assert ended == [SessionEnded(5, deleted=True)]
    assert cursor.ended


def test_a_settled_payment_ends_the_watch_that_asked_for_it() -> None:
    """The settled state is handed out, also when its version was seen, and then the watch ends."""
    cursor = PaymentCursor(None)
    opened = cursor.take(WatchPaymentResponse(version=4))
    repeated = cursor.take(WatchPaymentResponse(version=4))
    heartbeat = cursor.take(WatchPaymentResponse(version=4, heartbeat=True))
    running = cursor.ended
    settled = cursor.take(WatchPaymentResponse(version=4, settled=True, last=True))

    assert (len(opened), repeated, heartbeat, running) == (1, [], [], False)
    assert settled[0].settled
    assert cursor.ended
