"""Watches across servers: whatever one commits, the other's watchers get, to the end and once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from tests.services.test_watches import Guest, read, versions
from tests.support.requests import in_cash, open_payment
from tests.support.shared import Shared
from tests.support.wire import Wire, failure_of, wired

from maitred.server.app.server import Server
from maitred.server.engine import watchdog
from maitred.server.payments import simulated
from maitred.server.stores.memory import MemoryStore
from maitred.v1 import order_pb2, payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money


class Side(NamedTuple):
    """One of two servers, its way to their store, and a guest who talks to it."""

    server: Server
    wire: Wire
    store: Shared
    guest: Guest


Sides = tuple[Side, Side]


@pytest.fixture
async def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sides]:
    """Two whole servers on one store, and a session that both know."""
    monkeypatch.setattr(watchdog, "EVERY_S", 0.02)
    monkeypatch.setattr(watchdog, "AGAIN_S", 0.02)
    store = MemoryStore()
    info = await store.open()
    ways = Shared(store, info), Shared(store, info)
    options: dict[str, Any] = {"heartbeat_s": 3600.0, "simulated_dir": str(tmp_path)}
    async with (
        wired(store=ways[0], **options) as (first, one),
        wired(store=ways[1], **options) as (second, two),
    ):
        here = Side(first, one, ways[0], Guest(one.channel, "s1"))
        there = Side(second, two, ways[1], Guest(two.channel, "s1"))
        await here.guest.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id="s1"))
        yield here, there
    await store.close()


async def order(side: Side, cents: int = 500) -> None:
    """Put something on the tab."""
    price = Money(minor_units=cents, currency="USD")
    request = order_pb2.AddItemRequest(session_id="s1", item="Special", open_price=price)
    await side.wire("OrderService/AddItem", request)


def watch_payment(side: Side, **fields: Any) -> Any:
    """Open a watch of the payment."""
    request = payment_pb2.WatchPaymentRequest(session_id="s1", **fields)
    return side.wire.call("PaymentService/WatchPayment", request)


async def rest(call: Any) -> list[Any]:
    """Read a stream to its end, which must be a clean one."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def delete(side: Side) -> None:
    """Erase the session."""
    request = session_pb2.DeleteSessionRequest(session_id="s1", reason="asked for")
    await side.wire("SessionService/DeleteSession", request)


async def test_every_event_of_another_server_is_delivered(sides: Sides) -> None:
    """A watch on one server shows what both commit, in one order and without a gap."""
    here, there = sides
    watch = there.guest.watch()
    await read(watch)
    for side in (here, there, here, here, there):
        await side.guest.turn()

    assert await versions(watch, 6) == [2, 3, 4, 5, 6]


async def test_many_watchers_on_both_servers(sides: Sides) -> None:
    """Two hundred watchers, half on each server, all see every version once."""
    here, there = sides
    watches = [side.guest.watch() for side in sides for _ in range(100)]
    await asyncio.gather(*(read(watch) for watch in watches))
    for side in (here, there) * 10:
        await side.guest.turn()
    seen = await asyncio.gather(*(versions(watch, 21) for watch in watches))

    assert all(one == list(range(2, 22)) for one in seen)


