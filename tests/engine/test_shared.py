"""Two engines on one store: no memory is ever the reason for a refusal or a wrong read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.engine.conftest import AGENT, create, turn

from maitred.server.config import Settings
from maitred.server.domain import sessions
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command
from maitred.server.engine.engine import Engine
from maitred.server.engine.refs import session_ref
from maitred.server.stores.base import StoreInfo
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.faulty import FaultyStore
from maitred.v1.session_pb2 import CloseSessionRequest


class Shared(FaultyStore):
    """A store that others write too, so that no memory may answer for it."""

    def __init__(self, inner: MemoryStore, info: StoreInfo) -> None:
        super().__init__(inner)
        self._info = info._replace(exclusive=False)

    async def open(self) -> StoreInfo:
        """Answer what the store is; it is open already."""
        return self._info

    async def close(self) -> None:
        """Leave the store to its owner."""


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Engine, Engine]]:
    """Two engines that share one store."""
    store = MemoryStore()
    info = await store.open()
    first, second = (Engine(Shared(store, info), Settings(), clock=ManualClock()) for _ in range(2))
    await first.start()
    await second.start()
    yield first, second
    await first.stop()
    await second.stop()
    await store.close()


def reopening(expected_version: int | None = None) -> Command:
    """A command that an empty tab allows and a stale memory may refuse."""
    request = CloseSessionRequest(session_id="s1", request_id="close")
    if expected_version is not None:
        request.expected_version = expected_version
    return Command(
        session_ref("s1"), lambda state, _now: sessions.close(state, "", staff=False), request
    )


async def test_read_sees_what_the_other_server_wrote(pair: tuple[Engine, Engine]) -> None:
    """A read is never answered from a memory that another server made stale."""
    first, second = pair
    await create(first)
    await second.session("s1")
    await first.execute(turn(), AGENT)

    assert (await second.session("s1")).version == 2


async def test_refusal_rests_on_the_newest_version(pair: tuple[Engine, Engine]) -> None:
    """A precondition that holds in the store is not refused because of an older memory."""
    first, second = pair
    await create(first)
    await second.execute(turn(), AGENT)
    await first.execute(turn(), AGENT)
    result = await second.execute(turn(expected_version=3), AGENT)

    assert result.version == 4


async def test_replay_is_found_across_servers(pair: tuple[Engine, Engine]) -> None:
    """A retry at another server gives the one result."""
    first, second = pair
    await create(first)
    done = await first.execute(turn(request_id="r1"), AGENT)
    again = await second.execute(turn(request_id="r1"), AGENT)

    assert again.replayed
    assert again.event == done.event


async def test_mixed_writes_on_both_servers_lose_nothing(pair: tuple[Engine, Engine]) -> None:
    """Concurrent writers on two servers make consecutive versions and keep every write."""
    first, second = pair
    await create(first)
    await asyncio.gather(
        *(
            engine.execute(turn(request_id=f"{at}"), AGENT)
            for at, engine in enumerate((first, second) * 4)
        )
    )
    log = await first.events(session_ref("s1"), 0, 100)

    assert [event.version for event in log] == list(range(1, 10))
    assert (await second.session("s1")).state.conversation.turn_count == 8
    assert (await first.verify(session_ref("s1"))).valid


async def test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay(
    pair: tuple[Engine, Engine],
) -> None:
    """Replay comes before lifecycle also where another server did the work."""
    first, second = pair
    await create(first)
    await second.session("s1")
    await first.execute(reopening(), AGENT)
    again = await second.execute(reopening(expected_version=1), AGENT)

    assert again.replayed
