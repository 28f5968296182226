"""The contract of `submit`: once, durable, atomic, decided in one order."""

from __future__ import annotations

import asyncio

import pytest

from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    ClaimTaken,
    Commit,
    Committed,
    Conflict,
    Outcome,
    Replayed,
    RowFilter,
    Store,
    StoreError,
    StoreUnavailable,
)
from maitred.server.testing.contract_base import ContractBase
from maitred.server.testing.samples import (
    new_append,
    new_claim,
    new_commit,
    new_ref,
    new_row,
    put,
    start,
)

_MANY = 100


class WriteContract(ContractBase):
    """What happens to a commit."""

    async def test_submit_never_answers_before_it_returns(self, store: Store) -> None:
        """`done` is called by the loop, never from inside `submit`."""
        called: list[object] = []
        answered = asyncio.Event()

        def done(outcome: object) -> None:
            called.append(outcome)
            answered.set()

        store.submit(new_commit(new_ref(), 0), done)
        before = list(called)
        await answered.wait()

        assert before == []
        assert called == [Committed()]

    async def test_done_is_called_exactly_once_in_the_thread_of_the_loop(
        self, store: Store
    ) -> None:
        """Every submission is answered once, whatever its outcome, and on the loop."""
        loop = asyncio.get_running_loop()
        ref = new_ref()
        calls: list[int] = []
        loops: list[object] = []
        commits = [new_commit(new_ref(), 0) for _ in range(_MANY)]
        commits += [new_commit(ref, 5), new_commit(new_ref(), 3)]
        last = asyncio.Event()

        def make(number: int) -> object:
            def done(outcome: Outcome | StoreError) -> None:
                calls.append(number)
                loops.append(asyncio.get_running_loop())
                if len(calls) == len(commits):
                    last.set()

            return done

        for number, commit in enumerate(commits):
            store.submit(commit, make(number))  # type: ignore[arg-type]  # made just above
        await last.wait()
        await store.close()

        assert sorted(calls) == list(range(len(commits)))
        assert set(loops) == {loop}

    async def test_a_batch_is_answered_in_one_pass(self, store: Store) -> None:
        """Nothing else runs on the loop between the answers of commits that were queued at once."""
        turns = 0
        seen: list[int] = []

        def tick() -> None:
            nonlocal turns
            turns += 1
            if len(seen) < _MANY // 4:
                loop.call_soon(tick)

        loop = asyncio.get_running_loop()
        answers = []
        for _ in range(_MANY // 4):
            answer = loop.create_future()

            def done(outcome: object, answer: asyncio.Future[object] = answer) -> None:
                seen.append(turns)
                answer.set_result(outcome)

            store.submit(new_commit(new_ref(), 0), done)
            answers.append(answer)
        loop.call_soon(tick)
        outcomes = await asyncio.gather(*answers)

        assert outcomes == [Committed()] * (_MANY // 4)
        assert len(set(seen)) == 1

    async def test_a_failing_callback_does_not_take_answers_from_others(self, store: Store) -> None:
        """A mistake of one caller stays its own."""

        def broken(outcome: object) -> None:
            raise RuntimeError("a mistake of the caller")

        store.submit(new_commit(new_ref(), 0), broken)

        assert await put(store, new_commit(new_ref(), 0)) == Committed()

    async def test_a_commit_is_readable_as_soon_as_it_is_answered(self, store: Store) -> None:
        """A read that begins after the answer sees the commit."""
        ref = new_ref()
        for base in range(10):
            assert await put(store, new_commit(ref, base)) == Committed()
            loaded = await store.load(ref)

            assert loaded is not None
            assert loaded.version == base + 1

    async def test_an_acknowledged_commit_survives_reopening(self, store: Store) -> None:
        """What was answered Committed is there after a restart, byte for byte."""
        self.needs(self.lacks_reopen)
        ref = new_ref()
        append = new_append(ref, 0)
        await put(store, Commit((append,)))
        again = await self.reopen(store)
        loaded = await again.load(ref, append.request_id)

        assert loaded is not None
        assert loaded.body == append.body
        assert loaded.request_event is not None
        assert loaded.request_event.facts == append.facts

    async def test_close_commits_what_is_queued(self, store: Store) -> None:
        """`close` drains: everything submitted before it is answered and kept."""
        answers = [start(store, new_commit(new_ref(), 0)) for _ in range(_MANY)]
        await store.close()

        assert [await answer for answer in answers] == [Committed()] * _MANY

    async def test_a_closed_store_answers_unavailable(self, store: Store) -> None:
        """After `close` nothing is applied and nothing is read."""
        await store.check()
        await store.close()
        answer = await put(store, new_commit(new_ref(), 0))

        assert isinstance(answer, StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await store.load(new_ref())
        with pytest.raises(StoreUnavailable):
            await store.events(new_ref(), 0, 10)
        with pytest.raises(StoreUnavailable):
            await store.check()

    async def test_create_over_an_existing_aggregate_conflicts(self, store: Store) -> None:
        """A new aggregate must not exist; the conflict shows what is there."""
        ref = new_ref()
        first = new_append(ref, 0)
        await put(store, Commit((first,)))

        assert await put(store, new_commit(ref, 0)) == Conflict(ref, 1, first.commit_id)

    async def test_create_over_a_tombstone_conflicts_and_resurrects_nothing(
        self, store: Store
    ) -> None:
        """The id of a forgotten aggregate is never free again."""
        ref = new_ref()
        await put(store, new_commit(ref, 0))
        last = new_append(ref, 1)
        assert await store.forget(ref, 1, last) == Committed()

        for base in (0, 1, 2, 3):
            assert await put(store, new_commit(ref, base)) == Conflict(ref, 2, last.commit_id)
        loaded = await store.load(ref)
        assert loaded is not None
        assert loaded.tombstone
        assert loaded.body == last.body

    async def test_update_of_what_does_not_exist_conflicts(self, store: Store) -> None:
        """An update never creates."""
        ref = new_ref()

        assert await put(store, new_commit(ref, 1)) == Conflict(ref, 0, b"")
        assert await store.load(ref) is None

    async def test_a_stale_append_conflicts_and_changes_nothing(self, store: Store) -> None:
        """An append decided on another version is refused with the version found."""
        ref = new_ref()
        second = new_append(ref, 1)
        await put(store, new_commit(ref, 0))
        await put(store, Commit((second,)))

        for base in (1, 5):
            assert await put(store, new_commit(ref, base)) == Conflict(ref, 2, second.commit_id)
        loaded = await store.load(ref)
        assert loaded is not None
        assert loaded.body == second.body
        assert len(await store.events(ref, 0, 10)) == 2

    async def test_a_known_request_is_replayed(self, store: Store) -> None:
        """A request id that the log holds yields its version and fingerprint, and no change."""
        ref = new_ref()
        first = new_append(ref, 0)
        await put(store, Commit((first,)))
        again = new_commit(ref, 1, request_id=first.request_id)

        assert await put(store, again) == Replayed(ref, 1, first.fingerprint)
        assert (await store.versions([ref])) == {ref: 1}

    async def test_replay_is_decided_before_the_version(self, store: Store) -> None:
        """A retry on a stale base is a replay, not a conflict."""
        ref = new_ref()
        appends = [new_append(ref, base) for base in range(3)]
        for append in appends:
            await put(store, Commit((append,)))

        for base in (0, 1, 3, 9):
            retry = new_commit(ref, base, request_id=appends[1].request_id)
            assert await put(store, retry) == Replayed(ref, 2, appends[1].fingerprint)

    async def test_replay_is_decided_before_claims(self, store: Store) -> None:
        """A retry whose claim somebody else took since is still a replay."""
        ref, claim = new_ref(), new_claim(owner="other")
        first = new_append(ref, 0)
        await put(store, Commit((first,)))
        await put(store, Commit((new_append(new_ref(), 0),), claims=(claim,)))
        retry = new_append(ref, 1, request_id=first.request_id)

        answer = await put(store, Commit((retry,), claims=(claim._replace(owner="me"),)))
        assert answer == Replayed(ref, 1, first.fingerprint)

    async def test_the_version_is_decided_before_claims(self, store: Store) -> None:
        """A stale commit conflicts even where its claim is taken."""
        ref, claim = new_ref(), new_claim(owner="other")
        await put(store, Commit((new_append(new_ref(), 0),), claims=(claim,)))

        answer = await put(
            store, Commit((new_append(ref, 4),), claims=(claim._replace(owner="me"),))
        )
        assert answer == Conflict(ref, 0, b"")

    async def test_request_ids_are_unique_in_their_aggregate_only(self, store: Store) -> None:
        """Two aggregates may use the same request id."""
        first, second = new_append(new_ref(), 0), new_append(new_ref(), 0)
        await put(store, Commit((first,)))
        answer = await put(store, Commit((second._replace(request_id=first.request_id),)))

        assert answer == Committed()

    async def test_appends_without_a_request_id_are_never_replays(self, store: Store) -> None:
        """No request id is no identity."""
        ref = new_ref()
        for base in range(3):
            assert await put(store, new_commit(ref, base, request_id=None)) == Committed()

    async def test_an_applied_commit_is_committed_again_and_changes_nothing(
        self, store: Store
    ) -> None:
        """Submitting the identical commit resolves an unknown outcome, whatever came after it."""
        ref = new_ref()
        commits = [new_commit(ref, 0), new_commit(ref, 1, request_id=None), new_commit(ref, 2)]
        for commit in commits:
            await put(store, commit)
            assert await put(store, commit) == Committed()
        for commit in commits:
            assert await put(store, commit) == Committed()

        assert len(await store.events(ref, 0, 10)) == 3

    async def test_another_commit_with_the_same_content_is_not_applied(self, store: Store) -> None:
        """It is the commit id that tells one's own commit from a rival's on the same base."""
        ref = new_ref()
        mine = new_append(ref, 0, request_id=None)
        await put(store, Commit((mine,)))
        rival = mine._replace(commit_id=bytes(16))

        assert await put(store, Commit((rival,))) == Conflict(ref, 1, mine.commit_id)

    async def test_outcomes_in_one_batch_do_not_touch_one_another(self, store: Store) -> None:
        """Good, stale, replayed and taken commits, queued at once, get each its own answer."""
        refs = [new_ref() for _ in range(40)]
        firsts = [new_append(ref, 0) for ref in refs]
        claim = new_claim(owner="first")
        await asyncio.gather(*(start(store, Commit((first,))) for first in firsts))
        answers, expected = [], []
        for number, (ref, first) in enumerate(zip(refs, firsts, strict=True)):
            outcome: Outcome = Committed()
            commit = new_commit(ref, 1)
            if number % 4 == 1:
                commit, outcome = new_commit(ref, 7), Conflict(ref, 1, first.commit_id)
            elif number % 4 == 2:
                commit = new_commit(ref, 1, request_id=first.request_id)
                outcome = Replayed(ref, 1, first.fingerprint)
            elif number % 4 == 3:
                mine = claim._replace(owner=f"owner {number}")
                commit = commit._replace(claims=(mine,))
                if number > 3:
                    outcome = ClaimTaken(claim.space, claim.key, "owner 3")
            answers.append(start(store, commit))
            expected.append(outcome)

        assert [await answer for answer in answers] == expected
        for ref, outcome in zip(refs, expected, strict=True):
            version = 2 if outcome == Committed() else 1
            assert await store.versions([ref]) == {ref: version}

    async def test_data_that_the_engine_cannot_hold_spoils_no_other_commit(
        self, store: Store
    ) -> None:
        """A commit with impossible values is refused alone, by a store error or not at all."""
        others = [new_ref() for _ in range(5)]
        bad = new_commit(new_ref(), 0, time_ns=2**70)
        answers = [start(store, new_commit(ref, 0)) for ref in others[:3]]
        refused = start(store, bad)
        answers += [start(store, new_commit(ref, 0)) for ref in others[3:]]

        assert [await answer for answer in answers] == [Committed()] * 5
        assert isinstance(await refused, StoreError | Committed)

    async def test_a_commit_over_several_aggregates_is_all_or_nothing(self, store: Store) -> None:
        """One stale append keeps all of them out."""
        self.needs(self.lacks_cross_aggregate)
        one, two = new_ref(), new_ref(2)
        await put(store, new_commit(two, 0))
        half = Commit((new_append(one, 0), new_append(two, 0)))
        answer = await put(store, half)
        assert isinstance(answer, Conflict)
        assert answer.ref == two
        assert await store.load(one) is None
        whole = Commit((new_append(one, 0), new_append(two, 1)))

        assert await put(store, whole) == Committed()
        assert await put(store, whole) == Committed()
        assert await store.versions([one, two]) == {one: 1, two: 2}

    async def test_a_commit_may_consist_of_rows_and_claims_only(self, store: Store) -> None:
        """No append is needed to keep a row; submitting it again changes nothing."""
        self.needs(self.lacks_cross_aggregate)
        row, claim = new_row(Table.INBOX, new_ref()), new_claim()
        commit = Commit((), claims=(claim,), rows=(row,))

        assert await put(store, commit) == Committed()
        assert await put(store, commit) == Committed()
        found = await store.list_rows(Table.INBOX, RowFilter(keys=(row.key,)), None, 5)
        assert [entry.body for entry in found] == [row.body]

    async def test_a_commit_deletes_the_rows_that_it_names(self, store: Store) -> None:
        """Only those go; one that is not there is no error, and its place is not given again."""
        self.needs(self.lacks_cross_aggregate)
        gone, kept = (new_row(Table.INBOX, new_ref()) for _ in range(2))
        await put(store, Commit((), rows=(gone, kept)))
        places = ((gone.table, gone.key), (Table.ORDERS, kept.key))
        answers = [await put(store, Commit((), drops=places)) for _ in range(2)]
        before = await store.list_rows(Table.INBOX, RowFilter(keys=(gone.key, kept.key)), None, 5)
        await put(store, Commit((), rows=(gone,)))
        after = await store.list_rows(Table.INBOX, RowFilter(keys=(gone.key, kept.key)), None, 5)

        assert answers == [Committed()] * 2
        assert [row.key for row in before] == [kept.key]
        assert [row.key for row in after] == [gone.key, kept.key]

    async def test_a_cancelled_waiter_does_not_stop_its_commit(self, store: Store) -> None:
        """From `submit` on, the commit belongs to the store."""
        ref = new_ref()
        answer = start(store, new_commit(ref, 0))

        async def wait() -> object:
            return await asyncio.shield(answer)

        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiter.cancel()

        assert await answer == Committed()
        assert await store.versions([ref]) == {ref: 1}
