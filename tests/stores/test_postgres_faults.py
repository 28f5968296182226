"""When connections, backends or the whole PostgreSQL end under a store."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Opener, PostgresServer, gate, opening, running_postgres

from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Append,
    Commit,
    Committed,
    Conflict,
    Outcome,
    OutcomeUnknown,
    Ref,
    Replayed,
    Store,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.postgres import PostgresStore
from maitred.server.stores.postgres.errors import is_lost
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)

_PATIENCE_S = 30


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def url(mortal: PostgresServer) -> str:
    """Name an empty database."""
    return mortal.create_database()


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    """Open stores that are closed at the end."""
    async with opening() as opener:
        yield opener


@pytest.fixture
async def proxy(mortal: PostgresServer) -> AsyncIterator[Proxy]:
    """A network between a store and the server."""
    async with Proxy(mortal.address) as between:
        yield between


def _through(proxy: Proxy, url: str) -> str:
    database = url.partition("?")[0].rpartition("/")[2]
    # No TLS is asked for, so that what goes over the wire is only what the store says.
    return f"postgresql://maitred@{proxy.address}/{database}?sslmode=disable&gssencmode=disable"


async def settle(store: Store, commit: Commit) -> Outcome | StoreError:
    """Submit a commit as the engine does: again, the identical one, while it is unknown."""
    while True:
        outcome = await put(store, commit)
        if not isinstance(outcome, OutcomeUnknown):
            return outcome
        await asyncio.sleep(0.02)


async def _available(store: PostgresStore) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                await store.versions([new_ref()])
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def _check(store: PostgresStore, acknowledged: dict[Ref, list[Append]]) -> None:
    """Every acknowledged append is in its log, once; nothing else is; heads and feed agree."""
    # After a connection that failed the store refuses for a moment.
    await _available(store)
    feed: Counter[tuple[Ref, int]] = Counter()
    after = b""
    while page := await store.feed(after, 500):
        feed.update((event.ref, event.version) for event in page)
        after = page[-1].cursor
    for ref, appends in acknowledged.items():
        events = await store.events(ref, 0, 10_000)
        assert [event.commit_id for event in events] == [append.commit_id for append in appends]
        assert [event.facts for event in events] == [append.facts for append in appends]
        assert (await store.versions([ref])) == {ref: len(appends)}
        assert all(feed[ref, event.version] == 1 for event in events)
    assert sum(feed.values()) == sum(len(appends) for appends in acknowledged.values())


class Traffic:
    """Guests who write all the time and count what was acknowledged."""

    def __init__(self, stores: list[PostgresStore], guests: int) -> None:
        self._stores = stores
        self.acknowledged: dict[Ref, list[Append]] = {new_ref(): [] for _ in range(guests)}
        self.outcomes: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._guest(ref, number))
            for number, ref in enumerate(self.acknowledged)
        ]

    @property
    def total(self) -> int:
        """How many appends were acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    async def grow(self, by: int) -> None:
        """Wait for more to be acknowledged."""
        wanted = self.total + by
        async with asyncio.timeout(_PATIENCE_S):
            while self.total < wanted:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Let everybody finish what is under way."""
        self._stop.set()
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*self._tasks)

    async def _guest(self, ref: Ref, number: int) -> None:
        rng = random.Random(number)
        done = self.acknowledged[ref]
        while not self._stop.is_set():
            append = new_append(ref, len(done))
            claims = (new_claim(),) if number % 3 == 0 else ()
            store = rng.choice(self._stores)
            outcome = await settle(store, Commit((append,), claims=claims))
            self.outcomes[type(outcome).__name__] += 1
            if outcome == Committed():
                done.append(append)
            else:
                # Certainly not applied: the next try is another commit on the same base.
                assert isinstance(outcome, StoreUnavailable), outcome
                await asyncio.sleep(0.01)


async def test_backends_that_are_terminated_lose_nothing(
    mortal: PostgresServer, url: str, opened: Opener
) -> None:
    """Connections cut under commits: everything acknowledged is there, nothing is doubled."""
    stores = [await opened(url) for _ in range(2)]
    traffic = Traffic(stores, guests=12)
    for _ in range(25):
        await traffic.grow(40)
        mortal.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'maitred' AND datname = current_database()",
            url=url,
        )
    await traffic.grow(40)
    await traffic.stop()

    assert traffic.outcomes["Committed"] > 1000
    await _check(stores[0], traffic.acknowledged)


async def test_a_session_that_the_server_ended_is_lost_before_libpq_notices(
    mortal: PostgresServer, url: str
) -> None:
    """The farewell may follow the answer to a COMMIT and precede the end of the connection."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as alive:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as ended:
            mortal.execute("SELECT pg_terminate_backend(%s)", ended.info.backend_pid)
            with pytest.raises(psycopg.errors.AdminShutdown) as farewell:
                await ended.execute("SELECT 1")
        with pytest.raises(psycopg.errors.DivisionByZero) as mistake:
            await alive.execute("SELECT 1 / 0")

        assert is_lost(alive, farewell.value)
        assert not is_lost(alive, mistake.value)


