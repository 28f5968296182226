"""Watches over several real servers: resumed elsewhere, each version once and in order."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator

import pytest
from tests.client.conftest import House

from maitred.client import AsyncClient, Client, SessionEvent, SessionHandle
from maitred.server.testing.proxy import Proxy


def short_lives(seed: int) -> Iterator[int]:
    """Connections without end that are each cut after a random number of reply bytes."""
    chance = random.Random(seed)
    return (chance.randint(1000, 2500) for _ in itertools.count())


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_watch_that_changes_servers_repeats_and_skips_nothing(
    house: House, seed: int
) -> None:
    """Cut again and again, and sent from server to server, a watch sees every version once."""
    versions: list[int] = []

    async def follow() -> None:
        async for item in watch:
            assert isinstance(item, SessionEvent)
            versions.append(item.version)

    chance = random.Random(seed)
    async with (
        Proxy(house.addresses[0], short_lives(seed)) as first,
        Proxy(house.addresses[1], short_lives(-seed)) as second,
        AsyncClient(house.addresses[0]) as one,
        AsyncClient(house.addresses[1]) as other,
        AsyncClient([first.address, second.address]) as client,
        client.watch_session(session_id="s1", after_version=0) as watch,
    ):
        for _ in range(2):
            await client.get_server_info()  # so that both are connected
        await one.create_session(session_id="s1")
        told = 1
        following = asyncio.create_task(follow())
        for turn in range(4):
            here, there = (first, second) if turn % 2 else (second, first)
            here.refuse = False
            accepted = here.accepted
            while turn and here.accepted == accepted:
                await asyncio.sleep(0.01)
            there.refuse = True
            there.cut()
            while house.servers[(turn + 1) % 2].engine.hub.watchers:
                await asyncio.sleep(0.01)
            guest = (one if turn % 2 else other).session("s1")
            for _ in range(5):
                for _ in range(chance.randint(1, 4)):
                    told += 1
                    await guest.update_context(topic=f"topic {told}")
                while len(versions) < told:
                    assert not following.done()
                    await asyncio.sleep(0.01)
        await watch.aclose()
        await following
        cuts = min(first.cuts, second.cuts)

    assert versions == list(range(1, told + 1))
    assert cuts >= 3


async def test_a_watch_resumes_at_once_when_its_server_goes(house: House) -> None:
    """A server that stops tells its watchers to wait a second; with another one they need not."""
    async with AsyncClient(house.addresses) as client:
        guest = await client.create_session(session_id="s1")
        async with guest.watch() as watch:
            first = await anext(watch)
            await house.servers[house.writer_of("s1")].stop(0)
            await guest.add_item("IPA")
            await guest.place_order()
            async with asyncio.timeout(0.9):
                items = [await anext(watch), await anext(watch)]

    assert [each.version for each in (first, *items)] == [1, 2, 3]


async def test_a_silent_server_is_left(house: House) -> None:
    """A watch of which nothing comes goes on at another server."""
    proxies = [await house.proxy(server) for server in house.servers]
    async with AsyncClient([proxy.address for proxy in proxies], heartbeat=0.1) as client:
        guest = await client.create_session(session_id="s1")
        position = house.writer_of("s1")
        async with guest.watch() as watch:
            await anext(watch)
            proxies[position].drop_replies = True
            async with AsyncClient(house.addresses[1 - position]) as writer:
                await writer.session("s1").add_item("IPA")
            item = await anext(watch)

    assert item.version == 2


async def test_a_payment_watch_outlives_its_server(house: House) -> None:
    """What is paid through another server is seen by who watched at the one that went."""
    async with AsyncClient(house.addresses) as client:
        guest = await client.create_session(session_id="s1")
        await guest.add_item("IPA")
        await guest.create_payment()
        async with guest.watch_payment(end_when_settled=True) as watch:
            await anext(watch)
            await house.servers[house.writer_of("s1")].stop(0)
            await guest.cancel_payment()
            last = [update async for update in watch][-1]

    assert last.settled


async def test_the_watch_over_everything_goes_on(house: House) -> None:
    """The feed of all events resumes at another server from its token."""
    async with AsyncClient(house.addresses) as client:
        seen: list[int] = []
        async with client.watch_events(from_beginning=True, session_ids=["s1"]) as watch:
            guest = await client.create_session(session_id="s1")
            async for item in watch:
                seen.append(item.event.version)
                if item.event.version == 1:
                    await house.servers[house.writer_of("s1")].stop(0)
                if item.event.version == 5:
                    break
                await guest.update_context(topic=f"topic {item.event.version}")

    assert list(dict.fromkeys(seen)) == [1, 2, 3, 4, 5]


async def test_a_blocking_watch_outlives_its_server(house: House) -> None:
    """The blocking twin resumes elsewhere as well."""
    with Client(house.addresses) as client:
        guest = await asyncio.to_thread(client.create_session, session_id="s1")
        assert isinstance(guest, SessionHandle)
        with guest.watch() as watch:
            first = await asyncio.to_thread(next, watch)
            await house.servers[house.writer_of("s1")].stop(0)
            await asyncio.to_thread(guest.add_item, "IPA")
            then = await asyncio.to_thread(next, watch)

    assert [first.version, then.version] == [1, 2]
