"""A damaged disk: what is read of a log is what was written, or the read fails loudly."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import structlog

from maitred.client import AsyncClient
from maitred.server.config import Settings
from maitred.server.engine.engine import Engine
from maitred.server.errors import MaitredError
from maitred.server.kinds.session import session_ref
from maitred.server.stores import create_store
from maitred.server.stores.base import CorruptData, StoreError
from maitred.server.testing.servers import running_server
from maitred.v1.conversation_pb2 import NewMessage
from maitred.v1.state_pb2 import MESSAGE_ROLE_USER

PAGE_BYTES = 4096
TURNS = 60


async def evening(path: Path) -> None:
    """Write a session whose log fills some pages."""
    async with (
        running_server(data=f"sqlite:{path}") as server,
        AsyncClient(server.address) as client,
    ):
        guest = await client.create_session(session_id="guest")
        for number in range(TURNS):
            text = f"turn {number}: " + "a table by the window, please. " * 12
            await client.record_turn(
                session_id=guest.session_id,
                messages=[NewMessage(role=MESSAGE_ROLE_USER, text=text)],
            )


async def read(path: Path) -> list[bytes]:
    """Read the log as a caller would, page by page. Raises: StoreError, MaitredError."""
    engine = Engine(create_store(f"sqlite:{path}"), Settings())
    await engine.start()
    try:
        found: list[bytes] = []
        while page := await engine.events(session_ref("guest"), len(found), 7):
            found += [event.SerializeToString(deterministic=True) for event in page]
        return found
    finally:
        await engine.stop()


async def test_every_damaged_page_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Bytes are flipped in each page: what is read is the true log, or there is an error."""
    path, damaged = tmp_path / "m.db", tmp_path / "damaged.db"
    await evening(path)
    truth = await read(path)
    whole = path.read_bytes()
    noticed = 0

    for page in range(1, len(whole) // PAGE_BYTES):
        for at in (1500, 3600):
            broken = bytearray(whole)
            start = page * PAGE_BYTES + at
            broken[start : start + 5] = bytes(each ^ 0x15 for each in broken[start : start + 5])
            damaged.write_bytes(broken)
            try:
                found = await read(damaged)
            except (StoreError, MaitredError):
                noticed += 1
            else:
                assert found == truth, (page, at)
            for each in tmp_path.glob("damaged.db*"):
                each.unlink()

    assert len(truth) == TURNS + 1
    assert noticed > 10


@pytest.mark.parametrize("column", ["facts", "personal", "chain", "version"])
async def test_a_changed_row_is_refused_and_logged(tmp_path: Path, column: str) -> None:
    """Whatever of a row was changed, a reader is refused and the log of the server says where."""
    path = tmp_path / "m.db"
    await evening(path)
    with sqlite3.connect(path) as raw:
        if column == "version":
            raw.execute("UPDATE events SET version = -version WHERE version IN (20, 21)")
            raw.execute("UPDATE events SET version = 41 + version WHERE version < 0")
        else:
            (value,) = raw.execute(f"SELECT {column} FROM events WHERE version = 20").fetchone()
            changed = value[:-3] + bytes(each ^ 1 for each in value[-3:])
            raw.execute(f"UPDATE events SET {column} = ? WHERE version = 20", (changed,))
    raw.close()

    with structlog.testing.capture_logs() as logs, pytest.raises(CorruptData, match="at version 2"):
        await read(path)
    assert any(line["event"] == "damaged_data" and line["log_level"] == "error" for line in logs)
