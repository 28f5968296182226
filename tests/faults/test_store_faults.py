"""Every rpc that changes something against everything that can become of its commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from tests.support.bar import new_guest, open_bar, session, turn
from tests.support.requests import VALID, Prepared
from tests.support.wire import MUTATIONS, STATUS_OF, Failure, Wire, wired

from maitred.server.app.server import Server
from maitred.server.engine.clock import ManualClock
from maitred.server.kinds.menu import MENU
from maitred.server.kinds.session import SESSION, session_ref
from maitred.server.stores import create_store
from maitred.server.stores.base import Ref
from maitred.server.testing.faulty import Fault, FaultyStore
from maitred.v1 import menu_pb2, session_pb2

REFUSED = {Fault.FULL: "STORE_FULL", Fault.UNAVAILABLE: "STORE_UNAVAILABLE"}
"""What the caller is told where the commit certainly did not happen."""

WRITE_FAULTS = [
    Fault.CONFLICT,
    Fault.FULL,
    Fault.UNAVAILABLE,
    Fault.UNKNOWN_APPLIED,
    Fault.UNKNOWN_ABSENT,
    Fault.APPLIED_LATE,
]

DELETE = "SessionService/DeleteSession"


class Rig(NamedTuple):
    """A server whose store follows a script."""

    server: Server
    wire: Wire
    store: FaultyStore


@pytest.fixture(params=["memory", "sqlite"], scope="module")
async def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    """Run a server over a store that fails when it is told to."""
    folder: Path = tmp_path_factory.mktemp("data")
    url = "memory://" if request.param == "memory" else f"sqlite:{folder / 'maitred.db'}"
    store = FaultyStore(create_store(url))
    # Time stands still, so that nothing in the background takes a fault that is meant for a call.
    async with wired(
        store=store, clock=ManualClock(), simulated_dir=str(folder), heartbeat_s=3600.0
    ) as (server, wire):
        # Notices are commits, too, and would meet the faults that are meant for a call's.
        await server.parts.gateways.aclose()
        await open_bar(wire)
        yield Rig(server, wire, store)


class Run(NamedTuple):
    """What became of a request, of the same one sent again, and of the next one."""

    first: Message | Failure
    again: Any
    following: tuple[str, str]
    changes: list[str]
    commits: int
    """How many the first call submitted."""


async def play(rig: Rig, rpc: str, *faults: Fault) -> Run:
    """Send a request whose commits meet these faults, send it again, then send another one."""
    prepared = await VALID[rpc](rig.wire)
    prepared.request.request_id = "only-once"  # type: ignore[attr-defined]  # every mutation has it
    before = len(rig.store.submitted)
    rig.store.fail_writes(*faults)
    first = await rig.wire.outcome(rpc, prepared.request)
    commits = len(rig.store.submitted) - before
    again = await rig.wire.outcome(rpc, prepared.request)
    await rig.store.release()
    following = await rig.wire.outcome(*_next(prepared))
    events = await rig.server.engine.events(prepared.target, 0, 1000)
    if prepared.target.kind is SESSION and rpc != DELETE:
        report = await rig.server.engine.verify(prepared.target)
        assert not report.violations
    assert rig.store.pending == 0
    assert not rig.server.engine.locks.held(prepared.target)
    told = (following.status, following.reason) if isinstance(following, Failure) else ("OK", "")
    changes = [str(event.WhichOneof("change")) for event in events]
    return Run(first, again, told, changes, commits)


def _next(prepared: Prepared) -> tuple[str, Message]:
    target: Ref = prepared.target
    if target.kind is MENU:
        request = menu_pb2.SetItemAvailabilityRequest(
            menu_id=target.id, item="olives", sold_out=True
        )
        return "MenuService/SetItemAvailability", request
    return "ConversationService/RecordTurn", turn(target.id, "and another one")


def test_every_mutation_of_the_contract_is_in_the_table() -> None:
    """A new rpc with a request id needs a valid request here."""
    assert set(VALID) == set(MUTATIONS)


@pytest.mark.parametrize("rpc", VALID)
async def test_every_outcome_of_every_commit(rig: Rig, rpc: str) -> None:
    """Whatever a commit meets: the right status or the one result, and a retry has one effect."""
    wanted = await play(rig, rpc)
    assert not isinstance(wanted.first, Failure), wanted.first
    assert wanted.again.replayed

    async def one(position: int, fault: Fault) -> None:
        found = await play(rig, rpc, *[Fault.NONE] * position, fault)
        what = f"{fault.name} at commit {position}"
        if fault in REFUSED and position == 0:
            assert isinstance(found.first, Failure), what
            assert found.first.reason == REFUSED[fault], what
            assert found.first.status == STATUS_OF[found.first.reason], what
        elif isinstance(found.first, Failure):
            assert position, (what, found.first)
            assert found.first.status == STATUS_OF[found.first.reason], what
            assert found.first.reason in {*REFUSED.values(), "OUTCOME_UNKNOWN"}, what
        else:
            assert not found.first.replayed, what  # type: ignore[attr-defined]
        assert not isinstance(found.again, Failure), (what, found.again)
        assert found.changes == wanted.changes, what
        assert found.following == wanted.following, what

    for position in range(max(1, wanted.commits)):
        for fault in WRITE_FAULTS:
            await one(position, fault)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.CORRUPT])
@pytest.mark.parametrize("rpc", VALID)
async def test_a_read_that_fails_changes_nothing(rig: Rig, rpc: str, fault: Fault) -> None:
    """A head that cannot be read refuses the command; the same request succeeds afterwards."""
    prepared = await VALID[rpc](rig.wire)
    prepared.request.request_id = "only-once"  # type: ignore[attr-defined]  # every mutation has it
    rig.server.engine.cache.drop(prepared.target)
    rig.store.fail_reads(fault)
    failure = await rig.wire.fails(rpc, prepared.request)
    reply = await rig.wire(rpc, prepared.request)

    assert rig.store.pending == 0
    if fault is Fault.UNAVAILABLE:
        assert (failure.status, failure.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    else:
        assert (failure.status, failure.reason) == ("INTERNAL", "INTERNAL")
        assert failure.metadata["incident_id"]
    assert "scripted" not in failure.message
    assert not reply.replayed


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_APPLIED, Fault.UNKNOWN_ABSENT])
async def test_watchers_hear_of_a_deletion_whose_outcome_was_unknown(
    rig: Rig, fault: Fault
) -> None:
    """However a deletion came to be durable, its watches end with it."""
    guest = await new_guest(rig.wire)
    watch = rig.wire.call(
        "SessionService/WatchSession", session_pb2.WatchSessionRequest(session_id=guest)
    )
    await watch.read()
    request = session_pb2.DeleteSessionRequest(session_id=guest, reason="x", request_id="gone")
    rig.store.fail_writes(fault)
    await rig.wire.outcome(DELETE, request)
    await rig.wire(DELETE, request)
    async with asyncio.timeout(5):
        deletion, end, nothing = [await watch.read() for _ in range(3)]

    assert [event.version for event in deletion.events.events] == [2]
    assert end.end.deleted
    assert nothing is grpc.aio.EOF


async def test_a_commit_that_stays_unknown_holds_up_its_own_session_only(rig: Rig) -> None:
    """Nobody decides on a session whose last commit is unknown; others go on, and it recovers."""
    stuck, other = await new_guest(rig.wire), await new_guest(rig.wire)
    request = turn(stuck, "once", request_id="once")
    # With every try the pause gets longer: together they outlast the slowest machine.
    rig.store.fail_writes(Fault.APPLIED_LATE, *[Fault.UNKNOWN_ABSENT] * 6)
    given_up = await rig.wire.fails("ConversationService/RecordTurn", request, timeout=0.02)
    shown = await session(rig.wire, stuck)
    held = rig.server.engine.locks.held(session_ref(stuck))
    waiting = asyncio.create_task(rig.wire("ConversationService/RecordTurn", turn(stuck, "next")))
    while rig.store.pending:
        await asyncio.sleep(0.001)
    elsewhere = await rig.wire("ConversationService/RecordTurn", turn(other))
    await rig.store.release()
    following = await waiting
    again = await rig.wire("ConversationService/RecordTurn", request)

    assert given_up.status == "DEADLINE_EXCEEDED"
    assert held
    assert shown.version == 1
    assert elsewhere.event.version == 2
    assert following.event.version == 3
    assert again.replayed
    assert again.event.version == 2
    assert not rig.server.engine.locks.held(session_ref(stuck))


async def test_a_conflict_that_never_ends_is_told(rig: Rig) -> None:
    """A command that always comes too late says so, and leaves the session free."""
    guest = await new_guest(rig.wire)
    rig.store.fail_writes(*[Fault.CONFLICT] * 8)
    failure = await rig.wire.fails("ConversationService/RecordTurn", turn(guest))
    reply = await rig.wire("ConversationService/RecordTurn", turn(guest))

    assert (failure.status, failure.reason) == ("ABORTED", "CONCURRENT_MODIFICATION")
    assert reply.event.version == 2


async def test_a_session_without_an_id_is_created_once_whatever_happens(rig: Rig) -> None:
    """The request id of a creation is a claim in its commit, so that a retry finds the session."""
    for at, fault in enumerate(WRITE_FAULTS):
        request = session_pb2.CreateSessionRequest(
            request_id=f"new-{id(rig)}-{at}", labels={"fault": fault.name.lower()}
        )
        rig.store.fail_writes(fault)
        first = await rig.wire.outcome("SessionService/CreateSession", request)
        again = await rig.wire("SessionService/CreateSession", request)
        await rig.store.release()
        listed = await rig.wire(
            "SessionService/ListSessions",
            session_pb2.ListSessionsRequest(labels={"fault": fault.name.lower()}),
        )

        assert isinstance(first, Failure) == (fault in REFUSED), (fault, first)
        assert again.replayed == (fault not in REFUSED)
        assert [each.session_id for each in listed.sessions] == [again.session.session_id]