async def test_commits_that_fail_spoil_none_that_follow(url: str, opened: Opener) -> None:
    """However often, and at whatever statement: psycopg knows what is prepared on a connection."""
    store = await opened(url)
    good, bad = new_ref(), new_ref()
    bases = {good: 0, bad: 0}
    for ref in bases:
        bases[ref] += await put(store, new_commit(ref, 0)) == Committed()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        await admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE check_violation; END$$"
        )
        await admin.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON maitred.events FOR EACH ROW"
            f" WHEN (new.id = '{bad.id}') EXECUTE FUNCTION refuse()".encode()
        )
    outcomes = []
    rng = random.Random(1)
    for _ in range(60):
        ref = rng.choice((good, bad))
        rows = (new_row(Table.ORDERS, ref),) if rng.random() < 0.5 else ()
        outcome = await put(store, Commit((new_append(ref, bases[ref]),), rows=rows))
        bases[ref] += outcome == Committed()
        outcomes.append((ref, str(outcome)))

    assert {text for ref, text in outcomes if ref == good} == {str(Committed())}
    assert all("refused" in text for ref, text in outcomes if ref == bad)


async def test_what_a_pooler_forgets_is_prepared_anew(url: str, opened: Opener) -> None:
    """Statements that are gone from a connection, as behind a pooler, cost another connection."""
    store = await opened(url, pool_size=1)
    ref = new_ref()
    await put(store, new_commit(ref, 0))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        await admin.execute(
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN new; END$$"
        )
        for table in ("events", "leases"):
            await admin.execute(
                f"CREATE TRIGGER forget AFTER INSERT OR UPDATE ON maitred.{table}"
                " FOR EACH ROW EXECUTE FUNCTION forget()".encode()
            )
    outcomes = [await put(store, new_commit(ref, base)) for base in range(1, 6)]
    leases = [await store.lease("a", "me", 60) for _ in range(3)]
    versions = await store.versions([ref])

    assert outcomes == [Committed()] * 5
    assert all(leases)
    assert versions == {ref: 6}


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_crash_of_the_database_loses_nothing_acknowledged(
    mortal: PostgresServer, url: str, opened: Opener, how: str
) -> None:
    """It comes back, the stores go on by themselves: 0 acknowledged lost, 0 doubled."""
    stores = [await opened(url) for _ in range(2)]
    traffic = Traffic(stores, guests=12)
    for _ in range(3):
        await traffic.grow(100)
        if how == "killed":
            mortal.crash()
        else:
            mortal.stop("immediate")
            mortal.start()
        for store in stores:
            await _available(store)
    await traffic.grow(100)
    await traffic.stop()

    await _check(stores[1], traffic.acknowledged)


async def test_while_the_database_is_away_calls_fail_quickly_and_then_go_on(
    mortal: PostgresServer, url: str, opened: Opener
) -> None:
    """Unavailable is said at once, not after a timeout; no restart is needed afterwards."""
    store = await opened(url)
    ref = new_ref()
    await put(store, new_commit(ref, 0))
    changes = store.changed({ref: 1})
    hint = asyncio.ensure_future(anext(changes))
    mortal.stop()
    try:
        began = time.monotonic()
        for _ in range(5):
            outcome = await put(store, new_commit(new_ref(), 0))
            assert isinstance(outcome, OutcomeUnknown | StoreUnavailable)
            for read in (store.load(ref), store.versions([ref]), store.feed(b"", 1)):
                with pytest.raises(StoreUnavailable):
                    await read
            with pytest.raises(StoreUnavailable):
                await store.due(0, 1, "a", 1)
        took = time.monotonic() - began
    finally:
        mortal.start()
    await _available(store)

    assert took < 5
    assert await settle(store, new_commit(ref, 1)) == Committed()
    assert await asyncio.wait_for(hint, _PATIENCE_S) == {ref}
    await changes.aclose()  # type: ignore[attr-defined]  # an async generator


