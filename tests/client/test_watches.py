"""Watches over the real server find their place again, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator

import grpc
import pytest

from maitred.client import (
    AsyncClient,
    Client,
    InvalidSession,
    MaitredError,
    SessionEnded,
    SessionEvent,
    SessionSnapshot,
    VersionOutOfRange,
    WatchMode,
)
from maitred.server.app.server import Server
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.servers import running_server

TOPICS = itertools.count()


def short_lives(seed: int, count: int) -> Iterator[int]:
    """Connections that are cut after a random number of reply bytes, in frames and between."""
    chance = random.Random(seed)
    return iter([chance.randint(250, 1500) for _ in range(count)])


async def say(client: AsyncClient, session_id: str, number: int) -> None:
    """Change a session so many times."""
    guest = client.session(session_id)
    for _ in range(number):
        await guest.update_context(topic=f"topic {next(TOPICS)}")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_cut_watch_repeats_and_skips_nothing(
    server: Server, client: AsyncClient, seed: int
) -> None:
    """Through cuts at random places every version comes once and in order."""
    guest = await client.create_session()
    chance = random.Random(seed)
    seen: list[int] = []
    told = 1
    async with (
        Proxy(server.address, short_lives(seed, 10)) as proxy,
        AsyncClient(proxy.address) as watcher,
        watcher.watch_session(session_id=guest.session_id, after_version=0) as watch,
    ):
        async for item in watch:
            assert isinstance(item, SessionEvent)
            seen.append(item.version)
            if proxy.cuts == 10:
                break
            if item.version == told:
                more = chance.randint(1, 4)
                await say(client, guest.session_id, more)
                told += more

    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 10


async def test_a_blocking_watch_repeats_and_skips_nothing(server: Server) -> None:
    """The blocking twin resumes as the asyncio client does."""

    def watch(address: str) -> list[int]:
        seen: list[int] = []
        with Client(server.address) as direct, Client(address) as watcher:
            guest = direct.create_session()
            watching = watcher.watch_session(session_id=guest.session_id, after_version=0)
            with watching:
                for item in watching:
                    seen.append(item.version)
                    if item.version == 40:
                        break
                    guest.update_context(topic=f"topic {item.version}")
        return seen

    async with Proxy(server.address, short_lives(4, 5)) as proxy:
        seen = await asyncio.to_thread(watch, proxy.address)
        cuts = proxy.cuts

    assert seen == list(range(1, 41))
    assert cuts > 2


async def test_a_snapshot_comes_first(client: AsyncClient) -> None:
    """Who resumes from nowhere gets the whole session, then what follows."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    async with guest.watch() as watch:
        first = await anext(watch)
        await guest.place_order()
        then = await anext(watch)

    assert isinstance(first, SessionSnapshot)
    assert first.session.payment.tab_total.minor_units == 600
    assert isinstance(then, SessionEvent)
    assert (then.version, then.change) == (3, "order_placed")


async def test_a_watch_resumes_after_a_restart_of_its_program(client: AsyncClient) -> None:
    """The resume token of the last item begins where the watch ended."""
    guest = await client.create_session()
    async with guest.watch() as watch:
        await anext(watch)
        token = watch.resume_token
    await guest.add_item("IPA")
    async with guest.watch(resume_token=token) as watch:
        item = await anext(watch)

    assert isinstance(item, SessionEvent)
    assert item.change == "line_added"


async def test_latest_hands_out_snapshots(client: AsyncClient) -> None:
    """In mode LATEST every item is the whole session."""
    guest = await client.create_session()
    async with guest.watch(mode=WatchMode.WATCH_MODE_LATEST) as watch:
        await anext(watch)
        await guest.add_item("IPA")
        item = await anext(watch)

    assert isinstance(item, SessionSnapshot)
    assert len(item.session.order.lines) == 1


async def test_deletion_ends_a_watch(client: AsyncClient) -> None:
    """The last item of a deleted session says so, and the iteration ends."""
    guest = await client.create_session()
    async with guest.watch() as watch:
        await anext(watch)
        await guest.delete(reason="the guest asked for it")
        items = [item async for item in watch]

    assert isinstance(items[-1], SessionEnded)
    assert items[-1].deleted


async def test_deletion_during_an_outage_ends_a_watch(server: Server, client: AsyncClient) -> None:
    """A session that went while the connection was broken ends the watch, too."""
    guest = await client.create_session()
    async with (
        Proxy(server.address) as proxy,
        AsyncClient(proxy.address) as watcher,
        watcher.watch_session(session_id=guest.session_id) as watch,
    ):
        await anext(watch)
        proxy.refuse = True
        proxy.cut()
        await guest.delete(reason="the guest asked for it")
        proxy.refuse = False
        items = [item async for item in watch]

    assert isinstance(items[-1], SessionEnded)


async def test_a_deletion_says_what_was_left_unread(server: Server, client: AsyncClient) -> None:
    """Who was behind when the session was erased gets the end, which says so, and no error."""
    guest = await client.create_session()
    async with (
        Proxy(server.address) as proxy,
        AsyncClient(proxy.address) as watcher,
        watcher.watch_session(session_id=guest.session_id) as watch,
    ):
        await anext(watch)
        proxy.refuse = True
        proxy.cut()
        await say(client, guest.session_id, 5)
        await guest.delete(reason="the guest asked for it")
        proxy.refuse = False
        items = [item async for item in watch]

    assert items == [SessionEnded(1, deleted=True, unread=True)]


