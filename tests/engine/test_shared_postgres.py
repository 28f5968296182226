"""Two engines on one PostgreSQL keep what two engines on one store keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.engine.conftest import AGENT, create, turn
from tests.engine.test_shared import (
    test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay,
    test_mixed_writes_on_both_servers_lose_nothing,
    test_read_sees_what_the_other_server_wrote,
    test_refusal_rests_on_the_newest_version,
    test_replay_is_found_across_servers,
)

from maitred.server.config import Settings
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.errors import ConcurrentModification, LockTimeout
from maitred.server.kinds.session import session_ref
from maitred.server.stores import create_store
from maitred.server.stores.base import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

__all__ = [
    "test_command_retried_after_it_closed_the_session_elsewhere_is_a_replay",
    "test_mixed_writes_on_both_servers_lose_nothing",
    "test_read_sees_what_the_other_server_wrote",
    "test_refusal_rests_on_the_newest_version",
    "test_replay_is_found_across_servers",
]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """Name an empty database."""
    return postgres.create_database()


@pytest.fixture
async def pair(url: str) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two engines, each with a store of its own on one database."""
    first, second = (Engine(create_store(url), Settings(), clock=ManualClock()) for _ in range(2))
    await first.start()
    await second.start()
    yield first, second
    await first.stop()
    await second.stop()


async def test_connections_that_are_cut_lose_and_double_no_turn(
    pair: tuple[Engine, Engine], postgres: PostgresServer, url: str
) -> None:
    """Callers who retry with their request id get the one result, whatever became of the commit."""
    await create(pair[0])
    gone_through, done = asyncio.Event(), False

    async def speak(number: int) -> None:
        for at in range(12):
            command = turn(request_id=f"{number}-{at}")
            while True:
                try:
                    await pair[(number + at) % 2].execute(command, AGENT)
                    break
                except (StoreUnavailable, OutcomeUnknown, LockTimeout, ConcurrentModification):
                    await asyncio.sleep(0.01)
            gone_through.set()

    async def cut() -> None:
        # Not by the clock: on a busy machine that may cut every connection before it is of use.
        while True:
            await gone_through.wait()
            if done:
                return
            gone_through.clear()
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'maitred' AND datname = current_database()",
                url=url,
            )

    cutting = asyncio.create_task(cut())
    await asyncio.gather(*(speak(number) for number in range(4)))
    done = True
    gone_through.set()
    await cutting
    log = await pair[0].events(session_ref("s1"), 0, 100)

    assert [event.version for event in log] == list(range(1, 50))
    assert (await pair[1].session("s1")).state.conversation.turn_count == 48
    assert (await pair[0].verify(session_ref("s1"))).valid
