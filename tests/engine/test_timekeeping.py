"""Clocks that jump: nothing is expired or erased by a moment, and what was written is mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maitred.client import AsyncClient
from maitred.client.errors import SessionDeleted
from maitred.server.cli import main
from maitred.server.engine import timekeeping
from maitred.server.engine.clock import ManualClock, SteadyClock
from maitred.server.testing.servers import running_server
from maitred.v1.state_pb2 import (
    SESSION_STATUS_ACTIVE,
    SESSION_STATUS_CLOSED,
    SESSION_STATUS_EXPIRED,
)

HOUR_S = 3600
DAY_S = 24 * HOUR_S
NS = 1_000_000_000


class Machine:
    """A machine whose wall clock may be set while its time runs on."""

    def __init__(self) -> None:
        self.wall, self.running = 1_800_000_000 * NS, 5 * NS
        self.clock = SteadyClock(wall_ns=lambda: self.wall, monotonic_ns=lambda: self.running)

    def run(self, seconds: float, step_s: float = 5.0) -> None:
        """Let time pass, looked at now and then as a server does."""
        while seconds > 0:
            passed = min(step_s, seconds)
            seconds -= passed
            self.wall += round(passed * NS)
            self.running += round(passed * NS)
            self.clock.now_ns()
            self.clock.settled_ns()

    def set(self, by_s: float) -> None:
        """Set the wall clock forward, or back."""
        self.wall += round(by_s * NS)


@pytest.mark.parametrize("by_s", [2 * HOUR_S, -2 * HOUR_S, 31 * DAY_S, 10 * 365 * DAY_S, 3])
def test_a_jump_is_not_believed_until_it_lasts(by_s: float) -> None:
    """For eight seconds it changes nothing; after minutes it is the time; erasure waits an hour."""
    machine = Machine()
    machine.run(100)
    before = machine.wall
    machine.set(by_s)
    machine.run(8)
    during = machine.clock.now_ns()
    machine.set(-by_s)
    machine.run(8)
    after = machine.clock.now_ns()
    machine.set(by_s)
    machine.run(310)
    believed, settled = machine.clock.now_ns(), machine.clock.settled_ns()
    machine.run(HOUR_S)

    assert during == before + 8 * NS
    assert after == before + 16 * NS
    assert believed == machine.wall - HOUR_S * NS
    assert settled == believed - round(by_s * NS)
    assert machine.clock.settled_ns() == machine.clock.now_ns() == machine.wall


def test_small_corrections_are_followed() -> None:
    """A clock that a time server steers is believed as it goes."""
    machine = Machine()
    for _ in range(500):
        machine.set(0.5)
        machine.run(1)

    assert machine.clock.now_ns() == machine.clock.settled_ns() == machine.wall


def test_a_clock_that_jumps_about_is_not_believed() -> None:
    """Each new place begins the waiting anew."""
    machine = Machine()
    machine.run(10)
    start = machine.clock.now_ns()
    for number in range(100):
        machine.set((HOUR_S * (number + 1)) * (-1) ** number)
        machine.run(200)

    assert machine.clock.now_ns() == start + 100 * 200 * NS


async def _statuses(client: AsyncClient, *ids: str) -> list[int]:
    return [(await client.get_session(session_id=each)).status for each in ids]


async def test_sessions_outlive_a_moment_of_another_time() -> None:
    """Two hours ahead for eight seconds expire nobody; a month ahead for minutes erases nobody."""
    machine = Machine()
    async with (
        running_server(clock=machine.clock) as server,
        AsyncClient(server.address) as client,
    ):
        sweeper = server.parts.sweeper
        await client.create_session(session_id="guest")
        closed = await client.create_session(session_id="gone")
        await closed.close()
        machine.set(2 * HOUR_S)
        machine.run(8)
        await sweeper.sweep(100)
        ahead = await _statuses(client, "guest", "gone")
        machine.set(-2 * HOUR_S)
        machine.run(8)
        machine.set(31 * DAY_S)
        machine.run(400)
        await sweeper.sweep(100)
        month = await _statuses(client, "guest", "gone")
        machine.run(HOUR_S)
        machine.run(60)
        await sweeper.sweep(100)

        assert ahead == [SESSION_STATUS_ACTIVE, SESSION_STATUS_CLOSED]
        assert month == [SESSION_STATUS_EXPIRED, SESSION_STATUS_CLOSED]
        with pytest.raises(SessionDeleted):
            await client.get_session(session_id="gone")


@pytest.fixture
async def ahead(tmp_path: Path) -> str:
    """Data that a server wrote whose clock was ten years ahead."""
    data = f"sqlite:{tmp_path / 'm.db'}"
    clock = ManualClock(2_083_000_000 * NS)
    async with (
        running_server(data=data, clock=clock) as server,
        AsyncClient(server.address) as client,
    ):
        await client.create_session(session_id="late", idle_seconds=600)
        await client.create_session(session_id="other")
    return data


async def test_what_a_wrong_clock_wrote_is_put_right(ahead: str) -> None:
    """Sessions expire when they should, by an event each; the log's time never goes back."""
    clock = ManualClock(1_800_000_000 * NS)
    async with (
        running_server(data=ahead, clock=clock) as server,
        AsyncClient(server.address) as client,
    ):
        engine = server.engine
        warned = await timekeeping.warn_if_behind(engine)
        found = await timekeeping.repair(engine)
        again = await timekeeping.repair(engine)
        late = await client.get_session(session_id="late")
        fine = await client.create_session(session_id="fine")
        events = [event async for event in _events(client, "late")]
        clock.advance(700)
        await server.parts.sweeper.sweep(100)
        statuses = await _statuses(client, "late", "other", "fine")

    assert warned
    assert (found.sessions, found.repaired, found.failed, again.repaired) == (2, 2, (), 0)
    assert late.expires_at.seconds == 1_800_000_600
    assert events == sorted(events)
    assert fine.session_id == "fine"
    assert statuses == [SESSION_STATUS_EXPIRED, SESSION_STATUS_ACTIVE, SESSION_STATUS_ACTIVE]


async def _events(client: AsyncClient, session_id: str) -> AsyncIterator[int]:
    async for event in client.list_events(session_id=session_id):
        yield event.time.ToNanoseconds()


async def test_the_command_puts_it_right(ahead: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One command, with no server running; again, it finds nothing to do."""
    first = await asyncio.to_thread(main, ["repair-clock", ahead])
    second = await asyncio.to_thread(main, ["repair-clock", ahead])
    mistyped = await asyncio.to_thread(main, ["repair-clock", f"{ahead}.typo"])
    said = capsys.readouterr().out

    assert (first, second, mistyped) == (0, 0, 1)
    assert "2 active sessions, 2 put right\n" in said
    assert "put right" in said.splitlines()[-1]
