"""What opening a file means: recognising, locking, migrating, restoring."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from maitred.server.stores.base import (
    Commit,
    Committed,
    CorruptData,
    Keep,
    RowFilter,
    SchemaTooNew,
    StoreError,
    StoreLocked,
    StoreUnavailable,
)
from maitred.server.stores.sqlite import SqliteStore, jobs, schema
from maitred.server.stores.sqlite.connection import APPLICATION_ID
from maitred.server.stores.sqlite.sql import Migration, load_migrations, split_script
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)

if TYPE_CHECKING:
    from pathlib import Path


async def _refused(path: Path, error: type[StoreError], words: str) -> None:
    store = SqliteStore(path)
    with pytest.raises(error, match=words) as caught:
        await store.open()
    await store.close()

    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


async def test_a_second_server_is_refused_and_told_who_holds_the_file(tmp_path: Path) -> None:
    """The lock names its holder, and ends with it."""
    path = tmp_path / "store.db"
    first = SqliteStore(path)
    await first.open()
    await _refused(path, StoreLocked, f"process {os.getpid()} on ")
    await first.close()

    again = SqliteStore(path)
    await again.open()
    await again.close()


async def test_the_lock_does_not_survive_a_killed_process(tmp_path: Path) -> None:
    """After kill -9 the next server opens at once; while the holder lives it is named."""
    path = tmp_path / "store.db"
    script = textwrap.dedent("""
        import asyncio, sys
        from maitred.server.stores.sqlite import SqliteStore
        async def main():
            await SqliteStore(sys.argv[1]).open()
            print("open", flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """)
    with subprocess.Popen(  # noqa: ASYNC220  # the loop has nothing else to do meanwhile
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        for line in holder.stdout:
            if line.strip() == b"open":
                break
        await _refused(path, StoreLocked, f"process {holder.pid} on ")
        holder.kill()
        holder.wait()

    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    """Nothing of a foreign file is changed."""
    path = tmp_path / "foreign.db"
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    await _refused(path, StoreError, "another program")

    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Any other bytes are damage, never an empty store."""
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear SQLite, " * 1000)

    await _refused(path, CorruptData, "not a database")


async def test_a_path_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    """A missing folder, and a folder in place of a file."""
    await _refused(tmp_path / "none" / "store.db", StoreUnavailable, "not a directory")
    await _refused(tmp_path, StoreUnavailable, "is a directory")


async def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """An older maitred does not touch what a newer one wrote."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 999")
    raw.close()

    await _refused(path, SchemaTooNew, "schema 999, written by a newer maitred")


async def test_a_missing_table_is_damage(tmp_path: Path) -> None:
    """What the schema promises must be there."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    raw = sqlite3.connect(path)
    raw.execute("DROP TABLE claims")
    raw.close()

    await _refused(path, CorruptData, "lacks the tables claims")


def test_migrations_are_numbered_without_gaps() -> None:
    """One file for each number, from 1."""
    assert [migration.number for migration in load_migrations()] == list(
        range(1, len(load_migrations()) + 1)
    )


@pytest.mark.parametrize("start_at", range(len(load_migrations()) + 1))
def test_every_older_schema_is_migrated(tmp_path: Path, start_at: int) -> None:
    """From any schema, the newest is reached, and data written before is still there."""
    connection = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    migrations = load_migrations()
    extra = Migration(
        len(migrations) + 1,
        "next",
        "CREATE TABLE later (x) STRICT;".replace("(x)", "(x INTEGER)"),
    )
    schema.migrate(connection, migrations[:start_at])
    schema.migrate(connection, (*migrations, extra))
    schema.migrate(connection, (*migrations, extra))

    assert schema.schema_of(connection) == extra.number
    assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    connection.close()


def test_a_failing_migration_leaves_the_schema_before_it(tmp_path: Path) -> None:
    """Each migration is one transaction."""
    connection = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    bad = Migration(1, "bad", "CREATE TABLE half (x INTEGER) STRICT; CREATE TABLE half (y);")
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, (bad,))
    with pytest.raises(StoreError, match="missing"):
        schema.migrate(connection, (Migration(3, "third", ""),))

    assert schema.schema_of(connection) == 0
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    connection.close()


def test_a_script_that_ends_in_a_statement_is_refused() -> None:
    """A forgotten semicolon is found when the migration runs, not lost."""
    with pytest.raises(ValueError, match="middle"):
        split_script("CREATE TABLE x (y)")


