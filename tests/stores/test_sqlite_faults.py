"""When the disk, the file or the process fails."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import (
    Commit,
    Committed,
    CorruptData,
    HeadFilter,
    StoreError,
    StoreFull,
)
from maitred.server.stores.sqlite import SqliteStore
from maitred.server.stores.sqlite.store import FATAL_STATUS
from maitred.server.testing.samples import new_append, new_commit, new_ref, put, start

if TYPE_CHECKING:
    from pathlib import Path

_KILLS = 5


def _python(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_a_full_queue_answers_store_full(tmp_path: Path) -> None:
    """Beyond the bound a commit is refused at once, but not inside `submit`."""
    store = SqliteStore(tmp_path / "store.db", queue_commits=3)
    await store.open()
    answers = [start(store, new_commit(new_ref(), 0)) for _ in range(5)]
    assert not any(answer.done() for answer in answers)
    outcomes = [await answer for answer in answers]

    assert outcomes[:3] == [Committed()] * 3
    assert all(isinstance(outcome, StoreFull) for outcome in outcomes[3:])
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


async def test_a_full_database_refuses_keeps_reading_and_recovers(tmp_path: Path) -> None:
    """StoreFull is certain: nothing is applied, reads go on, with room writes go on too."""
    path = tmp_path / "store.db"
    store = SqliteStore(path, max_bytes=400_000)
    await store.open()
    ref, base, answer = new_ref(), 0, None
    while True:
        append = new_append(ref, base, facts=os.urandom(20_000))
        answer = await put(store, Commit((append,)))
        if answer != Committed():
            break
        base += 1
    assert isinstance(answer, StoreFull)
    assert base > 5
    assert await store.versions([ref]) == {ref: base}
    assert len(await store.events(ref, 0, 999)) == base
    assert isinstance(await put(store, Commit((append,))), StoreFull)
    await store.close()

    roomy = SqliteStore(path)
    await roomy.open()
    assert await put(roomy, Commit((append,))) == Committed()
    assert await roomy.versions([ref]) == {ref: base + 1}
    await roomy.close()


@pytest.mark.parametrize("seed", range(_KILLS))
async def test_acknowledged_commits_survive_kill_9(tmp_path: Path, seed: int) -> None:
    """Whatever was acknowledged before the kill is there after it, and the log has no gap."""
    path = tmp_path / "store.db"
    writer = _python(
        """
        import asyncio, sys
        from maitred.server.kinds.session import SESSION
        from maitred.server.stores.base import Ref, Committed
        from maitred.server.stores.sqlite import SqliteStore
        from maitred.server.testing.samples import new_commit, put
        async def client(store, number):
            ref = Ref(SESSION, f"ses-{number}")
            base = 0
            while True:
                assert await put(store, new_commit(ref, base)) == Committed()
                base += 1
                print("ack", number, base, flush=True)
        async def main():
            store = SqliteStore(sys.argv[1])
            await store.open()
            await asyncio.gather(*(client(store, n) for n in range(8)))
        asyncio.run(main())
        """,
        str(path),
    )
    wanted = random.Random(seed).randrange(50, 1500)
    acknowledged: dict[int, int] = {}
    assert writer.stdout is not None
    count = 0
    for line in writer.stdout:
        word, *rest = line.split()
        if word == b"ack" and len(rest) == 2 and line.endswith(b"\n"):
            acknowledged[int(rest[0])] = int(rest[1])
            count += 1
        if count == wanted:
            writer.kill()
    writer.wait()
    writer.stdout.close()
    store = SqliteStore(path)
    await store.open()

    assert count >= wanted
    for head in await store.list_heads(SESSION, HeadFilter(), None, 100):
        events = await store.events(head.ref, 0, 10_000)
        assert [event.version for event in events] == list(range(1, head.version + 1))
        loaded = await store.load(head.ref, events[-1].request_id)
        assert loaded is not None
        assert loaded.request_event == events[-1]
        assert loaded.commit_id == events[-1].commit_id
        assert head.version >= acknowledged.get(int(head.ref.id[4:]), 0)
    assert len(await store.list_heads(SESSION, HeadFilter(), None, 100)) >= len(acknowledged)
    await store.close()


async def test_an_io_error_while_writing_ends_the_process(tmp_path: Path) -> None:
    """The outcome is unknown, so the server exits with its own status and closes nothing."""
    path = tmp_path / "store.db"
    writer = _python(
        """
        import asyncio, os, resource, sys
        from maitred.server.stores.base import Committed
        from maitred.server.stores.sqlite import SqliteStore
        from maitred.server.testing.samples import new_commit, new_ref, put
        async def main():
            store = SqliteStore(sys.argv[1])
            await store.open()
            assert await put(store, new_commit(new_ref(), 0)) == Committed()
            size = os.path.getsize(sys.argv[1] + "-wal")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
            print(await put(store, new_commit(new_ref(), 0)))
            sys.exit(1)
        asyncio.run(main())
        """,
        str(path),
    )
    output = await asyncio.to_thread(writer.communicate)
    store = SqliteStore(path)
    await store.open()

    assert writer.returncode == FATAL_STATUS
    assert b"Committed" not in output[0]
    assert await store.count(SESSION) == 1
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


async def test_damaged_pages_raise_and_never_read_as_absent(tmp_path: Path) -> None:
    """Whatever page is damaged, a read gives the right answer or an error."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    refs = [new_ref() for _ in range(50)]
    for ref in refs:
        answer = start(store, new_commit(ref, 0))
    await answer
    await store.close()
    raw = path.read_bytes()
    raised = 0
    for page in range(2, len(raw) // 4096 + 1):
        broken = tmp_path / f"page-{page}.db"
        at = (page - 1) * 4096
        broken.write_bytes(raw[:at] + b"\xa5" * 4096 + raw[at + 4096 :])
        damaged = SqliteStore(broken)
        try:
            await damaged.open()
            for ref in refs:
                loaded = await damaged.load(ref)
                events = await damaged.events(ref, 0, 10)
                assert loaded is not None
                assert len(events) == 1
        except CorruptData:
            raised += 1
        finally:
            await damaged.close()

    assert raised >= 4


async def test_a_missing_event_is_damage(tmp_path: Path) -> None:
    """A gap in a log is an error, wherever it is."""
    path = tmp_path / "store.db"
    for gone in (1, 3, 5):
        store = SqliteStore(path)
        await store.open()
        ref = new_ref()
        for base in range(5):
            await put(store, new_commit(ref, base))
        await store.close()
        raw = sqlite3.connect(path, isolation_level=None)
        raw.execute(
            "DELETE FROM events WHERE version = ? AND aggregate ="
            " (SELECT aggregate FROM aggregates WHERE id = ?)",
            (gone, ref.id),
        )
        raw.close()
        store = SqliteStore(path)
        await store.open()
        with pytest.raises(CorruptData, match="missing"):
            await store.events(ref, 0, 10)
        await store.close()


async def test_a_log_that_is_ahead_of_its_head_spoils_no_other_commit(tmp_path: Path) -> None:
    """A constraint that fails takes only its own commit out of the batch."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    refs = [new_ref() for _ in range(6)]
    for ref in refs:
        await put(store, new_commit(ref, 0))
    await store.close()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute(
        "INSERT INTO events (aggregate, version, time_ns, change, fingerprint, facts, chain)"
        " SELECT aggregate, 2, 0, 0, x'', x'', x'' FROM aggregates WHERE id = ?",
        (refs[2].id,),
    )
    raw.close()
    store = SqliteStore(path)
    await store.open()
    answers = [start(store, new_commit(ref, 1)) for ref in refs]
    outcomes = [await answer for answer in answers]
    await store.close()

    assert isinstance(outcomes[2], CorruptData)
    assert [outcome for outcome in outcomes if not isinstance(outcome, StoreError)] == [
        Committed()
    ] * 5