@pytest.mark.parametrize("shape", ["plain", "with a claim"])
async def test_a_lost_reply_is_resolved_by_the_identical_commit(
    proxy: Proxy, url: str, opened: Opener, shape: str
) -> None:
    """Applied, but the answer did not come: unknown; submitted again it is Committed, once."""
    near = await opened(url)
    far = await opened(_through(proxy, url), hints=False)
    claims = (new_claim(),) if shape == "with a claim" else ()
    ref = new_ref()
    await put(far, new_commit(ref, 0))
    append = new_append(ref, 1)
    async with gate(url, ref.id) as closed:
        answer = start(far, Commit((append,), claims=claims))
        await closed.reached()
        proxy.drop_replies = True
        await closed.lift()
        while (await near.versions([ref])) == {ref: 1}:
            await asyncio.sleep(0.005)
        proxy.cut()
        outcome = await answer
        proxy.drop_replies = False

    assert isinstance(outcome, OutcomeUnknown)
    assert await settle(far, Commit((append,), claims=claims)) == Committed()
    assert await settle(far, Commit((append,), claims=claims)) == Committed()
    assert len(await near.events(ref, 0, 9)) == 2


async def test_an_unknown_commit_stays_unknown_while_nothing_is_known(
    proxy: Proxy, url: str, opened: Opener
) -> None:
    """A later attempt that cannot be made does not turn unknown into not applied."""
    near = await opened(url)
    far = await opened(_through(proxy, url), hints=False)
    ref = new_ref()
    for base in range(2):
        # The second time too: to prepare its statement takes an answer.
        await put(far, new_commit(ref, base))
    commit, other = new_commit(ref, 2), new_commit(new_ref(), 0)
    proxy.drop_replies = True
    answer = start(far, commit)
    while (await near.versions([ref])) == {ref: 2}:
        await asyncio.sleep(0.005)
    proxy.refuse = True
    proxy.cut()
    first = await answer
    again = [await put(far, commit) for _ in range(3)]
    fresh = await put(far, other)
    proxy.refuse = proxy.drop_replies = False

    assert isinstance(first, OutcomeUnknown)
    assert all(isinstance(outcome, OutcomeUnknown) for outcome in again)
    assert isinstance(fresh, StoreUnavailable)
    assert await settle(far, commit) == Committed()


async def test_an_unknown_commit_that_never_arrived_is_applied_by_the_next(
    proxy: Proxy, url: str, opened: Opener
) -> None:
    """Cut before the server heard of it: the identical commit is then simply written."""
    far = await opened(_through(proxy, url), hints=False)
    ref = new_ref()
    await put(far, new_commit(ref, 0))
    proxy.delay = 0.2
    append = new_append(ref, 1)
    answer = start(far, Commit((append,)))
    await asyncio.sleep(0.05)
    proxy.cut()
    outcome = await answer
    proxy.delay = 0

    assert isinstance(outcome, OutcomeUnknown | StoreUnavailable)
    assert await settle(far, Commit((append,))) == Committed()
    assert [event.commit_id for event in await far.events(ref, 1, 9)] == [append.commit_id]


async def test_an_attempt_that_is_still_under_way_is_waited_for(
    proxy: Proxy, url: str, opened: Opener
) -> None:
    """Submitted again while the server still works on the first attempt, it is Committed, once."""
    near = await opened(url)
    far = await opened(_through(proxy, url), hints=False)
    ref = new_ref()
    await put(far, new_commit(ref, 0))
    append = new_append(ref, 1)
    async with gate(url, ref.id) as closed:
        answer = start(far, Commit((append,)))
        await closed.reached()
        proxy.cut()
        assert isinstance(await answer, OutcomeUnknown)
        again = asyncio.create_task(settle(far, Commit((append,))))
        await closed.lift()
        assert await again == Committed()

    assert [event.commit_id for event in await near.events(ref, 1, 9)] == [append.commit_id]


