"""SessionService over the wire."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from tests.support.wire import failure_of

from maitred.server.engine.clock import ManualClock
from maitred.v1 import order_pb2, order_pb2_grpc, session_pb2_grpc
from maitred.v1 import session_pb2 as pb
from maitred.v1.common_pb2 import Money
from maitred.v1.state_pb2 import (
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_DELETED,
    SESSION_STATUS_EXPIRED,
)


async def refusal(call: Awaitable[Any]) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure_of(error.value).reason


def fresh() -> str:
    """An id that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def sessions(grpc_channel: grpc.aio.Channel) -> Any:
    """The service."""
    return session_pb2_grpc.SessionServiceStub(grpc_channel)


@pytest.fixture
def orders(grpc_channel: grpc.aio.Channel) -> Any:
    """Orders, to open a tab with."""
    return order_pb2_grpc.OrderServiceStub(grpc_channel)


def order(session_id: str) -> order_pb2.AddItemRequest:
    """Something for five dollars."""
    price = Money(minor_units=500, currency="USD")
    return order_pb2.AddItemRequest(session_id=session_id, item="Corkage", open_price=price)


async def test_the_same_request_gives_the_existing_session(sessions: Any) -> None:
    """Also without a request id, and also after the session moved on."""
    request = pb.CreateSessionRequest(session_id=fresh(), labels={"table": "7"})
    first = await sessions.CreateSession(request)
    await sessions.ExtendSession(pb.ExtendSessionRequest(session_id=request.session_id))
    again = await sessions.CreateSession(request)

    assert (first.replayed, again.replayed) == (False, True)
    assert again.event == first.event
    assert (first.session.version, again.session.version) == (1, 2)


async def test_another_request_for_the_same_id_is_refused(sessions: Any) -> None:
    """An id means one session."""
    session_id = fresh()
    await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id))
    other = pb.CreateSessionRequest(session_id=session_id, customer_id="c")

    assert await refusal(sessions.CreateSession(other)) == "ALREADY_EXISTS"


async def test_a_retry_without_an_id_creates_one_session(sessions: Any) -> None:
    """The request id is the caller's, also concurrently."""
    request = pb.CreateSessionRequest(request_id=fresh())
    replies = await asyncio.gather(*(sessions.CreateSession(request) for _ in range(5)))

    assert len({reply.session.session_id for reply in replies}) == 1
    assert sorted(reply.replayed for reply in replies) == [False, True, True, True, True]
    request.labels["other"] = "content"
    assert await refusal(sessions.CreateSession(request)) == "REQUEST_ID_REUSED"


async def test_without_any_id_every_call_creates(sessions: Any) -> None:
    """Nothing tells a retry from a second guest."""
    replies = [await sessions.CreateSession(pb.CreateSessionRequest()) for _ in range(2)]

    assert replies[0].session.session_id != replies[1].session.session_id


async def test_a_session_is_read_now_and_as_it_was(sessions: Any) -> None:
    """Every version is there; none that was not."""
    session_id = fresh()
    created = await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id))
    request = pb.UpdateSessionRequest(session_id=session_id, labels={"table": "7"})
    request.update_mask.paths.append("labels")
    updated = await sessions.UpdateSession(request)

    now = await sessions.GetSession(pb.GetSessionRequest(session_id=session_id))
    was = await sessions.GetSession(pb.GetSessionRequest(session_id=session_id, at_version=1))
    assert now.session == updated.session
    assert was.session == created.session
    ahead = pb.GetSessionRequest(session_id=session_id, at_version=3)
    assert await refusal(sessions.GetSession(ahead)) == "VERSION_OUT_OF_RANGE"
    nobody = pb.GetSessionRequest(session_id=fresh())
    assert await refusal(sessions.GetSession(nobody)) == "INVALID_SESSION"


async def test_sessions_are_listed_in_pages(sessions: Any) -> None:
    """Newest first, each once, by label; a token serves its own listing only."""
    label = {"listing": fresh()}
    ids = []
    for _ in range(5):
        reply = await sessions.CreateSession(pb.CreateSessionRequest(labels=label))
        ids.append(reply.session.session_id)
    request = pb.ListSessionsRequest(labels=label, page_size=2)
    pages = []
    while True:
        page = await sessions.ListSessions(request)
        pages.append([session.session_id for session in page.sessions])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    request.labels["other"] = "x"
    assert await refusal(sessions.ListSessions(request)) == "INVALID_PAGE_TOKEN"
    request.page_token = page.sessions[0].session_id
    assert await refusal(sessions.ListSessions(request)) == "INVALID_PAGE_TOKEN"


