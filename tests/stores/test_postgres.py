"""The contract, kept by PostgreSQL; and what only PostgreSQL does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from maitred.server.kinds.menu import MENU
from maitred.server.kinds.tables import Table
from maitred.server.stores import create_store
from maitred.server.stores.base import (
    Commit,
    Committed,
    Conflict,
    CorruptData,
    Outcome,
    Ref,
    Replayed,
    RowFilter,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.postgres import PostgresStore
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer


class TestPostgres(StoreContract):
    """PostgreSQL keeps the whole contract but for backups, which are its own tools' work."""

    lacks_exclusivity = "several servers share one database"
    lacks_backup = "PostgreSQL is backed up by its own tools"

    @pytest.fixture
    async def store(self, postgres: PostgresServer) -> AsyncIterator[Store]:
        """Yield an empty store in a database of its own."""
        self.url = postgres.create_database()
        self.opened = [PostgresStore(self.url)]
        await self.opened[0].open()
        yield self.opened[0]
        for store in self.opened:
            await store.close()

    async def reopen(self, store: Store) -> Store:
        """Open the same database again."""
        await store.close()
        again = PostgresStore(self.url)
        self.opened.append(again)
        await again.open()
        return again

    async def test_commits_that_queue_share_a_transaction(self, store: Store) -> None:
        """A round trip and a sync are paid for by all commits that wait for them."""
        assert isinstance(store, PostgresStore)
        refs = [new_ref() for _ in range(64)]
        before = store.batches
        for answer in [start(store, new_commit(ref, 0)) for ref in refs]:
            await answer
        for answer in [start(store, new_commit(ref, 1)) for ref in refs]:
            await answer

        assert store.batches - before <= 4

    async def test_a_hot_append_changes_no_index_of_the_head(
        self, store: Store, postgres: PostgresServer
    ) -> None:
        """A new version of a head's row fits beside the old one, and its indexes stay."""
        ref = new_ref()
        await put(store, new_commit(ref, 0, wake_at_ns=1000))
        for base in range(1, 20):
            await put(store, new_commit(ref, base, wake_at_ns=1000 * (base + 1)))
        await store.close()
        ((updates, hot),) = postgres.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'aggregates'",
            url=self.url,
        )

        assert (updates, hot) == (19, 19)

    async def test_outcomes_of_one_batch_of_plain_appends_do_not_touch_one_another(
        self, store: Store
    ) -> None:
        """Good, stale, replayed, applied, buried and absent ones get each its own answer."""
        refs = [new_ref() for _ in range(18)]
        firsts = [new_append(ref, 0) for ref in refs]
        for first in firsts:
            await put(store, Commit((first,)))
        seconds = [new_append(ref, 1) for ref in refs]
        answers, expected = [], []
        for number, (ref, first, second) in enumerate(zip(refs, firsts, seconds, strict=True)):
            append = second
            outcome: Outcome = Committed()
            if number % 6 == 1:
                append, outcome = new_append(ref, 7), Conflict(ref, 1, first.commit_id)
            elif number % 6 == 2:
                append = second._replace(request_id=first.request_id)
                outcome = Replayed(ref, 1, first.fingerprint)
            elif number % 6 == 3:
                await put(store, Commit((second,)))
                await put(store, new_commit(ref, 2))
            elif number % 6 == 4:
                last = new_append(ref, 1)
                await store.forget(ref, 1, last)
                outcome = Conflict(ref, 2, last.commit_id)
            elif number % 6 == 5:
                nobody = new_ref()
                append, outcome = new_append(nobody, 1), Conflict(nobody, 0, b"")
            answers.append(start(store, Commit((append,))))
            expected.append(outcome)

        assert [await answer for answer in answers] == expected

    async def test_a_commit_of_every_part_is_written_whole(self, store: Store) -> None:
        """Several appends, claims new, renewed, released and taken over, rows and drops at once."""
        old, new = new_ref(), new_ref(2)
        kept, given, handed = (new_claim(owner="a") for _ in range(3))
        gone = new_row(Table.INBOX, old)
        await put(store, Commit((new_append(old, 0),), (kept, given, handed), (), (gone,)))
        fresh, row = new_claim(owner="b"), new_row(Table.ORDERS, new)
        commit = Commit(
            (new_append(old, 1), new_append(new, 0)),
            claims=(fresh, kept._replace(expires_ns=2**62), handed._replace(owner="b")),
            releases=(given, handed),
            rows=(row,),
            drops=((gone.table, gone.key),),
        )

        assert await put(store, commit) == Committed()
        assert await put(store, commit) == Committed()
        assert await store.versions([old, new]) == {old: 2, new: 1}
        owners = [await store.claim(c.space, c.key) for c in (fresh, kept, given, handed)]
        assert [claim and claim.owner for claim in owners] == ["b", "a", None, "b"]
        assert await store.list_rows(Table.INBOX, RowFilter(), None, 9) == []
        assert [r.key for r in await store.list_rows(Table.ORDERS, RowFilter(), None, 9)] == [
            row.key
        ]

    async def test_text_that_no_column_holds_is_refused_alone(self, store: Store) -> None:
        """A zero character or half a surrogate is an error of its commit, or of its read."""
        good = new_ref()
        answers = [start(store, new_commit(good, 0))]
        answers += [start(store, new_commit(Ref(MENU, bad), 0)) for bad in ("a\0b", "\ud800")]
        outcomes = [await answer for answer in answers]

        assert outcomes[0] == Committed()
        assert [type(outcome) for outcome in outcomes[1:]] == [StoreError, StoreError]
        assert (await store.versions([good])) == {good: 1}
        with pytest.raises(StoreError):
            await store.load(Ref(MENU, "a\0b"))

    async def test_a_missing_event_is_noticed(self, store: Store, postgres: PostgresServer) -> None:
        """A gap in a log raises, wherever it is read without a choice of changes."""
        ref = new_ref()
        for base in range(5):
            await put(store, new_commit(ref, base))
        postgres.execute("DELETE FROM maitred.events WHERE version = 3", url=self.url)

        with pytest.raises(CorruptData):
            await store.events(ref, 0, 9)
        with pytest.raises(CorruptData):
            await store.events(ref, 2, 1)
        with pytest.raises(CorruptData):
            [record async for record in store.scan()]
        assert len(await store.events(ref, 3, 9)) == 2

    async def test_a_log_ahead_of_its_head_is_noticed(
        self, store: Store, postgres: PostgresServer
    ) -> None:
        """A head that was set back cannot be written over its log; others are not touched."""
        ref, other = new_ref(), new_ref()
        for base in range(3):
            await put(store, new_commit(ref, base))
        await put(store, new_commit(other, 0))
        postgres.execute(
            "UPDATE maitred.aggregates SET version = 2 WHERE version = 3", url=self.url
        )
        answers = [start(store, new_commit(ref, 2)), start(store, new_commit(other, 1))]
        outcomes = [await answer for answer in answers]

        assert isinstance(outcomes[0], CorruptData)
        assert outcomes[1] == Committed()

    async def test_a_foreign_cursor_is_refused(self, store: Store) -> None:
        """What is no cursor of this engine is a ValueError, as with the other engines."""
        for cursor in (b"x", bytes(8) * 2):
            with pytest.raises(ValueError, match="no cursor"):
                await store.feed(cursor, 1)

    async def test_a_backup_names_what_to_use(self, store: Store, tmp_path: Path) -> None:
        """The refusal says how a PostgreSQL database is backed up."""
        with pytest.raises(StoreUnavailable, match=r"pg_dump.*docs/postgresql\.md"):
            await store.backup(tmp_path / "copy", lambda done, total: None)

    async def test_many_reads_at_once_share_statements(self, store: Store) -> None:
        """Heads that are asked for together come together, each with what it was asked for."""
        appends = [new_append(new_ref(), 0) for _ in range(300)]
        for answer in [start(store, Commit((append,))) for append in appends]:
            await answer
        reads = [store.load(append.ref, append.request_id) for append in appends]
        absent = [store.load(new_ref()) for _ in range(10)]
        found = await asyncio.gather(*reads)

        assert [loaded and loaded.body for loaded in found] == [a.body for a in appends]
        assert all(loaded and loaded.request_event for loaded in found)
        assert await asyncio.gather(*absent) == [None] * 10


async def test_a_full_queue_answers_store_full(postgres: PostgresServer) -> None:
    """Beyond the bound a commit is refused at once, but not inside `submit`."""
    store = PostgresStore(postgres.create_database(), queue_commits=3)
    await store.open()
    answers = [start(store, new_commit(new_ref(), 0)) for _ in range(5)]
    assert not any(answer.done() for answer in answers)
    outcomes = [await answer for answer in answers]

    assert outcomes[:3] == [Committed()] * 3
    assert all(isinstance(outcome, StoreFull) for outcome in outcomes[3:])
    assert await put(store, new_commit(new_ref(), 0)) == Committed()
    await store.close()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRESQL"])
def test_postgres_urls(scheme: str) -> None:
    """Both names of libpq's URLs are known, and our own parameters beside libpq's."""
    store = create_store(f"{scheme}://u:p@a:1,b:2/db?sslmode=require&pool_size=3&prepare=no")

    assert isinstance(store, PostgresStore)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@h/db?nonsense=1", "postgresql://u:secret@h/db?pool_size=0"],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    """The error is one line that may be logged."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        create_store(url)

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