async def test_what_others_did_meanwhile_settles_an_unknown_commit(
    proxy: Proxy, url: str, opened: Opener
) -> None:
    """Overtaken by a rival it is a conflict, overtaken by its own request a replay."""
    near = await opened(url)
    far = await opened(_through(proxy, url), hints=False)
    for same_request in (False, True):
        ref = new_ref()
        await put(far, new_commit(ref, 0))
        append = new_append(ref, 1)
        proxy.delay = 0.2
        answer = start(far, Commit((append,)))
        await asyncio.sleep(0.05)
        proxy.cut()
        await answer
        proxy.delay = 0
        rival = new_append(ref, 1)
        if same_request:
            rival = rival._replace(request_id=append.request_id)
        assert await put(near, Commit((rival,))) == Committed()
        settled = await settle(far, Commit((append,)))
        expected: Outcome = Conflict(ref, 2, rival.commit_id)
        if same_request:
            expected = Replayed(ref, 2, rival.fingerprint)
        assert settled == expected


async def test_a_server_that_hears_nothing_more_cuts_the_connection(
    proxy: Proxy, url: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer does not come in time is unknown, and the next connection is new."""
    monkeypatch.setattr("maitred.server.stores.postgres.writer.COMMIT_S", 0.3)
    monkeypatch.setattr("maitred.server.stores.postgres.connection.DEADLINE_S", 0.3)
    far = await opened(_through(proxy, url), hints=False)
    ref = new_ref()
    await put(far, new_commit(ref, 0))
    proxy.drop_replies = True
    outcome = await put(far, commit := new_commit(ref, 1))
    with pytest.raises(StoreUnavailable):
        await far.load(ref)
    proxy.drop_replies = False
    await _available(far)

    assert isinstance(outcome, OutcomeUnknown)
    assert await settle(far, commit) == Committed()


async def test_a_read_that_is_cancelled_leaves_its_connection_usable(
    url: str, opened: Opener
) -> None:
    """Callers come and go; what they asked for is read to its end, and the pool stays whole."""
    store = await opened(url, pool_size=2)
    ref = new_ref()
    await put(store, new_commit(ref, 0))
    for turn in range(50):
        reads: list[asyncio.Future[Any]] = []
        for _ in range(4):
            reads.append(asyncio.ensure_future(store.events(ref, 0, 9)))
            reads.append(asyncio.ensure_future(store.load(ref)))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        for read in reads[: turn % 7]:
            read.cancel()
        kept = await asyncio.gather(*reads[turn % 7 :])
        assert all(kept)


async def test_a_deletion_survives_the_loss_of_its_connection(
    mortal: PostgresServer, url: str, opened: Opener
) -> None:
    """Unknown, it is asked for again until it is known, and then nothing is left."""
    store = await opened(url)
    ref = new_ref()
    for base in range(1200):
        answer = start(store, new_commit(ref, base, facts=b"", personal=None, body=b""))
    await answer
    last = new_append(ref, 1200)
    forgetting = asyncio.ensure_future(store.forget(ref, 1200, last))
    while (await store.versions([ref])) == {ref: 1200}:
        await asyncio.sleep(0)
    mortal.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'maitred' AND datname = current_database()",
        url=url,
    )
    (outcome,) = await asyncio.gather(forgetting, return_exceptions=True)
    while isinstance(outcome, OutcomeUnknown):
        (outcome,) = await asyncio.gather(store.forget(ref, 1200, last), return_exceptions=True)

    assert outcome == Committed()
    assert [event.version for event in await store.events(ref, 0, 9999)] == [1201]
    assert mortal.execute("SELECT count(*) FROM maitred.events", url=url) == [(1,)]
    assert mortal.execute("SELECT count(*) FROM maitred.forgetting", url=url) == [(0,)]


async def test_a_database_that_is_not_there_is_unavailable(mortal: PostgresServer) -> None:
    """`open` says what it could not reach; the store can be opened later."""
    store = PostgresStore(mortal.url("nowhere"))

    with pytest.raises(StoreUnavailable, match="nowhere"):
        await store.open()
    mortal.execute("CREATE DATABASE nowhere")
    await store.open()
    await store.close()
