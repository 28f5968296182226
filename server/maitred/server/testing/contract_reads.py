"""The contract of listings: complete, in order, stable, filtered."""

from __future__ import annotations

import asyncio

from maitred.server.kinds.menu import MENU
from maitred.server.kinds.session import SESSION
from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    PAGE_BYTES,
    SECRET_BYTES,
    Commit,
    HeadFilter,
    Index,
    Ref,
    Row,
    RowFilter,
    Store,
)
from maitred.server.testing.contract_base import ContractBase
from maitred.server.testing.samples import new_append, new_commit, new_ref, new_row, put

_ALL = HeadFilter()

_ODD_ENDS = (
    *(":1", ":", "-1", "/1", "/1/1", "%", "_", "*", "?", "[a]", "{b}", "}{", "\\", "'", '"', ";--"),
    *("+4", "@host", "桌7", "é", "e\u0301", "A", "a"),
)
"""Ends of ids that are something else in a pattern, a path, a key or a statement."""


async def _heads(store: Store, where: HeadFilter, limit: int = 3) -> list[Ref]:
    found: list[Ref] = []
    after: int | None = None
    while page := await store.list_heads(SESSION, where, after, limit):
        assert len(page) <= limit
        found += [head.ref for head in page]
        after = page[-1].position
    return found


async def _keys(
    store: Store, where: RowFilter, *, newest_first: bool = True, limit: int = 2
) -> list[str]:
    found: list[str] = []
    after: int | None = None
    while page := await store.list_rows(
        Table.ORDERS, where, after, limit, newest_first=newest_first
    ):
        assert len(page) <= limit
        found += [row.key for row in page]
        after = page[-1].position
    return found


