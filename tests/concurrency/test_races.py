"""Whoever comes at the same time: one wins, nobody is lost, and nobody pays twice."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.concurrency.conftest import Bar
from tests.support.bar import ITEMS, add, new_guest, session, turn
from tests.support.wire import Failure, Wire

from maitred.v1 import (
    admin_pb2,
    conversation_pb2,
    order_pb2,
    payment_pb2,
    session_pb2,
    state_pb2,
)

ADD, TURN = "OrderService/AddItem", "ConversationService/RecordTurn"
BEER = ITEMS["beer"][1]


async def log_of(wire: Wire, session_id: str) -> list[Any]:
    """Read the whole log of a session."""
    events: list[Any] = []
    token = ""
    while not events or token:
        page = await wire(
            "SessionService/ListEvents",
            session_pb2.ListEventsRequest(session_id=session_id, page_size=1000, page_token=token),
        )
        events += page.events
        token = page.next_page_token
    return events


async def require_sound(wire: Wire, session_id: str) -> None:
    """The log explains the state, and the ledger the balance and the tab."""
    audit = await wire(
        "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id=session_id)
    )
    found = await session(wire, session_id)
    ledger, payment = found.ledger, found.payment

    assert audit.valid, audit
    assert audit.events == found.version
    assert payment.balance.minor_units == (
        ledger.opening - ledger.charges + ledger.reversals + ledger.adjustments + ledger.returned
    )
    assert payment.tab_total.minor_units == (
        ledger.charges - ledger.reversals - ledger.settled - ledger.written_off
    )


async def test_one_of_many_at_one_version_wins(bar: Bar) -> None:
    """Of forty charges that expect the same version exactly one happens."""
    guest = await new_guest(bar.wire)
    replies = await asyncio.gather(
        *(bar.wire.outcome(ADD, add(guest, expected_version=1)) for _ in range(40))
    )
    refused = [reply for reply in replies if isinstance(reply, Failure)]
    found = await session(bar.wire, guest)

    assert len(refused) == 39
    assert {(each.status, each.reason) for each in refused} == {
        ("ABORTED", "CONCURRENT_MODIFICATION")
    }
    assert {each.metadata["current_version"] for each in refused} == {"2"}
    assert found.version == 2
    assert found.payment.tab_total.minor_units == BEER
    await require_sound(bar.wire, guest)


@pytest.mark.parametrize("rest", [0, BEER - 1])
async def test_the_balance_buys_what_it_covers_and_no_more(bar: Bar, rest: int) -> None:
    """Without a version exactly floor(balance ÷ price) of them happen."""
    guest = await new_guest(bar.wire, balance=11 * BEER + rest)
    replies = await asyncio.gather(*(bar.wire.outcome(ADD, add(guest)) for _ in range(40)))
    refused = [reply for reply in replies if isinstance(reply, Failure)]
    found = await session(bar.wire, guest)

    assert len(refused) == 29
    assert {(each.status, each.reason) for each in refused} == {
        ("FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    }
    assert found.version == 12
    assert found.payment.balance.minor_units == rest
    assert found.payment.tab_total.minor_units == 11 * BEER
    await require_sound(bar.wire, guest)


async def test_mixed_writes_lose_nothing(bar: Bar) -> None:
    """The log holds exactly what was acknowledged, each at the version that was told."""
    guest = await new_guest(bar.wire)
    acknowledged: Counter[str] = Counter()
    versions: list[int] = []

    async def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            rpc, request = _any_write(chance, guest)
            reply = await bar.wire.outcome(rpc, request)
            if isinstance(reply, Failure):
                assert reply.reason in {"ORDER_EMPTY", "TAB_EMPTY", "INSUFFICIENT_FUNDS"}
            elif reply.HasField("event"):
                acknowledged[reply.event.WhichOneof("change")] += 1
                versions.append(reply.event.version)

    await asyncio.gather(*(write(seed) for seed in range(32)))
    events = await log_of(bar.wire, guest)
    found = await session(bar.wire, guest)

    assert sorted(versions) == list(range(2, len(events) + 1))
    assert Counter(event.WhichOneof("change") for event in events[1:]) == acknowledged
    assert found.conversation.turn_count == acknowledged["turn_recorded"]
    assert found.ledger.charges == BEER * acknowledged["line_added"]
    await require_sound(bar.wire, guest)


def _any_write(chance: random.Random, guest: str) -> tuple[str, Message]:
    match chance.randrange(4):
        case 0:
            return TURN, turn(guest)
        case 1:
            return ADD, add(guest)
        case 2:
            percentage = chance.choice((10, 15, 20))
            request = payment_pb2.SetTipRequest(session_id=guest, percentage=percentage)
            return "PaymentService/SetTip", request
        case _:
            return "OrderService/PlaceOrder", order_pb2.PlaceOrderRequest(session_id=guest)


@pytest.mark.parametrize("rpc", [ADD, TURN])
async def test_a_request_id_sent_many_times_at_once_has_one_effect(bar: Bar, rpc: str) -> None:
    """Every copy gets the event of the one that was first."""
    guest = await new_guest(bar.wire)
    request = (
        add(guest, request_id="the-same") if rpc == ADD else turn(guest, request_id="the-same")
    )
    replies = await asyncio.gather(*(bar.wire(rpc, request) for _ in range(32)))
    found = await session(bar.wire, guest)

    assert found.version == 2
    assert sum(not reply.replayed for reply in replies) == 1
    assert all(reply.event == replies[0].event for reply in replies)
    assert all(reply.session == found for reply in replies)


async def test_a_session_asked_for_many_times_at_once_is_created_once(bar: Bar) -> None:
    """A request id without a session id names one new session, however often it arrives."""
    request = session_pb2.CreateSessionRequest(request_id=uuid.uuid4().hex)
    replies = await asyncio.gather(
        *(bar.wire("SessionService/CreateSession", request) for _ in range(32))
    )

    assert len({reply.session.session_id for reply in replies}) == 1
    assert sum(not reply.replayed for reply in replies) == 1
    assert all(reply.event == replies[0].event for reply in replies)


async def test_a_chat_message_delivered_many_times_at_once_is_one_turn(bar: Bar) -> None:
    """A redelivery gets the first turn's event, replayed, although the answer is never the same."""
    guest = await new_guest(bar.wire)
    message_id = uuid.uuid4().hex
    replies = await asyncio.gather(
        *(bar.wire(TURN, _inbound(guest, message_id, str(at))) for at in range(32))
    )
    found = await session(bar.wire, guest)

    assert found.conversation.turn_count == 1
    assert sum(not reply.replayed for reply in replies) == 1
    assert all(reply.event == replies[0].event for reply in replies)


