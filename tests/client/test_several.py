"""Clients of several real servers of the same data: calls are spread, and go on elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from tests.client.conftest import House

from maitred.client import (
    AsyncClient,
    Client,
    MaitredError,
    PaymentStatus,
    Retries,
    SessionHandle,
)
from maitred.server.app.grpc_door import Bodies
from maitred.server.app.health import HealthService

PATIENT = Retries(attempts=200, first_wait=0.02, longest_wait=0.05)


async def test_sessions_are_spread_and_each_keeps_to_one_server(house: House) -> None:
    """All servers work, and the calls of one session meet the memory of one of them."""
    async with AsyncClient(",".join(house.addresses)) as client:
        for number in range(16):
            guest = await client.create_session(session_id=f"s{number}")
            await guest.add_item("IPA")
            await guest.place_order()
    first, second = (house.sessions_written(position) for position in range(2))

    assert first
    assert second
    assert not set(first) & set(second)


async def test_new_sessions_go_round(house: House) -> None:
    """What belongs to no session yet is shared out evenly."""
    async with AsyncClient(house.addresses) as client:
        for _ in range(6):
            await client.create_session()

    assert [len(house.sessions_written(position)) for position in range(2)] == [3, 3]


async def test_a_handle_outlives_its_server(house: House) -> None:
    """When the server of a session stops, the next call is answered by another."""
    async with AsyncClient(house.addresses) as client:
        guest = await client.create_session(session_id="s1")
        await house.servers[house.writer_of("s1")].stop(0)
        await guest.add_item("IPA")
        state = await guest.refresh()

    assert state.version == 2


async def test_an_absent_server_is_gone_around(house: House) -> None:
    """With a dead address in the list every call is answered all the same."""
    gone = house.servers[1]
    await gone.stop(0)
    async with AsyncClient([gone.address, house.addresses[0]]) as client:
        infos = [await client.get_server_info() for _ in range(6)]

    assert len(infos) == 6


async def test_a_server_that_is_not_serving_is_not_asked(house: House) -> None:
    """A server whose health says NOT_SERVING gets no calls, though it would answer them."""
    health = HealthService((), Bodies(1.0))
    waiting = grpc.aio.server()
    waiting.add_generic_rpc_handlers((health.handler,))
    port = waiting.add_insecure_port("127.0.0.1:0")
    await waiting.start()
    async with AsyncClient([f"127.0.0.1:{port}", house.addresses[0]]) as client:
        infos = [await client.get_server_info() for _ in range(6)]
    health.shut_down()
    await waiting.stop(None)

    # Asked, it would have said that it does not know the method.
    assert len(infos) == 6


async def test_a_draining_server_finishes_what_it_has(house: House) -> None:
    """What runs in its grace is answered there; what is new is answered elsewhere."""
    async with AsyncClient(house.addresses) as client:
        guest = await client.create_session(session_id="s1")
        await guest.add_item("IPA")
        await guest.create_payment()
        position = house.writer_of("s1")
        elsewhere = house.writes[1 - position]
        waiting = asyncio.create_task(guest.check_payment(wait=20.0))
        await guest.refresh()  # sent after it on the same connection: the server has begun both
        stopping = asyncio.create_task(house.servers[position].stop(30))
        topics = itertools.count()
        while not elsewhere.submitted:
            await guest.update_context(topic=f"topic {next(topics)}")
        in_flight = not waiting.done()
        await guest.cancel_payment()
        answer = await waiting
        await stopping

    assert in_flight
    assert answer.payment.status == PaymentStatus.PAYMENT_STATUS_CANCELED


async def test_a_call_outlasts_an_outage_of_all(house: House) -> None:
    """A call that finds nobody waits within its deadline, and succeeds when one is back."""
    async with AsyncClient(house.addresses, retries=PATIENT) as client:
        guest = await client.create_session()
        for server in house.servers[:2]:
            await server.stop(0)
        call = asyncio.create_task(guest.add_item("IPA"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(call), 0.2)
        await house.start(house.addresses[0])
        line = await call

    assert line.name == "IPA"


async def test_an_outage_of_all_ends_a_call_at_last(house: House) -> None:
    """After its attempts a call fails, and says that nobody was there."""
    for server in house.servers:
        await server.stop(0)
    async with AsyncClient(house.addresses, retries=Retries(2, 0.01, 0.01)) as client:
        with pytest.raises(MaitredError) as caught:
            await client.create_session()

    assert caught.value.status is grpc.StatusCode.UNAVAILABLE


async def test_a_mutation_whose_answer_was_lost_has_one_effect(house: House) -> None:
    """The retry at another server finds what the first one did."""
    proxies = [await house.proxy(server) for server in house.servers]
    async with AsyncClient([proxy.address for proxy in proxies]) as client:
        guest = await client.create_session(session_id="s1")
        position = house.writer_of("s1")
        lossy = proxies[position]
        lossy.drop_replies = True
        adding = asyncio.create_task(client.add_item(session_id="s1", item="IPA"))
        await house.reached(position, "s1", 2)
        lossy.refuse = True
        lossy.cut()
        added = await adding
        state = await guest.refresh()

    assert added.replayed
    assert (state.version, len(state.order.lines)) == (2, 1)


async def test_a_hanging_server_costs_one_deadline(house: House) -> None:
    """The deadline holds over all servers, and who missed it is avoided by the next call."""
    proxies = [await house.proxy(server) for server in house.servers]
    async with AsyncClient([proxy.address for proxy in proxies]) as client:
        guest = await client.create_session(session_id="s1")
        proxies[house.writer_of("s1")].drop_replies = True
        started = time.monotonic()
        with pytest.raises(MaitredError) as caught:
            await client.with_timeout(0.3).get_session(session_id="s1")
        taken = time.monotonic() - started
        line = await guest.add_item("IPA")

    assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.3 <= taken < 5
    assert line.name == "IPA"


async def test_closing_leaves_nothing(house: House) -> None:
    """Neither tasks nor threads are left, and who waits between attempts is told at once."""
    for server in house.servers:
        await server.stop(0)
    tasks = asyncio.all_tasks()
    client = AsyncClient(house.addresses, retries=Retries(5, 60.0, 60.0), timeout=None)
    call = asyncio.create_task(client.get_server_info())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(call), 0.2)
    await client.aclose()
    with pytest.raises(MaitredError, match="closed"):
        await call

    assert asyncio.all_tasks() == tasks


# ---------------------------------------------------------------- the blocking twin


async def blocking(step: Callable[[], object]) -> object:
    """Run one step of a blocking client beside the servers' loop."""
    return await asyncio.to_thread(step)