async def test_a_deletion_says_what_was_left_unread_of_payments(
    server: Server, client: AsyncClient
) -> None:
    """A watch of payments says it as that of the session does."""
    guest = await client.create_session()
    async with (
        Proxy(server.address) as proxy,
        AsyncClient(proxy.address) as watcher,
        watcher.watch_payment(session_id=guest.session_id) as watch,
    ):
        await anext(watch)
        proxy.refuse = True
        proxy.cut()
        await say(client, guest.session_id, 2)
        await guest.delete(reason="the guest asked for it")
        proxy.refuse = False
        items = [item async for item in watch]

    assert [(item.version, item.deleted, item.unread) for item in items] == [(1, True, True)]


async def test_a_silent_connection_is_given_up(server: Server, client: AsyncClient) -> None:
    """Without news for three heartbeats the watch connects anew, and misses nothing."""
    guest = await client.create_session()
    async with (
        Proxy(server.address) as proxy,
        AsyncClient(proxy.address, heartbeat=0.1) as watcher,
        watcher.watch_session(session_id=guest.session_id) as watch,
    ):
        await anext(watch)
        proxy.drop_replies = True
        await guest.add_item("IPA")
        waiting = asyncio.create_task(anext(watch))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        silent = not done
        proxy.drop_replies = False
        proxy.cut()
        item = await waiting

    assert silent
    assert item.version == 2


async def test_a_blocking_watch_notices_silence(server: Server, client: AsyncClient) -> None:
    """The blocking twin does not wait for ever at a dead connection either."""
    guest = await client.create_session()

    def watch(address: str) -> float:
        started = time.monotonic()
        with (
            Client(address, heartbeat=0.05, outage=0.3) as watcher,
            watcher.watch_session(session_id=guest.session_id) as watching,
            pytest.raises(MaitredError) as caught,
        ):
            next(watching)

        assert caught.value.status is grpc.StatusCode.UNAVAILABLE
        return time.monotonic() - started

    async with Proxy(server.address) as proxy:
        proxy.drop_replies = True
        taken = await asyncio.to_thread(watch, proxy.address)

    assert taken < 10


async def test_heartbeats_keep_a_quiet_watch(client: AsyncClient, server: Server) -> None:
    """As long as the server says that it is alive, nothing is connected anew."""
    guest = await client.create_session()
    async with (
        Proxy(server.address) as proxy,
        AsyncClient(proxy.address, heartbeat=0.3) as watcher,
        watcher.watch_session(session_id=guest.session_id) as watch,
    ):
        await anext(watch)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 1.5)
        accepted = proxy.accepted

    assert accepted == 1


async def test_an_outage_ends_a_watch_at_last(client: AsyncClient) -> None:
    """After `outage` seconds without any answer the watch raises what it last met."""
    async with running_server() as gone:
        address = gone.address
    async with AsyncClient(address, outage=0.3) as watcher:
        with pytest.raises(MaitredError) as caught:
            await anext(watcher.watch_session(session_id="s"))

    assert caught.value.status is grpc.StatusCode.UNAVAILABLE


async def test_a_refusal_ends_a_watch_at_once(client: AsyncClient) -> None:
    """What another attempt would not change is raised."""
    guest = await client.create_session()
    with pytest.raises(InvalidSession):
        await anext(client.watch_session(session_id="nobody"))
    with pytest.raises(VersionOutOfRange):
        await anext(guest.watch(after_version=99))


async def test_a_deadline_ends_a_watch(client: AsyncClient) -> None:
    """`timeout` bounds the whole watch, over all its connections."""
    guest = await client.create_session()
    watch = guest.watch(timeout=0.2)
    await anext(watch)
    with pytest.raises(MaitredError) as caught:
        await anext(watch)

    assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_closing_ends_whoever_waits(client: AsyncClient) -> None:
    """A watch that somebody else closes ends as if nothing more had come."""
    guest = await client.create_session()
    watch = guest.watch()
    await anext(watch)
    waiting = asyncio.create_task(_all(watch))
    await asyncio.sleep(0)
    await watch.aclose()

    assert await waiting == 0


async def _all(watch: object) -> int:
    return len([item async for item in watch])  # type: ignore[attr-defined]  # any watch


async def test_cancelling_a_task_cancels_its_watch(client: AsyncClient) -> None:
    """Cancellation is not mistaken for a broken connection."""
    guest = await client.create_session()
    watch = guest.watch()
    await anext(watch)
    waiting = asyncio.create_task(_all(watch))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("seed", [5, 6])
async def test_the_watch_over_everything_misses_nothing(
    server: Server, client: AsyncClient, seed: int
) -> None:
    """Through cuts the events of each session come in order, each at least once."""
    guests = [await client.create_session() for _ in range(3)]
    ids = [guest.session_id for guest in guests]
    seen: dict[str, list[int]] = {each: [] for each in ids}
    async with (
        Proxy(server.address, short_lives(seed, 6)) as proxy,
        AsyncClient(proxy.address) as watcher,
        watcher.watch_events(from_beginning=True, session_ids=ids) as watch,
    ):
        async for item in watch:
            seen[item.session_id].append(item.event.version)
            if all(versions[-1:] == [20] for versions in seen.values()):
                break
            if item.event.version < 20:
                await say(client, item.session_id, 1)

    for versions in seen.values():
        assert list(dict.fromkeys(versions)) == list(range(1, len(set(versions)) + 1))
