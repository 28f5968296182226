"""Files that are moved, linked, copied over, read-only or full: refused or right, never wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from maitred.server.cli import main
from maitred.server.stores import remove_unfinished
from maitred.server.stores.base import (
    KEEP_NOTHING,
    Committed,
    CorruptData,
    StoreError,
    StoreLocked,
    StoreUnavailable,
)
from maitred.server.stores.sqlite import SqliteStore, jobs
from maitred.server.stores.sqlite.restoring import put_in_place
from maitred.server.testing.samples import new_append, new_commit, new_ref, put, start

SERVE = textwrap.dedent("""
    import asyncio, os, sys
    from maitred.server.stores.sqlite import SqliteStore
    from maitred.server.testing.samples import new_commit, new_ref, put
    async def main(path, before, after, backup):
        store = SqliteStore(path)
        await store.open()
        for _ in range(before):
            await put(store, new_commit(new_ref(), 0, body=os.urandom(3000)))
        await store.backup(__import__("pathlib").Path(backup), lambda *_: None)
        for _ in range(after):
            await put(store, new_commit(new_ref(), 0, body=os.urandom(3000)))
        print("ready", flush=True)
        await asyncio.Event().wait()
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
""")


def killed_server(path: Path, backup: Path, before: int, after: int) -> None:
    """Write `before`, back up, write `after`, and die by SIGKILL with the log in place."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(path), str(before), str(after), str(backup)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        assert server.stdout is not None
        assert any(line.strip() == b"ready" for line in server.stdout)
        server.kill()


async def events_of(path: Path, *, read_only: bool = False) -> int:
    """Open a database, count its events, close it."""
    store = SqliteStore(path, read_only=read_only)
    await store.open()
    try:
        return len(await store.feed(b"", 10_000))
    finally:
        await store.close()


async def command(*arguments: str) -> int:
    """Run a command, which has a loop of its own."""
    return await asyncio.to_thread(main, list(arguments))


def copied_over(backup: Path, path: Path) -> None:
    """Keep the inode."""
    shutil.copyfile(backup, path)


def moved_over(backup: Path, path: Path) -> None:
    """Rename over it."""
    shutil.copyfile(backup, path.with_name("moved"))
    path.with_name("moved").replace(path)


def put_anew(backup: Path, path: Path) -> None:
    """Remove, then copy: the inode may come back."""
    path.unlink()
    shutil.copyfile(backup, path)


def opened_before(backup: Path, path: Path) -> None:
    """The backup was served elsewhere once: it has an epoch and a run of its own."""
    elsewhere = path.with_name("elsewhere.db")
    shutil.copyfile(backup, elsewhere)
    with sqlite3.connect(elsewhere) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("DELETE FROM meta WHERE name = 'copied'")
    raw.close()
    shutil.copyfile(elsewhere, path)


@pytest.mark.parametrize("after", [1, 30, 1500])
@pytest.mark.parametrize("replace", [copied_over, moved_over, put_anew, opened_before])
async def test_the_log_of_another_file_is_refused(
    tmp_path: Path, replace: Callable[[Path, Path], None], after: int
) -> None:
    """A backup over a killed server's file is neither undone nor broken by the log that lies there.

    Whoever opens it is told what to do; once the log is away it is the backup, whole.
    """
    path, backup = tmp_path / "m.db", tmp_path / "backup.db"
    killed_server(path, backup, 20, after)
    assert (tmp_path / "m.db-wal").stat().st_size > 0
    replace(backup, path)
    kept = path.read_bytes()

    for read_only in (False, True):
        with pytest.raises(CorruptData, match="maitred restore BACKUP") as caught:
            await events_of(path, read_only=read_only)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == kept
    (tmp_path / "m.db-wal").unlink()
    assert await events_of(path) == 20


@pytest.mark.parametrize("after", [1, 1500])
async def test_restore_puts_a_backup_in_place_of_a_killed_server(
    tmp_path: Path, after: int
) -> None:
    """Whole, without the old log, as a history of its own; nothing else is left."""
    path, backup = tmp_path / "m.db", tmp_path / "backup.db"
    killed_server(path, backup, 20, after)
    kept = backup.read_bytes()

    # What these tests write are no sessions, which the command would find: it is tried elsewhere.
    assert await command("restore", str(backup), f"sqlite:{path}") == 1
    assert put_in_place(backup, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "backup.db",
        "m.db",
        "m.db.lock",
    ]
    store = SqliteStore(path)
    first = await store.open()
    assert len(await store.feed(b"", 100)) == 20
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()
    assert not put_in_place(backup, tmp_path / "new.db")
    other = SqliteStore(tmp_path / "new.db")
    assert (await other.open()).epoch != first.epoch
    await other.close()
    assert backup.read_bytes() == kept