async def test_the_blocking_client_goes_on_elsewhere(house: House) -> None:
    """Spread, failover and one effect are the same without asyncio; so is a clean end."""
    proxies = [await house.proxy(server) for server in house.servers]
    await blocking(lambda: None)
    threads = set(threading.enumerate())
    client = Client([proxy.address for proxy in proxies])
    guest = await blocking(lambda: client.create_session(session_id="s1"))
    assert isinstance(guest, SessionHandle)
    position = house.writer_of("s1")
    lossy = proxies[position]
    lossy.drop_replies = True
    adding = asyncio.create_task(blocking(lambda: guest.add_item("IPA")))
    await house.reached(position, "s1", 2)
    lossy.refuse = True
    lossy.cut()
    await adding
    await house.servers[position].stop(0)
    await blocking(guest.place_order)
    client.close()
    state = guest.state

    assert state is not None
    assert state.version == 3
    # The executor of the test's own loop may have grown.
    left = {each.name for each in set(threading.enumerate()) - threads}
    assert not {name for name in left if not name.startswith("asyncio_")}


async def test_a_blocking_call_outlasts_an_outage_of_all(house: House) -> None:
    """The blocking client waits for a server to come back, too."""
    client = Client(house.addresses, retries=PATIENT)
    for server in house.servers[:2]:
        await server.stop(0)
    call = asyncio.create_task(blocking(client.get_server_info))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(call), 0.2)
    await house.start(house.addresses[1])
    await call
    client.close()
