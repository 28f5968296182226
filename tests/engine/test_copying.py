"""Copying between stores: everything arrives, twice is as once, and what does not fit is named."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.redis import redis_server

from maitred.client import AsyncClient
from maitred.server.engine.copying import Copied, Copy
from maitred.server.kinds import all_kinds
from maitred.server.kinds.tables import Table
from maitred.server.stores import create_store
from maitred.server.stores.base import (
    SECRET_BYTES,
    Claim,
    Commit,
    HeadFilter,
    Loaded,
    Record,
    Ref,
    Row,
    RowFilter,
    Store,
    StoredEvent,
    StoreUnavailable,
)
from maitred.server.testing.faulty import FaultyStore
from maitred.server.testing.samples import new_append, new_ref, put
from maitred.server.testing.servers import running_server

__all__ = ["redis_server"]

ENGINES = ("memory", "sqlite", "postgres", "redis")

MENU = {
    "menu_id": "default",
    "currency": "USD",
    "items": [
        {"item_id": "tea", "name": "Tea", "price": {"minor_units": 300, "currency": "USD"}},
    ],
}


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Store]:
    """Yield the store of a bar that has closed: guests who paid, who did not, who were erased."""
    data = f"sqlite:{tmp_path / 'source.db'}"
    settings: dict[str, Any] = {"data": data, "simulated_outcome": "pay"}
    async with running_server(**settings) as server, AsyncClient(server.address) as client:
        await client.put_menu(menu=MENU)
        for number in range(8):
            guest = await client.create_session(labels={"table": str(number)})
            await guest.add_item("Tea", quantity=number + 1)
            await guest.place_order()
            if number % 2:
                await guest.create_payment()
                async for _ in guest.watch_payment(end_when_settled=True):
                    pass
            if number == 7:
                await guest.close()
                await guest.delete(reason="asked to")
    store = create_store(data)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return what names an empty store of an engine."""

    def make(engine: str) -> str:
        name = os.urandom(6).hex()
        match engine:
            case "postgres":
                return str(request.getfixturevalue("postgres").create_database())
            case "redis":
                return str(request.getfixturevalue("redis_server").url(f"copy-{name}"))
            case "sqlite":
                return f"sqlite:{tmp_path / name}.db"
        return "memory://"

    return make


async def copy(source: Store, target: Store) -> Copied:
    """Copy, with nobody watching."""
    # One secret for both, so that none is to be taken over.
    work = Copy(
        source,
        target,
        all_kinds(),
        lambda *_: None,
        secrets=(b"", bytes(SECRET_BYTES)),
        inbound_expires_ns=time.time_ns() + 10**12,
    )
    return await work.run()


@pytest.mark.parametrize("engine", ENGINES)
async def test_everything_arrives(
    source: Store, new_url: Callable[[str], str], engine: str
) -> None:
    """Heads, logs, rows and claims are the same, and a server goes on with them."""
    target = create_store(new_url(engine))
    await target.open()
    copied = await copy(source, target)
    payments = await target.list_rows(Table.PAYMENTS, RowFilter(), None, 50)
    originals = await source.list_rows(Table.PAYMENTS, RowFilter(), None, 50)
    await target.close()

    assert copied.problems == ()
    assert copied.aggregates == 9
    assert copied.rows >= 11
    assert copied.claims >= 4
    assert [row.key for row in payments] == [row.key for row in originals]


class Contents:
    """Everything that a store holds, but for what is a store's own: places and cursors."""

    def __init__(self) -> None:
        self.heads: dict[Ref, Loaded] = {}
        self.events: dict[Ref, list[StoredEvent]] = {}
        self.rows: list[Row] = []
        self.claims: list[Claim] = []
        self.listed: list[Ref] = []
        self.fed: list[tuple[Ref, int]] = []

    @classmethod
    async def of(cls, store: Store) -> Contents:
        """Read a store."""
        found = cls()
        async for record in store.scan():
            ref = record.loaded.ref
            found.heads[ref] = record.loaded
            # Only the newest commit id is promised; that one is in the head.
            found.events.setdefault(ref, []).extend(
                event._replace(commit_id=b"", cursor=b"") for event in record.events
            )
        for table in Table:
            rows = await store.list_rows(table, RowFilter(), None, 1000)
            found.rows += [row._replace(position=0) for row in rows]
        found.claims = await store.list_claims(None, 1000)
        for kind in {*all_kinds(), 2, 4}:
            heads = await store.list_heads(kind, HeadFilter(), None, 1000)
            found.listed += [head.ref for head in heads]
        found.fed = [(event.ref, event.version) for event in await store.feed(b"", 1000)]
        return found