async def test_sessions_are_filtered_by_status(sessions: Any) -> None:
    """Every filter that is set must fit."""
    customer = fresh()
    for _ in range(2):
        reply = await sessions.CreateSession(pb.CreateSessionRequest(customer_id=customer))
    await sessions.CloseSession(pb.CloseSessionRequest(session_id=reply.session.session_id))

    for status, count in ((SESSION_STATUS_ACTIVE, 1), (SESSION_STATUS_CLOSED, 1), (None, 2)):
        request = pb.ListSessionsRequest(customer_id=customer, statuses=[status] if status else [])
        assert len((await sessions.ListSessions(request)).sessions) == count


async def test_an_open_tab_is_written_off_with_a_reason(sessions: Any, orders: Any) -> None:
    """Reset asks why, then starts anew in one event."""
    session_id = fresh()
    await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id))
    await orders.AddItem(order(session_id))
    request = pb.ResetSessionRequest(session_id=session_id)
    assert await refusal(sessions.ResetSession(request)) == "REASON_REQUIRED"
    request.reason = "walked out"
    reply = await sessions.ResetSession(request)

    assert reply.event.session_reset.written_off.minor_units == 500
    assert (reply.session.reset_count, reply.session.version) == (1, 3)
    read = await sessions.GetSession(pb.GetSessionRequest(session_id=session_id))
    assert read.session == reply.session
    stale = order(session_id)
    stale.expected_reset_count = 0
    assert await refusal(orders.AddItem(stale)) == "CONCURRENT_MODIFICATION"


async def test_a_closed_session_refuses_commands(sessions: Any, orders: Any) -> None:
    """It can still be read."""
    session_id = fresh()
    await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id))
    await sessions.CloseSession(pb.CloseSessionRequest(session_id=session_id))

    assert await refusal(orders.AddItem(order(session_id))) == "SESSION_CLOSED"
    read = await sessions.GetSession(pb.GetSessionRequest(session_id=session_id))
    assert read.session.status == SESSION_STATUS_CLOSED


async def test_a_command_on_an_overdue_session_expires_it(
    sessions: Any, orders: Any, clock: ManualClock
) -> None:
    """Whether or not a sweep came by."""
    session_id = fresh()
    await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id, idle_seconds=10))
    clock.advance(11)

    assert await refusal(orders.AddItem(order(session_id))) == "SESSION_EXPIRED"
    read = await sessions.GetSession(pb.GetSessionRequest(session_id=session_id))
    assert read.session.status == SESSION_STATUS_EXPIRED


async def test_a_deleted_session_never_comes_back(sessions: Any, orders: Any) -> None:
    """Not with open money; then for good."""
    session_id = fresh()
    create = pb.CreateSessionRequest(session_id=session_id)
    await sessions.CreateSession(create)
    await orders.AddItem(order(session_id))
    request = pb.DeleteSessionRequest(session_id=session_id, reason="gdpr", request_id="d")
    assert await refusal(sessions.DeleteSession(request)) == "TAB_OPEN"
    await orders.ClearOrder(order_pb2.ClearOrderRequest(session_id=session_id))
    reply = await sessions.DeleteSession(request)

    assert reply.session.status == SESSION_STATUS_DELETED
    assert (await sessions.DeleteSession(request)).event == reply.event
    assert await refusal(sessions.CreateSession(create)) == "SESSION_DELETED"
    get = pb.GetSessionRequest(session_id=session_id)
    assert await refusal(sessions.GetSession(get)) == "SESSION_DELETED"


async def test_the_log_is_listed_in_pages(sessions: Any, orders: Any) -> None:
    """In order, from any version, and by change."""
    session_id = fresh()
    await sessions.CreateSession(pb.CreateSessionRequest(session_id=session_id))
    for _ in range(4):
        await orders.AddItem(order(session_id))
    request = pb.ListEventsRequest(session_id=session_id, page_size=2, after_version=1)
    versions = []
    while True:
        page = await sessions.ListEvents(request)
        versions.append([event.version for event in page.events])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert versions == [[2, 3], [4, 5]]
    only = pb.ListEventsRequest(session_id=session_id, changes=["session_created"])
    assert [event.version for event in (await sessions.ListEvents(only)).events] == [1]
    unknown = pb.ListEventsRequest(session_id=session_id, changes=["version"])
    assert await refusal(sessions.ListEvents(unknown)) == "INVALID_FIELD"
