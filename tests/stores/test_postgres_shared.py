"""Several stores on one PostgreSQL: nothing is lost, doubled, deadlocked or overlooked."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.support.postgres import Opener, gate, opening

from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import (
    ClaimTaken,
    Commit,
    Committed,
    Conflict,
    Ref,
    RowFilter,
    SchemaTooNew,
    StoredEvent,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.postgres import PostgresStore
from maitred.server.stores.postgres.columns import register
from maitred.server.stores.postgres.schema import prepare
from maitred.server.stores.postgres.sql import load_migrations, parse_migration
from maitred.server.testing.samples import new_append, new_claim, new_commit, new_ref, put, start

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

_SECOND = 10**9


Pair = tuple[PostgresStore, PostgresStore]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """Name an empty database."""
    return postgres.create_database()


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Opener]:
    """Open stores on one database; they are closed at the end."""
    async with opening() as opener:
        yield partial(opener, url)


@pytest.fixture
async def pair(
    opened: Opener,
) -> tuple[PostgresStore, PostgresStore]:
    """Two stores on one database."""
    return await opened(), await opened()


async def _whole_feed(
    store: PostgresStore, after: bytes = b"", limit: int = 7
) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while page := await store.feed(after, limit):
        found += page
        after = page[-1].cursor
    return found


async def test_what_one_store_commits_the_other_reads_at_once(pair: Pair) -> None:
    """Reads are linearizable: they see every commit acknowledged anywhere before them."""
    first, second = pair
    ref = new_ref()
    for base in range(0, 40, 2):
        for writer, reader, at in ((first, second, base), (second, first, base + 1)):
            append = new_append(ref, at)
            assert await put(writer, Commit((append,))) == Committed()
            loaded = await reader.load(ref, append.request_id)
            assert loaded is not None
            assert loaded.version == at + 1
            assert loaded.request_event is not None
            assert await reader.versions([ref]) == {ref: at + 1}


async def test_a_storm_of_rivals_on_two_stores_loses_nothing(pair: Pair) -> None:
    """Of all who decided on one version exactly one wins; the log is theirs, in order."""
    refs = [new_ref() for _ in range(5)]
    for ref in refs:
        await put(pair[0], new_commit(ref, 0))
    won: dict[Ref, list[tuple[int, bytes]]] = {ref: [] for ref in refs}

    async def rival(store: PostgresStore, ref: Ref) -> None:
        while (base := (await store.versions([ref]))[ref]) < 30:
            append = new_append(ref, base)
            outcome = await put(store, Commit((append,)))
            if outcome == Committed():
                won[ref].append((base + 1, append.commit_id))
            else:
                assert isinstance(outcome, Conflict)
                assert outcome.version > base

    await asyncio.gather(*(rival(store, ref) for ref in refs for store in pair * 3))
    for ref in refs:
        log = [(event.version, event.commit_id) for event in await pair[1].events(ref, 1, 99)]
        assert sorted(won[ref]) == log
        assert [version for version, _ in log] == list(range(2, 31))


async def test_overlapping_batches_never_deadlock(
    pair: Pair, postgres: PostgresServer, url: str
) -> None:
    """Two servers whose batches hold the same aggregates in any order wait in one line."""
    refs = [new_ref() for _ in range(40)]
    for ref in refs:
        await put(pair[0], new_commit(ref, 0))
    rng = random.Random(7)
    outcomes: Counter[str] = Counter()

    async def storm(store: PostgresStore) -> None:
        for turn in range(25):
            known = await store.versions(refs)
            chosen = rng.sample(refs, len(refs))
            commits = [new_commit(ref, known[ref]) for ref in chosen]
            if turn % 3 == 0:
                # Of several aggregates and keys each, so that both ways of committing meet.
                commits = [
                    Commit(
                        tuple(new_append(ref, known[ref]) for ref in chosen[at : at + 4]),
                        claims=(new_claim(owner="x")._replace(key=f"key {turn} {at % 8}"),),
                    )
                    for at in range(0, len(chosen), 4)
                ]
            for answer in [start(store, commit) for commit in commits]:
                outcomes[type(await answer).__name__] += 1

    await asyncio.gather(*(storm(store) for store in pair))
    await asyncio.gather(*(store.close() for store in pair))
    total = sum(_versions(postgres, url).values())

    assert set(outcomes) <= {"Committed", "Conflict"}
    assert outcomes["Committed"] > 200
    assert total > len(refs)
    assert await _deadlocks(postgres, url) == 0


async def test_batches_that_wait_for_one_another_wait_in_line(
    pair: Pair, postgres: PostgresServer, url: str
) -> None:
    """Both stopped halfway by a third, they go on without a deadlock, whatever their order."""
    refs = [new_ref() for _ in range(40)]
    for ref in refs:
        await put(pair[0], new_commit(ref, 0))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    for turn in range(8):
        known = await pair[0].versions(refs)
        async with await psycopg.AsyncConnection.connect(url) as operator:
            statement = "SELECT 1 FROM maitred.aggregates WHERE id = %s FOR UPDATE"
            await operator.execute(statement, (sorted(refs)[turn * 4 + 3].id,))
            batches = [
                [start(store, new_commit(ref, known[ref])) for ref in chosen]
                for store, chosen in zip(pair, (refs, refs[::-1]), strict=True)
            ]
            while (await (await operator.execute(waiting)).fetchone()) != (2,):
                await asyncio.sleep(0.005)
        outcomes = [type(await answer).__name__ for batch in batches for answer in batch]
        assert Counter(outcomes) == {"Committed": 40, "Conflict": 40}
    await asyncio.gather(*(store.close() for store in pair))

    assert await _deadlocks(postgres, url) == 0


async def _deadlocks(postgres: PostgresServer, url: str) -> int:
    """Count deadlocks, once every backend has ended and has told of its own."""
    alive = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'maitred' AND datname ="
    while postgres.execute(f"{alive} current_database()", url=url) != [(0,)]:
        await asyncio.sleep(0.01)
    counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ((deadlocks,),) = postgres.execute(counted, url=url)
    return int(deadlocks)


def _versions(postgres: PostgresServer, url: str) -> dict[str, int]:
    """Read the versions of all heads; each must have as many events."""
    rows = postgres.execute("SELECT id, version FROM maitred.aggregates", url=url)
    logged = postgres.execute(
        "SELECT id, max(version), count(*) FROM maitred.events GROUP BY id", url=url
    )
    assert {name: (last, count) for name, last, count in logged} == {
        name: (version, version) for name, version in rows
    }
    return dict(rows)


async def test_a_claim_raced_for_on_two_stores_has_one_owner(pair: Pair) -> None:
    """Rivals for a new key, each creating an aggregate, get one owner and all see who."""
    for _ in range(20):
        claim = new_claim()
        commits = [
            Commit((new_append(new_ref(), 0),), claims=(claim._replace(owner=f"{number}"),))
            for number in range(6)
        ]
        answers = await asyncio.gather(
            *(put(pair[number % 2], commit) for number, commit in enumerate(commits))
        )
        held = await pair[0].claim(claim.space, claim.key)

        assert held is not None
        assert answers[int(held.owner)] == Committed()
        taken = ClaimTaken(claim.space, claim.key, held.owner)
        assert sum(answer == taken for answer in answers) == 5


async def test_rivals_for_one_new_aggregate_make_one(pair: Pair) -> None:
    """Whoever creates second conflicts with what the first made, in whatever company."""
    for _ in range(20):
        ref = new_ref()
        rivals = [new_append(ref, 0) for _ in range(4)]
        company = [new_commit(new_ref(), 0) for _ in range(4)]
        answers = [start(pair[at % 2], Commit((append,))) for at, append in enumerate(rivals)]
        others = [start(pair[at % 2], commit) for at, commit in enumerate(company)]
        outcomes = [await answer for answer in answers]
        winner = rivals[outcomes.index(Committed())]

        assert outcomes.count(Committed()) == 1
        assert outcomes.count(Conflict(ref, 1, winner.commit_id)) == 3
        assert [await other for other in others] == [Committed()] * 4


async def test_a_replay_is_found_while_the_original_is_committing(pair: Pair) -> None:
    """The same request on two servers at once has one effect, and both learn of it."""
    ref = new_ref()
    await put(pair[0], new_commit(ref, 0))
    for base in range(1, 30):
        append = new_append(ref, base)
        retry = append._replace(commit_id=bytes(16))
        answers = await asyncio.gather(
            put(pair[0], Commit((append,))), put(pair[1], Commit((retry,)))
        )
        assert Committed() in answers
        assert {type(answer).__name__ for answer in answers} == {"Committed", "Replayed"}


# ------------------------------------------------------------------------------------------- feed


async def test_the_feed_waits_for_a_commit_that_is_slower_than_a_later_one(
    pair: Pair, url: str
) -> None:
    """A transaction that took its position early and commits late is not stepped over."""
    first, second = pair
    slow, fast = new_ref(), new_ref()
    await put(first, new_commit(slow, 0))
    await put(second, new_commit(fast, 0))
    after = await first.feed_end()
    async with gate(url, slow.id) as closed:
        answer = start(first, new_commit(slow, 1))
        await closed.reached()
        assert await put(second, new_commit(fast, 1)) == Committed()
        early = await second.feed(after, 10)
        assert not answer.done()
        await closed.lift()
        assert await answer == Committed()
    late = await second.feed(early[-1].cursor, 10)

    assert [(event.ref, event.version) for event in early] == [(fast, 2)]
    assert [(event.ref, event.version) for event in late] == [(slow, 2)]
    assert await second.feed(late[-1].cursor, 10) == []


async def test_the_feed_read_while_three_stores_write_misses_nothing(
    opened: Opener,
) -> None:
    """Every event comes, once, in version order within its aggregate, on whatever server it was."""
    stores = [await opened() for _ in range(3)]
    refs = [new_ref() for _ in range(12)]
    for ref in refs:
        await put(stores[0], new_commit(ref, 0))
    done = asyncio.Event()
    seen: list[StoredEvent] = []

    async def follow() -> None:
        after, last = b"", False
        while True:
            page = await stores[0].feed(after, 5)
            seen.extend(page)
            if page:
                after = page[-1].cursor
            elif last:
                return
            # One more look behind the last commit.
            last = done.is_set()

    async def write(ref: Ref, seed: int) -> None:
        rng = random.Random(seed)
        for base in range(1, 40):
            assert await put(rng.choice(stores), new_commit(ref, base)) == Committed()

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(write(ref, seed) for seed, ref in enumerate(refs)))
    done.set()
    await follower

    for ref in refs:
        assert [event.version for event in seen if event.ref == ref] == list(range(1, 41))
    again = await _whole_feed(stores[1])
    assert [(event.ref, event.version) for event in again if event.version > 39] != []
    assert len(again) == len(seen) == 12 * 40


async def test_stores_that_share_a_lane_lose_nothing(
    opened: Opener, postgres: PostgresServer, url: str
) -> None:
    """Where there are more servers than lanes, two write in one: slower, and as right."""
    first = await opened()
    postgres.execute(
        "INSERT INTO maitred.leases SELECT 1, 2::bigint ^ 62, 'maitred lane ' || n, 'another'"
        " FROM generate_series(1, 63) n",
        url=url,
    )
    postgres.execute("UPDATE maitred.leases SET expires_ns = 2::bigint ^ 62", url=url)
    second, third = await opened(), await opened()
    refs = [new_ref() for _ in range(20)]

    async def write(store: PostgresStore, ref: Ref) -> None:
        for base in range(10):
            assert await put(store, new_commit(ref, base)) == Committed()

    stores = (first, second, third)
    await asyncio.gather(*(write(stores[at % 3], ref) for at, ref in enumerate(refs)))
    feed = await _whole_feed(first)

    for ref in refs:
        assert [event.version for event in feed if event.ref == ref] == list(range(1, 11))


# ------------------------------------------------------------------------------- timers and hints


async def test_no_two_stores_are_handed_the_same_aggregate(pair: Pair) -> None:
    """Due aggregates are parted between those who ask at the same time."""
    now = time.time_ns()
    refs = [new_ref() for _ in range(60)]
    for answer in [start(pair[0], new_commit(ref, 0, wake_at_ns=now)) for ref in refs]:
        await answer
    taken = await asyncio.gather(*(pair[at % 2].due(now, 10, f"owner {at}", 30) for at in range(8)))
    handed = [ref for refs in taken for ref in refs]

    assert sorted(handed) == sorted(set(handed))
    assert len(handed) + len(await pair[0].due(now, 99, "last", 30)) == len(refs)
    assert await pair[1].due(now, 99, "late", 30) == []


async def test_a_wake_time_moved_while_it_is_taken_is_never_late(pair: Pair) -> None:
    """Whatever `due` and commits do at the same time, the alarm is not later than the truth."""
    now = time.time_ns()
    ref = new_ref()
    await put(pair[0], new_commit(ref, 0, wake_at_ns=now))
    for base in range(1, 60):
        wake = now + random.Random(base).randrange(_SECOND)
        await asyncio.gather(
            put(pair[0], new_commit(ref, base, wake_at_ns=wake)),
            pair[1].due(now + _SECOND // 2, 10, "a", 0.001),
        )
        loaded, alarm = await pair[0].load(ref), await pair[0].next_wake()
        assert loaded is not None
        assert loaded.wake_at_ns == wake
        assert alarm is not None
        assert alarm <= max(wake, now + _SECOND // 2 + 1_000_000)


async def test_a_lease_is_held_by_one_store(pair: Pair) -> None:
    """Rivals on two servers: one holds it; ended, it goes on with a greater token."""
    for turn in range(5):
        name = f"lease {turn}"
        taken = await asyncio.gather(
            *(pair[at % 2].lease(name, f"owner {at}", 60) for at in range(6))
        )
        held = [lease for lease in taken if lease is not None]
        assert len(held) == 1
        ended = await pair[0].lease(name, held[0].owner, 0)
        assert ended is not None
        after = await pair[1].lease(name, "next", 60)
        assert after is not None
        assert after.token > held[0].token


@pytest.mark.parametrize("hints", [True, False])
async def test_a_commit_wakes_who_listens_at_another_store(opened: Opener, hints: bool) -> None:
    """Half of all wake-ups take less than a tenth of a second, with hints or without."""
    first, second = await opened(hints=hints), await opened(hints=hints)
    ref, other = new_ref(), new_ref()
    await put(first, new_commit(ref, 0))
    await put(first, new_commit(other, 0))
    known = {ref: 1}
    changes = second.changed(known)
    took = []
    for base in range(1, 12):
        hint = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.03 * (base % 4))
        began = time.monotonic()
        await put(first, new_commit(other, base))
        await put(first, new_commit(ref, base))
        # A hint may repeat an earlier one.
        while await asyncio.wait_for(hint, 10) != {ref} or (await second.versions([ref])) == known:
            hint = asyncio.ensure_future(anext(changes))
        took.append(time.monotonic() - began)
        known[ref] = base + 1
    await changes.aclose()  # type: ignore[attr-defined]  # an async generator

    assert sorted(took)[len(took) // 2] < 0.1


async def test_a_deletion_wakes_who_listens_at_another_store(pair: Pair) -> None:
    """A tombstone is a change like any other."""
    ref = new_ref()
    await put(pair[0], new_commit(ref, 0))
    changes = pair[1].changed({ref: 1})
    hint = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    assert await pair[0].forget(ref, 1, new_append(ref, 1)) == Committed()

    assert await asyncio.wait_for(hint, 10) == {ref}
    await changes.aclose()  # type: ignore[attr-defined]  # an async generator


# ----------------------------------------------------------------------------- schema and opening


async def test_stores_that_open_at_once_migrate_once(url: str, postgres: PostgresServer) -> None:
    """Any number of servers may meet an empty database at the same time; all agree on it."""
    stores = [PostgresStore(url) for _ in range(6)]
    infos = await asyncio.gather(*(store.open() for store in stores))
    meta = dict(postgres.execute("SELECT name, value FROM maitred.meta", url=url))
    outcomes = [await put(store, new_commit(new_ref(), 0)) for store in stores]
    for store in stores:
        await store.close()

    newest = load_migrations()[-1].number
    assert {info.epoch for info in infos} == {bytes.fromhex(meta["epoch"])}
    assert {info.schema for info in infos} == {newest}
    assert outcomes == [Committed()] * 6
    assert not infos[0].exclusive


async def test_an_older_server_works_on_a_schema_that_still_suits_it(
    url: str, opened: Opener
) -> None:
    """Expanded, a schema serves both versions; contracted, it refuses the older one in words."""
    old = await opened()
    newest = load_migrations()[-1].number
    script = "CREATE TABLE IF NOT EXISTS maitred.extra (n bigint);\n"
    expand = parse_migration(
        f"{newest + 1:04}_expand.sql", f"-- minimum server: {newest}\n{script}"
    )
    contract = parse_migration(
        f"{newest + 2:04}_contract.sql",
        f"-- minimum server: {newest + 1}\nDROP TABLE IF EXISTS maitred.extra;\n",
    )
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        register(connection)
        steps = [*load_migrations(), expand]
        found = await prepare(connection, clock_ns=time.time_ns, max_skew_s=1, migrations=steps)
        assert found.schema == newest + 1
        assert (await opened()) is not old
        await old.check()
        steps.append(contract)
        await prepare(connection, clock_ns=time.time_ns, max_skew_s=1, migrations=steps)

    assert await put(old, new_commit(new_ref(), 0)) == Committed()
    for refused in (old.check, opened):
        with pytest.raises(SchemaTooNew, match=f"needs a maitred that knows schema {newest + 1}"):
            await refused()


async def test_a_deletion_of_an_older_version_keeps_what_that_one_did(
    url: str, opened: Opener
) -> None:
    """It recorded nothing: payments and ids of providers stay, everything else is deleted."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        register(connection)
        first = load_migrations()[:1]
        await prepare(connection, clock_ns=time.time_ns, max_skew_s=1, migrations=first)
        await connection.execute(
            """
            INSERT INTO maitred.forgetting (version, kind, id) VALUES (2, 1, 's');
            INSERT INTO maitred.claims (space, key, owner)
            VALUES ('provider', 'k', 's'), ('channel', 'k', 's');
            INSERT INTO maitred.projections
                (position, created_ns, status, flag, tab, kind, key, id, body)
            VALUES (1, 1, 0, 0, 1, 1, 'k', 's', ''), (2, 1, 0, 0, 2, 1, 'k', 's', '')
            """
        )
    store = await opened()
    claims = [claim.space for claim in await store.list_claims(None, 9)]
    rows = [len(await store.list_rows(table, RowFilter(), None, 9)) for table in (1, 2)]

    assert claims == ["provider"]
    assert rows == [1, 0]