async def test_the_epoch_stays_until_a_backup_is_restored(tmp_path: Path) -> None:
    """Reopening is the same history; a restored copy is another, once."""
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    store = SqliteStore(path)
    first = await store.open()
    ref = new_ref()
    await put(store, new_commit(ref, 0))
    await store.backup(copy, lambda done, total: None)
    await store.close()
    epochs = []
    for restored in (path, copy, copy, path):
        again = SqliteStore(restored)
        epochs.append((await again.open()).epoch)
        assert await again.versions([ref]) == {ref: 1}
        await again.close()

    assert epochs[0] == epochs[3] == first.epoch
    assert epochs[1] == epochs[2] != first.epoch
    assert len(first.epoch) == 16
    assert sorted(entry.name for entry in tmp_path.glob("copy*")) == ["copy.db", "copy.db.lock"]


async def test_a_backup_is_one_snapshot_while_commits_go_on(tmp_path: Path) -> None:
    """Writers go on, and the copy is whole: events and heads agree."""
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    ref = new_ref()
    for base in range(200):
        answer = start(store, new_commit(ref, base))
    await answer
    answers = [start(store, new_commit(ref, base)) for base in range(200, 400)]
    info = await store.backup(tmp_path / "copy.db", lambda done, total: None)
    for answer in answers:
        assert await answer == Committed()
    await store.close()
    copy = SqliteStore(tmp_path / "copy.db")
    await copy.open()
    events = await copy.events(ref, 0, 1000)

    assert await copy.versions([ref]) == {ref: info.events}
    assert len(events) == info.events
    await copy.close()


async def test_a_backup_to_an_impossible_place_is_one_clear_error(tmp_path: Path) -> None:
    """The store goes on, and nothing is left behind."""
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    with pytest.raises(StoreUnavailable, match="cannot write"):
        await store.backup(tmp_path / "none" / "copy.db", lambda done, total: None)

    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


async def test_an_interrupted_forget_is_finished_by_open(tmp_path: Path) -> None:
    """A tombstone whose deletion was cut short loses the rest at the next start, as it was told."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    ref = new_ref()
    for base in range(700):
        answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
    await answer
    claims = tuple(new_claim(space, ref.id) for space in ("kept", "provider"))
    rows = tuple(new_row(table, ref) for table in (1, 9))
    await put(store, Commit((), claims, (), rows))
    await store.close()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN")
    bury = jobs.forget(ref, 700, new_append(ref, 700), Keep((9,), ("kept",)))
    assert isinstance(bury(raw), jobs.Again)
    raw.execute("COMMIT")
    raw.close()
    again = SqliteStore(path)
    await again.open()
    feed = await again.feed(b"", 1000)
    kept = [await again.claim(claim.space, claim.key) for claim in claims]
    left = [await again.list_rows(table, RowFilter(), None, 9) for table in (1, 9)]
    await again.close()

    assert [event.version for event in feed] == [701]
    assert kept == [claims[0], None]
    assert [[row.key for row in some] for some in left] == [[], [rows[1].key]]


async def test_a_deletion_of_an_older_version_keeps_what_that_one_did(tmp_path: Path) -> None:
    """It noted nothing: payments and ids of providers stay, all else goes."""
    path = tmp_path / "store.db"
    raw = sqlite3.connect(path, isolation_level=None)
    schema.migrate(raw, load_migrations()[:1])
    raw.execute("INSERT INTO forgetting (aggregate) VALUES (1)")
    raw.execute(
        "INSERT INTO aggregates (kind, id, version, commit_id, time_ns, tombstone, created_ns,"
        " status, customer_id, attention, chain, body)"
        " VALUES (1, 's', 2, x'00', 1, 1, 1, 0, '', 0, x'00', x'')"
    )
    for space in ("provider", "channel"):
        raw.execute("INSERT INTO claims (space, key, owner) VALUES (?, 'k', 's')", (space,))
    for table in (1, 2):
        raw.execute(
            "INSERT INTO projections (tab, key, kind, id, created_ns, status, flag, body)"
            " VALUES (?, 'k', 1, 's', 1, 0, 0, x'')",
            (table,),
        )
    raw.close()
    store = SqliteStore(path)
    await store.open()
    claims = [claim.space for claim in await store.list_claims(None, 9)]
    rows = [len(await store.list_rows(table, RowFilter(), None, 9)) for table in (1, 2)]
    await store.close()

    assert claims == ["provider"]
    assert rows == [1, 0]


async def test_what_was_erased_is_not_in_the_file(tmp_path: Path) -> None:
    """Neither the database nor its log keeps bytes that were redacted or forgotten."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await store.open()
    one, two = new_ref(), new_ref()
    await put(store, new_commit(one, 0, personal=b"secret-of-one" * 9))
    await put(store, new_commit(two, 0, facts=b"secret-of-two" * 99, body=b"secret-of-two"))
    await store.redact(one, [1])
    await store.forget(two, 1, new_append(two, 1))
    await store.close()

    for file in tmp_path.iterdir():
        assert b"secret-of" not in file.read_bytes()