class ReadContract(ContractBase):
    """What listings select and how they continue."""

    async def _fill(self, store: Store) -> list[Ref]:
        refs = [new_ref() for _ in range(12)]
        for number, ref in enumerate(refs):
            labels = (("table", str(number % 4)), ("even", str(number % 2)))
            index = Index(
                created_ns=1000 + number,
                status=number % 3,
                owner=f"cus-{number % 5}" if number % 5 else "",
                flag=1 if number % 6 == 0 else 0,
                labels=labels,
            )
            await put(store, new_commit(ref, 0, index=index))
        await put(store, new_commit(new_ref(MENU), 0))
        return refs

    async def test_heads_are_listed_newest_first_each_once(self, store: Store) -> None:
        """Pages of any size add up to all aggregates of the kind."""
        refs = await self._fill(store)

        for limit in (1, 5, 12, 100):
            assert await _heads(store, _ALL, limit) == refs[::-1]

    async def test_ids_of_any_kind_are_kept_apart(self, store: Store) -> None:
        """What is special in a pattern, a path, a key or a statement is a sign as any other."""
        prefix = new_ref().id
        refs = [Ref(SESSION, f"{prefix}{end}") for end in _ODD_ENDS]
        for ref in refs:
            index = Index(created_ns=1, owner=ref.id, labels=(("channel", ref.id),))
            row = new_row(Table.ORDERS, ref, key=f"{ref.id}/1", body=ref.id.encode())
            await put(store, new_commit(ref, 0, index=index)._replace(rows=(row,)))

        assert await _heads(store, _ALL, 100) == refs[::-1]
        for ref in refs:
            assert await _heads(store, HeadFilter(owner=ref.id)) == [ref]
            assert await _heads(store, HeadFilter(labels=(("channel", ref.id),))) == [ref]
            assert await _keys(store, RowFilter(ref=ref)) == [f"{ref.id}/1"]
            assert await _keys(store, RowFilter(keys=(f"{ref.id}/1",))) == [f"{ref.id}/1"]
            (event,) = await store.events(ref, 0, 10)
            assert event.version == 1
        for gone in refs[::2]:
            await store.forget(gone, 1, new_append(gone, 1))
        for ref in refs[1::2]:
            assert [event.version for event in await store.events(ref, 0, 10)] == [1]
            assert await _keys(store, RowFilter(ref=ref)) == [f"{ref.id}/1"]

    async def test_a_listing_shows_the_head(self, store: Store) -> None:
        """Version and body are those of the newest commit."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        await put(store, new_commit(ref, 1, body=b"second"))
        (head,) = await store.list_heads(SESSION, _ALL, None, 10)

        assert (head.ref, head.version, head.body) == (ref, 2, b"second")

    async def test_heads_are_filtered(self, store: Store) -> None:
        """Every filter selects what it says, also together with others."""
        refs = await self._fill(store)
        numbers = {ref: number for number, ref in enumerate(refs)}

        async def found(**values: object) -> list[int]:
            where = HeadFilter(**values)  # type: ignore[arg-type]  # the test names the fields
            return [numbers[ref] for ref in await _heads(store, where)]

        assert await found(statuses=(1,)) == [10, 7, 4, 1]
        assert await found(statuses=(2, 0)) == [11, 9, 8, 6, 5, 3, 2, 0]
        assert await found(statuses=(2, 2, 77)) == [11, 8, 5, 2]
        assert await found(owner="cus-2") == [7, 2]
        assert await found(owner="") == [10, 5, 0]
        assert await found(flag=1) == [6, 0]
        assert await found(flag=0, statuses=(0,)) == [9, 3]
        assert await found(labels=(("table", "3"),)) == [11, 7, 3]
        assert await found(labels=(("table", "2"), ("even", "0"))) == [10, 6, 2]
        assert await found(labels=(("table", "2"), ("even", "1"))) == []
        assert await found(created_from_ns=1003, created_before_ns=1006) == [5, 4, 3]
        assert await found(created_before_ns=1002) == [1, 0]
        assert await found(owner="cus-1", statuses=(0, 1)) == [6, 1]
        assert await found(labels=(("even", "0"),), statuses=(0, 2), owner="cus-3") == [8]
        assert await found(owner="nobody") == []

    async def test_a_listing_follows_the_index(self, store: Store) -> None:
        """A commit that carries an index moves its aggregate between filters, labels included."""
        refs = await self._fill(store)
        moved = Index(1000, 9, "cus-9", 1, (("table", "9"), ("even", "0")))
        await put(store, new_commit(refs[0], 1, index=moved))

        assert await _heads(store, HeadFilter(statuses=(9,))) == [refs[0]]
        assert await _heads(store, HeadFilter(labels=(("table", "9"),))) == [refs[0]]
        assert await _heads(store, HeadFilter(owner="cus-9")) == [refs[0]]
        assert refs[0] not in await _heads(store, HeadFilter(labels=(("table", "0"),)))
        assert refs[0] in await _heads(store, HeadFilter(labels=(("even", "0"),)))
        assert refs[0] not in await _heads(store, HeadFilter(statuses=(0,)))
        assert (await _heads(store, _ALL))[-1] == refs[0]

    async def test_a_listing_is_stable_under_writes(self, store: Store) -> None:
        """One that exists throughout is listed exactly once, whatever is written meanwhile."""
        refs = await self._fill(store)
        found: list[Ref] = []
        after: int | None = None
        step = 0
        while page := await store.list_heads(SESSION, _ALL, after, 2):
            found += [head.ref for head in page]
            after = page[-1].position
            await put(store, new_commit(new_ref(), 0))
            await put(store, new_commit(refs[step], 1))
            step += 1

        assert found == refs[::-1]

    async def test_tombstones_are_never_listed_nor_counted(self, store: Store) -> None:
        """A forgotten aggregate is in no listing."""
        refs = await self._fill(store)
        await store.forget(refs[3], 1, new_append(refs[3], 1))
        left = [ref for ref in refs[::-1] if ref != refs[3]]

        assert await _heads(store, _ALL) == left
        assert refs[3] not in await _heads(store, HeadFilter(labels=(("table", "3"),)))
        assert refs[3] not in await _heads(store, HeadFilter(statuses=(0,)))
        assert await store.count(SESSION) == len(left)

    async def test_pages_end_early_in_bytes(self, store: Store) -> None:
        """However much is asked for, a page holds PAGE_BYTES before its last entry, and goes on."""
        big, half = PAGE_BYTES // 2 - 1000, b"p" * (PAGE_BYTES // 4)
        ref = new_ref()
        for base in range(7):
            facts = new_append(ref, base, facts=bytes(big - len(half)), personal=half)
            row = new_row(Table.ORDERS, ref, body=bytes(big))
            await put(store, Commit((facts,), rows=(row,)))
        refs = [new_ref() for _ in range(5)]
        for each in refs:
            await put(store, new_commit(each, 0, body=bytes(big)))

        for newest_first in (False, True):
            page = await store.events(ref, 0, 50, newest_first=newest_first)
            assert len(page) == 3
            chosen = await store.events(ref, 0, 50, changes=(1,), newest_first=newest_first)
            assert [event.version for event in chosen] == [event.version for event in page]
            rows = await store.list_rows(
                Table.ORDERS, RowFilter(ref=ref), None, 50, newest_first=newest_first
            )
            assert len(rows) == 3
        assert len(await store.feed(b"", 50)) == 3
        assert len(await store.list_heads(SESSION, _ALL, None, 50)) == 3
        assert len(await store.list_heads(SESSION, HeadFilter(statuses=(0, 1)), None, 50)) == 3
        versions: list[int] = []
        while page := await store.events(ref, len(versions), 50):
            versions += [event.version for event in page]
        assert versions == list(range(1, 8))
        keys, cursor, heads = await _keys(store, RowFilter(ref=ref), limit=50), b"", 0
        while feed := await store.feed(cursor, 50):
            cursor, heads = feed[-1].cursor, heads + len(feed)
        assert (len(keys), heads) == (7, 12)
        assert set(await _heads(store, _ALL, limit=50)) == {ref, *refs}

    async def test_the_secret_stays_and_can_be_adopted(self, store: Store) -> None:
        """All openings of the same data have one secret, and a copy takes over its source's."""
        await store.close()
        first = (await store.open()).secret
        await store.close()
        assert (await store.open()).secret == first
        assert len(first) == SECRET_BYTES

        await store.adopt(b"s" * SECRET_BYTES)

        await store.close()
        assert (await store.open()).secret == b"s" * SECRET_BYTES

    async def test_count_is_exact_while_it_is_small(self, store: Store) -> None:
        """Up to ten thousand, the count is no estimate."""
        await self._fill(store)

        assert await store.count(SESSION) == 12
        assert await store.count(MENU) == 1
        assert await store.count(2) == 0

    async def _fill_rows(self, store: Store) -> tuple[list[Row], list[Ref]]:
        refs = [new_ref() for _ in range(2)]
        rows = [
            new_row(
                Table.ORDERS,
                refs[number % 2],
                key=f"ord-{number}",
                created_ns=1000 + number,
                status=number % 3,
                flag=number % 2,
            )
            for number in range(8)
        ]
        bases = dict.fromkeys(refs, 0)
        for row in rows:
            other = row._replace(table=Table.PAYMENTS)
            await put(store, Commit((new_append(row.ref, bases[row.ref]),), rows=(row, other)))
            bases[row.ref] += 1
        return rows, refs

    async def test_rows_are_listed_in_the_order_of_their_first_writing(self, store: Store) -> None:
        """Both ways, each row once, and a row that is written again keeps its place."""
        rows, refs = await self._fill_rows(store)
        keys = [row.key for row in rows]
        rewritten = rows[2]._replace(body=b"again", status=2)
        await put(store, Commit((new_append(refs[0], 4),), rows=(rewritten,)))

        assert await _keys(store, RowFilter()) == keys[::-1]
        assert await _keys(store, RowFilter(), newest_first=False) == keys
        (found,) = await store.list_rows(Table.ORDERS, RowFilter(keys=("ord-2",)), None, 5)
        assert found.position > 0
        assert found._replace(position=0) == rewritten

    async def test_rows_are_filtered(self, store: Store) -> None:
        """Every filter selects what it says, also together with others."""
        _, refs = await self._fill_rows(store)

        async def found(**values: object) -> str:
            where = RowFilter(**values)  # type: ignore[arg-type]  # the test names the fields
            return "".join(key[-1] for key in await _keys(store, where))

        assert await found(ref=refs[1]) == "7531"
        assert await found(keys=("ord-3", "ord-1", "none")) == "31"
        assert await found(statuses=(1,)) == "741"
        assert await found(statuses=(0, 2)) == "65320"
        assert await found(flag=1) == "7531"
        assert await found(flag=0) == "6420"
        assert await found(ref=refs[0], statuses=(0, 1)) == "640"
        assert await found(flag=1, statuses=(1,)) == "71"
        assert await found(created_from_ns=1002, created_before_ns=1005) == "432"
        assert await found(ref=new_ref()) == ""

    async def test_rows_of_a_commit_appear_together(self, store: Store) -> None:
        """A listing never shows half of a commit."""
        ref = new_ref()
        for base in range(10):
            rows = tuple(new_row(Table.ORDERS, ref) for _ in range(3))
            answer = asyncio.ensure_future(put(store, Commit((new_append(ref, base),), rows=rows)))
            while not answer.done():
                found = await store.list_rows(Table.ORDERS, RowFilter(ref=ref), None, 99)
                assert len(found) % 3 == 0
                await asyncio.sleep(0)
            await answer