async def test_restore_refuses_what_it_must(tmp_path: Path) -> None:
    """A running server, a damaged backup, one that is not there, itself: nothing is changed."""
    path, copy = tmp_path / "m.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    await store.open()
    await put(store, new_commit(new_ref(), 0))
    await store.backup(copy, lambda *_: None)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        put_in_place(copy, path)
    await store.close()
    with pytest.raises(StoreError, match="itself"):
        put_in_place(path, path)
    kept = path.read_bytes()
    copy.write_bytes(copy.read_bytes()[: 4096 * 3])

    assert await command("restore", str(copy), str(path)) == 1
    assert await command("restore", str(tmp_path / "typo.db"), str(path)) == 1
    assert path.read_bytes() == kept
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.db", "m.db", "m.db.lock"]


async def test_a_killed_server_finds_its_own_log(tmp_path: Path) -> None:
    """What belongs together is never refused, whatever moment the server was killed at."""
    path = tmp_path / "m.db"
    for again in range(4):
        killed_server(path, tmp_path / f"backup{again}.db", 3, 2)

    assert await events_of(path, read_only=True) == 20
    # Moved together, also without the lock file, they still belong together.
    (tmp_path / "else").mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", tmp_path / "else" / f"m.db{suffix}")
    assert await events_of(tmp_path / "else" / "m.db") == 20
    assert await events_of(path) == 20


async def test_a_log_without_its_database_is_refused(tmp_path: Path) -> None:
    """A database that is gone is not begun anew over a log that still holds data."""
    path = tmp_path / "m.db"
    killed_server(path, tmp_path / "backup.db", 3, 2)
    path.unlink()

    with pytest.raises(CorruptData, match=r"its log m\.db-wal holds data"):
        await events_of(path)
    assert (tmp_path / "m.db-wal").stat().st_size > 0


async def test_one_file_has_one_server_by_whatever_name(tmp_path: Path) -> None:
    """Symbolic links, relative paths and another process's view of the same inode are one file."""
    path = tmp_path / "m.db"
    (tmp_path / "sub").mkdir()
    link, folder = tmp_path / "sub" / "link.db", tmp_path / "folder"
    store = SqliteStore(path)
    await store.open()
    link.symlink_to(path)
    folder.symlink_to(tmp_path)
    relative = Path(os.path.relpath(path))

    for name in (link, folder / "m.db", relative, tmp_path / "sub" / ".." / "m.db"):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await events_of(name)
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await events_of(name, read_only=True)
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()
    assert await events_of(link) == 1
    assert not (tmp_path / "sub" / "link.db.lock").exists()


@pytest.mark.parametrize("running", [True, False])
async def test_a_file_with_two_names_is_refused(tmp_path: Path, *, running: bool) -> None:
    """By a hard link SQLite would keep two logs for one file."""
    path, other = tmp_path / "m.db", tmp_path / "other.db"
    store = SqliteStore(path)
    await store.open()
    if not running:
        await store.close()
    other.hardlink_to(path)

    with pytest.raises(StoreError, match="2 names"):
        await events_of(other)
    await store.close()
    with pytest.raises(StoreError, match="2 names"):
        await events_of(path)
    other.unlink()
    assert await events_of(path) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only there the inode can be locked")
