"""Moving house: everything arrives, twice is as once, and what does not fit is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from maitred.client import AsyncClient
from maitred.server.engine.aggregates import aggregates
from maitred.server.engine.copying import Copied, Copy
from maitred.server.stores import create_store
from maitred.server.stores.base import (
    Commit,
    Record,
    RowFilter,
    Store,
    StoreUnavailable,
    Table,
)
from maitred.server.testing.faulty import FaultyStore
from maitred.server.testing.samples import new_append, new_ref, put
from maitred.server.testing.servers import running_server

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


async def copy(source: Store, target: Store) -> Copied:
    """Copy, with nobody watching."""
    return await Copy(source, target, aggregates(0), lambda *_: None).run()


@pytest.mark.parametrize("url", ["memory://", "sqlite:{folder}/target.db"])
async def test_everything_arrives(source: Store, tmp_path: Path, url: str) -> None:
    """Heads, logs, rows and claims are the same, and a server goes on with them."""
    target = create_store(url.format(folder=tmp_path))
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


async def test_a_server_goes_on_with_what_was_copied(source: Store, tmp_path: Path) -> None:
    """Lists are in their order, replays are found, the next order has the next number."""
    data = f"sqlite:{tmp_path / 'target.db'}"
    target = create_store(data)
    await target.open()
    await copy(source, target)
    await target.close()
    async with running_server(data=data) as server, AsyncClient(server.address) as client:
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


async def test_an_interrupted_copy_goes_on(source: Store) -> None:
    """What was written stays, the rest follows, nothing is there twice."""
    target = create_store("memory://")
    await target.open()
    with pytest.raises(StoreUnavailable):
        await copy(source, Interrupted(target, 3))
    half = await target.versions([record.loaded.ref async for record in source.scan()])
    copied = await copy(source, target)
    again = await copy(source, target)
    await target.close()

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
            "maitred",
            "copy",
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