async def test_a_clock_that_departs_is_noticed_while_serving(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the watchdog asks fails as long as the clocks differ, and no longer."""
    monkeypatch.setattr("maitred.server.stores.postgres.schema.SKEW_EVERY_S", 0.0)
    skew_s = 0
    store = PostgresStore(url, clock_ns=lambda: time.time_ns() + skew_s * _SECOND)
    await store.open()
    await store.check()
    for departed_s in (7200, -7200):
        skew_s = departed_s
        with pytest.raises(StoreUnavailable, match="let both follow a time server"):
            await store.check()
    skew_s = 0

    await store.check()
    await store.close()


@pytest.mark.parametrize("skew_s", [-5, 5])
async def test_a_clock_far_from_the_databases_is_refused(url: str, skew_s: int) -> None:
    """Wake times and expiries of servers must mean the same; the bound is the caller's."""
    off = PostgresStore(url, clock_ns=lambda: time.time_ns() + skew_s * _SECOND)
    with pytest.raises(StoreUnavailable, match=r"[45]\.\d+ s (behind|ahead of) the database's"):
        await off.open()
    patient = PostgresStore(url, clock_ns=lambda: time.time_ns() + skew_s * _SECOND, max_skew_s=10)
    await patient.open()
    await patient.close()


async def test_a_database_that_forgets_commits_is_refused(
    url: str, postgres: PostgresServer
) -> None:
    """With synchronous_commit off an acknowledgement means nothing; the error says what to do."""
    database = url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    store = PostgresStore(url)

    with pytest.raises(StoreError, match="synchronous_commit is off"):
        await store.open()


async def test_an_interrupted_deletion_is_finished_by_whoever_opens(
    url: str, opened: Opener, postgres: PostgresServer
) -> None:
    """What a server that ended left of a deletion, the next one deletes."""
    first = await opened()
    ref = Ref(SESSION, "gone")
    for base in range(3):
        await put(first, new_commit(ref, base))
    await first.forget(ref, 3, new_append(ref, 3))
    # As it was before the last piece: one event of the log is still there, and noted.
    columns = "lane, position - 64, time_ns, change, kind, id, commit_id, fingerprint, facts, chain"
    names = columns.replace(" - 64", "")
    postgres.execute(
        f"INSERT INTO maitred.events (version, {names}) SELECT 2, {columns} FROM maitred.events",
        url=url,
    )
    postgres.execute("INSERT INTO maitred.forgetting VALUES (4, 1, 'gone')", url=url)
    await opened()

    left = postgres.execute("SELECT version FROM maitred.events", url=url)
    assert left == [(4,)]
    assert postgres.execute("SELECT * FROM maitred.forgetting", url=url) == []


async def test_a_row_that_somebody_holds_keeps_up_no_other_commit(
    url: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's open transaction makes its own aggregate unavailable, and only that one."""
    monkeypatch.setattr(
        "maitred.server.stores.postgres.connection.SESSION", ("SET lock_timeout = '200ms'",)
    )
    store = await opened()
    refs = [new_ref() for _ in range(8)]
    for ref in refs:
        await put(store, new_commit(ref, 0))
    async with await psycopg.AsyncConnection.connect(url) as operator:
        statement = "SELECT 1 FROM maitred.aggregates WHERE id = %s FOR UPDATE"
        await operator.execute(statement, (refs[3].id,))
        outcomes = await asyncio.gather(*(put(store, new_commit(ref, 1)) for ref in refs))
    again = await put(store, new_commit(refs[3], 1))

    assert isinstance(outcomes.pop(3), StoreUnavailable)
    assert outcomes == [Committed()] * 7
    assert again == Committed()


def _manual() -> str:
    return (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text("utf-8")


async def test_a_restored_database_begins_another_history(
    url: str, opened: Opener, postgres: PostgresServer
) -> None:
    """The statement that the manual gives for after a restore mints a new epoch."""
    store = PostgresStore(url)
    before = await store.open()
    await store.close()
    (statement,) = re.findall(r"^UPDATE maitred\.meta .*;$", _manual(), re.MULTILINE)
    postgres.execute(statement, url=url)
    again = PostgresStore(url)
    after = await again.open()
    await again.close()

    assert len(after.epoch) == len(before.epoch) == 16
    assert after.epoch != before.epoch


async def test_a_server_that_owns_nothing_needs_few_privileges(
    url: str, opened: Opener, postgres: PostgresServer
) -> None:
    """With the grants of the manual a server of a role of its own does everything."""
    await opened()
    postgres.execute("CREATE ROLE maitred_servers LOGIN", url=url)
    for grant in re.findall(r"^GRANT .*;$", _manual(), re.MULTILINE):
        postgres.execute(grant, url=url)
    store = PostgresStore(url.replace("maitred@", "maitred_servers@"))
    await store.open()
    ref = new_ref()
    outcomes = [
        await put(store, Commit((new_append(ref, 0, wake_at_ns=1),), claims=(new_claim(),))),
        await put(store, new_commit(ref, 1)),
        await store.forget(ref, 2, new_append(ref, 2)),
    ]
    lease = await store.lease("sweeper", "me", 1)
    await store.close()

    assert outcomes == [Committed()] * 3
    assert lease is not None