async def test_watch_resumes_on_the_other_server(sides: Sides) -> None:
    """A token of one server is good at the other: nothing is missed and nothing comes twice."""
    chance = random.Random(3)
    total = 60

    async def write(side: Side) -> None:
        for _ in range(total // 2):
            await side.guest.turn()

    async def follow() -> list[int]:
        seen: list[int] = []
        token = b""
        while not seen or seen[-1] < total + 1:
            guest = chance.choice(sides).guest
            call = guest.watch(resume_token=token) if token else guest.watch()
            budget = chance.randrange(1, 8)
            async for message in call:
                token = message.resume_token
                seen.extend(event.version for event in message.events.events)
                if message.HasField("snapshot"):
                    seen.append(message.version)
                budget -= 1
                if budget == 0 or seen[-1] == total + 1:
                    break
            call.cancel()
        return seen

    writing = [asyncio.create_task(write(side)) for side in sides]
    seen = await asyncio.gather(*(follow() for _ in range(6)))
    await asyncio.gather(*writing)

    assert all(one == list(range(one[0], total + 2)) for one in seen)


async def test_latest_mode_shows_the_newest_state_of_all_servers(sides: Sides) -> None:
    """In mode LATEST the newest state comes in the end, wherever it was made."""
    here, there = sides
    watch = there.guest.watch(mode=session_pb2.WATCH_MODE_LATEST)
    shown = [(await read(watch)).version]
    for _ in range(20):
        last = await here.guest.turn()
    while shown[-1] < last:
        shown.append((await read(watch)).version)
    watch.cancel()

    assert shown == sorted(set(shown))


async def test_payment_is_watched_to_its_end_on_another_server(
    sides: Sides, tmp_path: Path
) -> None:
    """Opened on one server and settled there, it ends the watches of the other by itself."""
    here, there = sides
    await order(here)
    watch = watch_payment(there, end_when_settled=True)
    first = await read(watch)
    opened = await open_payment(here.wire, "s1")
    simulated.pay(tmp_path, opened.url)
    await here.wire("PaymentService/CheckPayment", payment_pb2.CheckPaymentRequest(session_id="s1"))
    shown = await rest(watch)

    assert first.state.tab_total.minor_units == 500
    assert not any(message.settled for message in shown[:-1])
    assert shown[-1].settled
    assert shown[-1].payment.status == state_pb2.PAYMENT_STATUS_SUCCEEDED
    assert shown[-1].state.tab_total.minor_units == 0
    assert [message.version for message in shown] == sorted({m.version for m in shown})


async def test_settled_payment_is_told_to_who_resumes_elsewhere(sides: Sides) -> None:
    """Cut off before the end and resumed on the other server, a watch still tells the end."""
    here, there = sides
    await order(here)
    watch = watch_payment(here, end_when_settled=True)
    token = (await read(watch)).resume_token
    watch.cancel()
    await here.wire("PaymentService/CompletePayment", in_cash("s1"))
    shown = await rest(watch_payment(there, resume_token=token, end_when_settled=True))
    token = shown[-1].resume_token
    late = await rest(watch_payment(here, resume_token=token, end_when_settled=True))

    assert [message.settled for message in late] == [True]
    assert shown[-1].settled


async def test_deletion_on_another_server_ends_all_watches(sides: Sides) -> None:
    """Each kind of watch gets its last message and a clean end, never an error."""
    here, there = sides
    every, latest = there.guest.watch(), there.guest.watch(mode=session_pb2.WATCH_MODE_LATEST)
    payment = watch_payment(there)
    for watch in (every, latest, payment):
        await read(watch)
    await delete(here)
    told = [await rest(watch) for watch in (every, latest, payment)]

    assert told[0][0].events.events[-1].HasField("session_deleted")
    assert told[0][-1].end.deleted
    assert [message.end.deleted for message in told[1]] == [True]
    assert [message.deleted for message in told[2]] == [True]
    assert told[2][0].version == 2


async def test_deletion_is_told_to_who_was_cut_off_before_it(sides: Sides) -> None:
    """A watch of the payment that resumes learns of the end; a new one that there is no session."""
    here, there = sides
    watch = watch_payment(there)
    token = (await read(watch)).resume_token
    watch.cancel()
    await delete(here)
    resumed = await rest(watch_payment(there, resume_token=token))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(watch_payment(there))

    assert [message.deleted for message in resumed] == [True]
    assert failure_of(refused.value).reason == "SESSION_DELETED"


async def test_deletion_after_an_outage_ends_watches_that_were_behind(sides: Sides) -> None:
    """What was erased meanwhile cannot be shown any more; the end is."""
    here, there = sides
    await order(here)
    watch, payment = there.guest.watch(), watch_payment(there)
    await read(watch)
    await read(payment)
    there.store.lose()
    await here.guest.turn()
    await here.wire("PaymentService/CompletePayment", in_cash("s1"))
    await delete(here)
    there.store.regain()
    told = await rest(watch)
    paid = await rest(payment)

    assert told[-1].end.deleted
    assert paid[-1].deleted


async def test_events_of_all_servers_are_streamed(sides: Sides) -> None:
    """WatchEvents on one server shows the commits of all of them."""
    here, there = sides
    request = session_pb2.WatchEventsRequest(from_beginning=True)
    feed = there.guest.sessions.WatchEvents(request)
    seen = [event.event.version for event in (await read(feed)).events]
    for side in (here, there, here):
        await side.guest.turn()
    while len(seen) < 4:
        seen += [event.event.version for event in (await read(feed)).events]
    feed.cancel()

    assert seen == [1, 2, 3, 4]


async def test_tokens_are_good_on_every_server(sides: Sides) -> None:
    """Servers of one store share its secret: streams and pages go on at the other one."""
    here, there = sides
    for _ in range(3):
        await here.guest.turn()
    watch = watch_payment(here)
    token = (await read(watch)).resume_token
    watch.cancel()
    resumed = watch_payment(there, resume_token=token)
    first = await read(resumed)
    resumed.cancel()
    request = session_pb2.ListEventsRequest(session_id="s1", page_size=1)
    page = await here.wire("SessionService/ListEvents", request)
    request.page_token = page.next_page_token
    page = await there.wire("SessionService/ListEvents", request)

    assert (first.heartbeat, first.version) == (True, 4)
    assert [event.version for event in page.events] == [2]
