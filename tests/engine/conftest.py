"""Engines over real stores, with a clock that stands still."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from maitred.server.config import Settings
from maitred.server.domain import conversations, sessions
from maitred.server.engine.call import Actor, Call
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.command import Command, Result
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.stores import create_store
from maitred.server.stores.base import Store
from maitred.server.testing.faulty import FaultyStore
from maitred.v1.common_pb2 import Role
from maitred.v1.conversation_pb2 import RecordTurnRequest
from maitred.v1.session_pb2 import CreateSessionRequest
from maitred.v1.state_pb2 import MESSAGE_ROLE_USER

AGENT = Call(actor=Actor("tester", Role.ROLE_AGENT), method="test/Command")
DEFAULTS = sessions.Defaults("default", 100_000, "USD", 3600)


@pytest.fixture(params=["memory", "sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Name a store of each embedded engine."""
    return "memory://" if request.param == "memory" else f"sqlite:{tmp_path / 'maitred.db'}"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
async def build(clock: ManualClock) -> AsyncIterator[Callable[[Store], Engine]]:
    """Make engines that are stopped at the end of the test."""
    engines: list[Engine] = []
    settings = dataclasses.replace(Settings(), lock_timeout_s=5.0, heartbeat_s=60.0)

    def make(store: Store) -> Engine:
        engines.append(Engine(store, settings, clock=clock))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.stop()


@pytest.fixture
async def store(store_url: str) -> FaultyStore:
    """A store whose outcomes can be scripted."""
    return FaultyStore(create_store(store_url))


@pytest.fixture
async def engine(build: Callable[[Store], Engine], store: FaultyStore) -> Engine:
    """A started engine."""
    engine = build(store)
    await engine.start()
    return engine


async def create(engine: Engine, session_id: str = "s1", **fields: Any) -> Result:
    """Create a session."""
    request = CreateSessionRequest(session_id=session_id, **fields)
    return await engine.execute(
        Command(
            session_ref(session_id),
            lambda state, _now: sessions.create(state, request, session_id, DEFAULTS),
            request,
            create=True,
        ),
        AGENT,
    )


def turn(session_id: str = "s1", text: str = "hello", **fields: Any) -> Command:
    """A command that records a turn of one message."""
    request = RecordTurnRequest(session_id=session_id, **fields)
    request.messages.add(role=MESSAGE_ROLE_USER, text=text)
    return Command(
        session_ref(session_id),
        lambda state, _now: conversations.record_turn(state, request),
        request,
    )
