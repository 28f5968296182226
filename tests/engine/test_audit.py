"""The audit names exactly what was done to a log behind the server's back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.engine.conftest import AGENT, create, turn

from maitred.server.config import Settings
from maitred.server.engine.audit import AuditReport
from maitred.server.engine.clock import ManualClock
from maitred.server.engine.engine import Engine
from maitred.server.kinds.session import session_ref
from maitred.server.stores import create_store
from maitred.v1 import admin_pb2 as pb

Found = list[tuple[int, str]]


class Tampered:
    """A file with one session of six events, and somebody who edits it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def edit(self, *statements: str) -> None:
        """Change the file while no server has it open."""
        connection = sqlite3.connect(self.path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    async def audit(self, session_id: str = "s1") -> AuditReport:
        """Let a server look at it."""
        engine = Engine(create_store(f"sqlite:{self.path}"), Settings(), clock=ManualClock())
        await engine.start()
        try:
            return await engine.verify(session_ref(session_id))
        finally:
            await engine.stop()

    async def found(self) -> Found:
        """Name what the audit finds, by version."""
        report = await self.audit()
        kinds = pb.AuditViolationKind
        return [
            (each.version, kinds.Name(each.kind).removeprefix("AUDIT_VIOLATION_KIND_"))
            for each in report.violations
        ]


@pytest.fixture
async def tampered(tmp_path: Path) -> Tampered:
    """A session of six events at rest."""
    path = tmp_path / "maitred.db"
    engine = Engine(create_store(f"sqlite:{path}"), Settings(), clock=ManualClock())
    await engine.start()
    await create(engine)
    for number in range(5):
        await engine.execute(turn(text=f"turn {number}"), AGENT)
    await engine.stop()
    return Tampered(path)


async def test_untouched_log_is_valid(tampered: Tampered) -> None:
    """Nothing is wrong with what nobody touched."""
    report = await tampered.audit()

    assert report.valid
    assert report.events == 6


async def test_changed_row_is_named(tampered: Tampered) -> None:
    """One changed row is named, not all that follow it."""
    tampered.edit("UPDATE events SET facts = CAST(facts || x'5001' AS BLOB) WHERE version = 3")

    assert (3, "CHANGED") in await tampered.found()
    assert {version for version, kind in await tampered.found() if kind == "CHANGED"} == {3}


async def test_removed_row_is_named(tampered: Tampered) -> None:
    """A gap is named by the version that is missing."""
    tampered.edit("DELETE FROM events WHERE version = 4")

    assert (4, "REMOVED") in await tampered.found()


async def test_removed_end_is_named(tampered: Tampered) -> None:
    """A log that ends before its state does is found out."""
    tampered.edit("DELETE FROM events WHERE version = 6")

    assert (6, "REMOVED") in await tampered.found()


async def test_reordered_rows_are_named(tampered: Tampered) -> None:
    """Rows that changed places are both named."""
    tampered.edit(
        "UPDATE events SET version = 1000 WHERE version = 3",
        "UPDATE events SET version = 3 WHERE version = 5",
        "UPDATE events SET version = 5 WHERE version = 1000",
    )
    found = await tampered.found()

    assert (3, "REORDERED") in found
    assert (5, "REORDERED") in found


async def test_changed_personal_part_is_named(tampered: Tampered) -> None:
    """The chain vouches for personal data through its digest."""
    tampered.edit("UPDATE events SET personal = CAST(personal || x'00' AS BLOB) WHERE version = 2")

    assert (2, "PERSONAL_CHANGED") in await tampered.found()


async def test_changed_state_is_named(tampered: Tampered) -> None:
    """A state that the log does not explain is found out."""
    tampered.edit("UPDATE aggregates SET body = CAST(body || x'8001c801' AS BLOB)")

    assert (6, "STATE_DIFFERS") in await tampered.found()


async def test_log_of_another_session_is_not_taken_for_this_one(tampered: Tampered) -> None:
    """The first link binds a log to its name: a whole log under another name is found out."""
    assert (await tampered.audit()).valid
    tampered.edit("UPDATE aggregates SET id = 'other' WHERE id = 's1'")
    report = await tampered.audit("other")

    assert [each.version for each in report.violations][:1] == [1]