async def test_a_chat_message_belongs_to_one_session(bar: Bar) -> None:
    """Of two sessions that record one chat message the slower one is told who has it."""
    guests = [await new_guest(bar.wire) for _ in range(2)]
    message_id = uuid.uuid4().hex
    replies = await asyncio.gather(
        *(bar.wire.outcome(TURN, _inbound(guest, message_id, "hello")) for guest in guests)
    )
    refused = [reply for reply in replies if isinstance(reply, Failure)]
    winners = [guest for guest in guests if (await session(bar.wire, guest)).version == 2]

    assert [(each.status, each.reason) for each in refused] == [
        ("ALREADY_EXISTS", "INBOUND_MESSAGE_TAKEN")
    ]
    assert [each.metadata["session_id"] for each in refused] == winners


def _inbound(guest: str, message_id: str, answer: str) -> conversation_pb2.RecordTurnRequest:
    request = turn(guest)
    request.messages.add(role=state_pb2.MESSAGE_ROLE_ASSISTANT, text=answer)
    request.inbound.channel_type = "whatsapp"
    request.inbound.channel_identifier = "+4912345"
    request.inbound.message_id = message_id
    return request


async def test_different_guests_of_one_burst_are_all_served(bar: Bar) -> None:
    """A thousand calls to a hundred sessions at once all have their effect."""
    guests = await asyncio.gather(*(new_guest(bar.wire) for _ in range(100)))
    await asyncio.gather(*(bar.wire(TURN, turn(guest)) for guest in guests for _ in range(10)))
    found = await asyncio.gather(*(session(bar.wire, guest) for guest in guests))

    assert {each.version for each in found} == {11}
    assert {each.conversation.turn_count for each in found} == {10}
