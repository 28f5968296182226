"""Claims name nobody: their keys are digests, they go with their session, and they end."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from tests.support.redis import redis_server

from maitred.client import AsyncClient
from maitred.server.engine import claims
from maitred.server.engine.clock import ManualClock
from maitred.server.stores import create_store
from maitred.server.stores.base import Claim, Commit
from maitred.server.testing.samples import put
from maitred.server.testing.servers import running_server
from maitred.v1.conversation_pb2 import NewMessage
from maitred.v1.state_pb2 import MESSAGE_ROLE_USER, InboundMessage

__all__ = ["redis_server"]

PHONE = "+4917612345678"
MESSAGE = "wamid.HBgNNDkxNzYxMjM0NTY3OBUCABIYFDNB"
LASTING = ("sqlite", "postgres", "redis")
DAY_S = 24 * 3600


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return what names an empty store of an engine."""

    def make(engine: str) -> str:
        name = os.urandom(6).hex()
        match engine:
            case "postgres":
                return str(request.getfixturevalue("postgres").create_database())
            case "redis":
                return str(request.getfixturevalue("redis_server").url(f"claims-{name}"))
            case "sqlite":
                return f"sqlite:{tmp_path / name}.db"
        return "memory://"

    return make


def settings(url: str, tmp_path: Path) -> dict[str, Any]:
    """What a server of these data is started with."""
    return {"data": url, "simulated_dir": str(tmp_path / "books")}


async def say(client: AsyncClient, session_id: str, message: str = MESSAGE) -> Any:
    """Record a turn with what a guest wrote."""
    return await client.record_turn(
        session_id=session_id,
        messages=[NewMessage(role=MESSAGE_ROLE_USER, text="two beers")],
        inbound=InboundMessage(
            channel_type="whatsapp", channel_identifier=PHONE, message_id=message
        ),
    )


def everything(url: str) -> bytes:
    """Read all bytes that an engine keeps, as far as it shows them."""
    if url.startswith("sqlite:"):
        path = Path(url.removeprefix("sqlite:"))
        return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    if url.startswith("redis"):
        return _redis_dump(url)
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'maitred'"
        ).fetchall()
        rows = [connection.execute(f'SELECT * FROM maitred."{t}"').fetchall() for (t,) in tables]
    return repr(rows).encode()


def _redis_dump(url: str) -> bytes:
    server: Any = redis.Redis.from_url(url.partition("?")[0])
    readers = {
        b"hash": server.hgetall,
        b"zset": lambda key: server.zrange(key, 0, -1),
        b"stream": server.xrange,
        b"list": lambda key: server.lrange(key, 0, -1),
        b"set": server.smembers,
        b"string": server.get,
    }
    with server:
        found = [(key, readers[server.type(key)](key)) for key in server.scan_iter()]
    return repr(found).encode()


@pytest.mark.parametrize("engine", LASTING)
async def test_nothing_of_an_erased_guest_is_left(
    engine: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """After DeleteSession neither the address nor the message's id is found anywhere."""
    url = new_url(engine)
    async with running_server(**settings(url, tmp_path)) as server:
        async with AsyncClient(server.address) as client:
            guest = await client.create_session(request_id=f"{PHONE}-first")
            await say(client, guest.session_id)
            await guest.close()
            await guest.delete(reason="asked to")
        store = server.engine.store
        left = [each for each in await store.list_claims(None, 100) if each.space != "provider"]

    found = everything(url)
    assert left == []
    assert guest.session_id.encode() in found
    for trace in (PHONE, MESSAGE, "two beers"):
        assert trace.encode() not in found


@pytest.mark.parametrize("engine", LASTING)
async def test_keys_are_digests_also_while_the_guest_is_there(
    engine: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """A table of claims tells nothing, and a second server of the data finds the same key."""
    url = new_url(engine)
    async with (
        running_server(**settings(url, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session()
        first = await say(client, guest.session_id)
        kept = repr(await server.engine.store.list_claims(None, 100))
    async with (
        running_server(**settings(url, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        again = await say(client, guest.session_id)

    assert PHONE not in kept
    assert MESSAGE not in kept
    assert (again.replayed, again.event) == (True, first.event)


async def test_a_message_is_known_for_its_time() -> None:
    """Within the horizon a message that comes again is the first one's turn; later it is new."""
    clock = ManualClock()
    store = create_store("memory://", clock_ns=clock.now_ns)
    async with (
        running_server(store=store, clock=clock, idle_seconds=100 * DAY_S) as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session()
        first = await say(client, guest.session_id)
        clock.advance(29 * DAY_S)
        again = await say(client, guest.session_id)
        clock.advance(2 * DAY_S)
        late = await say(client, guest.session_id)

    assert (first.replayed, again.replayed, late.replayed) == (False, True, False)


@pytest.mark.parametrize("engine", LASTING)
async def test_claims_of_earlier_versions_are_concealed(
    engine: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """What an earlier version kept in clear text is digested at start, and known as before."""
    url = new_url(engine)
    async with (
        running_server(**settings(url, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session(session_id="a/b")
        turn = await say(client, "a/b", "another")
    store = create_store(url)
    await store.open()
    for number in range(450):
        old = Claim("inbound", f"sms|+1|{number}", "a/b/2")
        await put(store, Commit((), claims=(old,)))
    for each in (Claim("inbound", f"whatsapp|{PHONE}|{MESSAGE}", "a/b/2"),):
        await put(store, Commit((), claims=(each,)))
    await put(store, Commit((), claims=(Claim("request", f"local/{PHONE}", "a/b"),)))
    await store.close()

    async with (
        running_server(**settings(url, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        kept = await server.engine.store.list_claims(None, 1000)
        again = await say(client, guest.session_id)

    assert {each.space for each in kept} == set(claims.DIGESTED)
    assert len(kept) == 453
    assert PHONE not in repr(kept)
    assert (again.replayed, again.event) == (True, turn.event)


async def test_concealing_happens_once() -> None:
    """A second start finds nothing to do, and changes nothing."""
    inner = create_store("memory://")
    secret = (await inner.open()).secret
    for number in range(10):
        await put(inner, Commit((), claims=(Claim("inbound", f"sms|1|{number}", "s/3"),)))
    done = await claims.conceal_all(inner, secret, 2**62)
    again = await claims.conceal_all(inner, secret, 2**62)

    kept = await inner.list_claims(None, 100)
    assert (done, again, len(kept)) == (10, 0, 10)
    assert {each.owner for each in kept} == {"s 3"}
    await inner.close()


@pytest.mark.parametrize("engine", LASTING)
async def test_a_copy_still_knows_what_came_before(
    engine: str, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """In another engine a message that comes again is still known: the secret has come along."""
    url, target = f"sqlite:{tmp_path / 'from.db'}", new_url(engine)
    async with (
        running_server(**settings(url, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session()
        first = await say(client, guest.session_id)
    command = (sys.executable, "-m", "maitred.server", "copy", url, target)
    status = 0
    for _ in range(2):
        status += await (await asyncio.create_subprocess_exec(*command)).wait()
    async with (
        running_server(**settings(target, tmp_path)) as server,
        AsyncClient(server.address) as client,
    ):
        again = await say(client, guest.session_id)
        fresh = await say(client, guest.session_id, uuid.uuid4().hex)

    assert status == 0
    assert (again.replayed, again.event) == (True, first.event)
    assert not fresh.replayed