async def test_the_inode_is_locked_too(tmp_path: Path) -> None:
    """A bind mount shows the file without its lock file; who holds it is named all the same."""
    path = tmp_path / "m.db"
    with subprocess.Popen(  # noqa: ASYNC220  # the loop has nothing else to do meanwhile
        [sys.executable, "-c", SERVE, str(path), "1", "1", str(tmp_path / "b.db")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        assert server.stdout is not None
        assert any(line.strip() == b"ready" for line in server.stdout)
        # As seen where the lock file is not.
        (tmp_path / "m.db.lock").rename(tmp_path / "away")
        with pytest.raises(StoreLocked, match=f"another name, in process {server.pid}"):
            await events_of(path)
        server.kill()


async def test_reading_changes_and_leaves_nothing(tmp_path: Path) -> None:
    """Neither migration nor deletion nor lock nor log: the folder is byte for byte as it was."""
    path, backup = tmp_path / "m.db", tmp_path / "backup.db"
    killed_server(path, backup, 20, 30)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    # Only an index that SQLite makes anew each time is its own business.
    shm = before.pop("m.db-shm", None)

    assert await events_of(path, read_only=True) == 50
    assert await events_of(backup, read_only=True) == 20
    assert await events_of(backup, read_only=True) == 20
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert (after.pop("m.db-shm", None) is None) == (shm is None)
    assert after == before
    epochs = set()
    for name in ("one.db", "two.db"):
        shutil.copyfile(backup, tmp_path / name)
        store = SqliteStore(tmp_path / name)
        epochs.add((await store.open()).epoch)
        await store.close()
    assert len(epochs) == 2


async def test_a_reader_refuses_to_write(tmp_path: Path) -> None:
    """Whatever would change something is refused."""
    path = tmp_path / "m.db"
    assert await events_of(path) == 0
    store = SqliteStore(path, read_only=True)
    info = await store.open()

    with pytest.raises(StoreUnavailable, match="reading only"):
        await put(store, new_commit(new_ref(), 0))
    with pytest.raises(StoreUnavailable, match="reading only"):
        await store.lease("x", "y", 1)
    assert not info.backup
    await store.close()


def test_a_mistyped_path_is_an_error_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and neither the database nor anything beside it nor the target of a copy."""
    for arguments in (
        ["check", str(tmp_path / "typo.db")],
        ["check", str(tmp_path / "none" / "typo.db")],
        ["copy", str(tmp_path / "typo.db"), str(tmp_path / "target.db")],
        ["restore", str(tmp_path / "typo.db"), str(tmp_path / "target.db")],
        ["repair-clock", str(tmp_path / "typo.db")],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert "; nothing was " in said.err
        assert (said.out, said.err.count("\n")) == ("", 1)
    (tmp_path / "empty.db").touch()
    assert main(["check", str(tmp_path / "empty.db")]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["empty.db"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: it mounts instead")
async def test_a_medium_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """A whole file is read there; one with a log says clearly that it cannot be."""
    path = tmp_path / "m.db"
    assert await events_of(path) == 0
    tmp_path.chmod(0o500)
    try:
        assert await events_of(path, read_only=True) == 0
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root")
async def test_a_read_only_mount(tmp_path: Path) -> None:
    """A database on a read-only medium is read; with a log that is not worked off it says so."""
    path = tmp_path / "m.db"
    killed_server(path, tmp_path / "backup.db", 2, 2)
    mount = ["mount", "--bind", str(tmp_path), str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:  # noqa: ASYNC221
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path)], check=True)  # noqa: ASYNC221
        assert await events_of(tmp_path / "backup.db", read_only=True) == 2
        with pytest.raises(StoreUnavailable, match=r"copy it and m\.db-wal to another directory"):
            await events_of(path, read_only=True)
        with pytest.raises(StoreUnavailable, match="Read-only file system"):
            await events_of(path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)  # noqa: ASYNC221


async def test_a_full_disk_with_an_interrupted_deletion_starts_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are served, the deletion is finished when there is room."""
    path = tmp_path / "m.db"
    store = SqliteStore(path)
    await store.open()
    ref, other = new_ref(), new_ref()
    for base in range(700):
        answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
    await answer
    await put(store, new_commit(other, 0))
    await store.close()
    with sqlite3.connect(path, isolation_level=None) as raw:
        raw.execute("BEGIN")
        assert isinstance(
            jobs.forget(ref, 700, new_append(ref, 700), KEEP_NOTHING)(raw), jobs.Again
        )
        raw.execute("COMMIT")
    raw.close()

    broken = sqlite3.OperationalError("database or disk is full")
    broken.sqlite_errorcode = sqlite3.SQLITE_FULL
    piece = jobs._forget_piece
    room = False

    def forget_piece(*arguments: object) -> object:
        if not room:
            raise broken
        return piece(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "_forget_piece", forget_piece)
    monkeypatch.setattr("maitred.server.stores.sqlite.writer.AGAIN_S", 0.01)
    again = SqliteStore(path)
    await again.open()
    assert (await again.versions([other])) == {other: 1}
    assert len(await again.feed(b"", 1000)) == 702
    room = True
    async with asyncio.timeout(60):
        while len(await again.feed(b"", 1000)) > 2:
            await asyncio.sleep(0.005)
    await again.close()


async def test_unfinished_backups_go_and_nothing_else(tmp_path: Path) -> None:
    """Those of killed servers, by their exact name; what somebody named so, and what is written."""
    store = SqliteStore(tmp_path / "m.db")
    await store.open()
    finished = tmp_path / "friday.partial"
    await store.backup(finished, lambda *_: None)
    dead = tmp_path / f".maitred-{'0' * 32}.partial"
    dead.touch()
    alike = tmp_path / f".maitred-{'0' * 31}.partial"
    alike.touch()
    seen: list[int] = []
    await store.backup(tmp_path / "copy.db", lambda *_: seen.append(remove_unfinished(tmp_path)))
    await store.close()

    assert finished.exists()
    assert alike.exists()
    assert not dead.exists()
    assert (tmp_path / "copy.db").exists()
    assert remove_unfinished(tmp_path) == 0