@pytest.mark.parametrize(
    "way",
    [("postgres", "redis", "sqlite"), ("redis", "postgres", "memory"), ("memory", "sqlite")],
    ids="-".join,
)
async def test_nothing_is_lost_on_the_way(
    source: Store, new_url: Callable[[str], str], way: tuple[str, ...]
) -> None:
    """From engine to engine everything stays as it was, and in its order."""
    stores = [source]
    for engine in way:
        target = create_store(new_url(engine))
        await target.open()
        assert (await copy(stores[-1], target)).problems == ()
        stores.append(target)
    first, *others = [await Contents.of(store) for store in stores]
    for store in stores[1:]:
        await store.close()

    assert len(first.heads) == 9
    for other in others:
        assert other.heads == first.heads
        assert other.events == first.events
        assert other.rows == first.rows
        assert other.claims == first.claims
        assert other.listed == first.listed
        # Aggregates come one after the other, where the source had them side by side.
        assert sorted(other.fed) == sorted(first.fed)
        assert other.fed == others[0].fed


@pytest.mark.parametrize("engine", ENGINES[1:])
async def test_a_server_goes_on_with_what_was_copied(
    source: Store, new_url: Callable[[str], str], engine: str, tmp_path: Path
) -> None:
    """Lists are in their order, replays are found, the next order has the next number."""
    data = new_url(engine)
    target = create_store(data)
    await target.open()
    await copy(source, target)
    await target.close()
    books = str(tmp_path)
    async with (
        running_server(data=data, simulated_dir=books) as server,
        AsyncClient(server.address) as client,
    ):
        listed = [session async for session in client.list_sessions()]
        guest = client.session(listed[-1].session_id)
        await guest.add_item("Tea")
        order = await guest.place_order()
        report = await client.verify_audit(session_id=guest.session_id)

    assert [session.labels["table"] for session in listed] == ["6", "5", "4", "3", "2", "1", "0"]
    assert order.number == 2
    assert report.valid


class Interrupted(FaultyStore):
    """Loses its disk after so many batches."""

    def __init__(self, inner: Store, batches: int) -> None:
        super().__init__(inner)
        self._left = batches

    async def restore(self, records: Any) -> int:
        """Write one by one until the disk is gone."""
        for record in records:
            if not self._left:
                raise StoreUnavailable("the disk is gone")
            self._left -= 1
            await self.inner.restore([record])
        return len(records)


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_interrupted_copy_goes_on(
    source: Store, new_url: Callable[[str], str], engine: str
) -> None:
    """What was written stays, the rest follows, nothing is there twice."""
    target = create_store(new_url(engine))
    await target.open()
    with pytest.raises(StoreUnavailable):
        await copy(source, Interrupted(target, 3))
    half = await target.versions([record.loaded.ref async for record in source.scan()])
    copied = await copy(source, target)
    again = await copy(source, target)
    contents, originals = await Contents.of(target), await Contents.of(source)
    await target.close()

    assert contents.listed == originals.listed
    assert sorted(contents.fed) == sorted(originals.fed)
    assert len(half) == 3
    assert copied.problems == again.problems == ()
    assert copied == again


async def test_a_target_that_was_not_empty_is_named(source: Store) -> None:
    """Nothing of it is overwritten, and the difference is a problem."""
    target = create_store("memory://")
    await target.open()
    records: list[Record] = [record async for record in source.scan()]
    ref = records[1].loaded.ref
    await put(target, Commit((new_append(ref, 0),)))
    await put(target, Commit((new_append(new_ref(), 0),)))
    copied = await copy(source, target)
    await target.close()

    assert any(ref.id in problem and "head differs" in problem for problem in copied.problems)
    assert any("the target has" in problem for problem in copied.problems)


async def test_the_command_copies_and_says_what(source: Store, tmp_path: Path) -> None:
    """`maitred copy` answers 0 and one line; the same place twice is refused."""
    await source.close()
    where = [f"sqlite:{tmp_path / name}.db" for name in ("source", "target")]

    async def run(*arguments: str) -> tuple[int | None, str]:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "maitred.server", "copy"),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await program.communicate()
        return program.returncode, output.decode()

    done = await run(*where)
    same = await run(where[0], where[0])

    assert done[0] == 0, done[1]
    assert "9 aggregates" in done[1]
    assert "every head, event, chain and fold is the same" in done[1]
    assert same == (1, "maitred: source and target are the same\n")
