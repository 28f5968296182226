"""The wrapper that scripts faults: each fault is what it says, and the rest goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from maitred.server.stores.base import (
    Committed,
    Conflict,
    CorruptData,
    OutcomeUnknown,
    Store,
    StoreFull,
    StoreUnavailable,
)
from maitred.server.stores.memory import MemoryStore
from maitred.server.testing.faulty import Fault, FaultyStore
from maitred.server.testing.samples import new_append, new_commit, new_ref, put
from maitred.server.testing.stores import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TestFaultyWithoutFaults(StoreContract):
    """Without a script the wrapper is the store that it wraps."""

    lacks_reopen = "memory ends with its store"
    lacks_backup = "memory has no file to copy"

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        """Yield an empty wrapped store."""
        store = FaultyStore(MemoryStore())
        await store.open()
        yield store
        await store.close()


@pytest.fixture
async def faulty() -> AsyncIterator[FaultyStore]:
    """Yield a wrapped store to script."""
    store = FaultyStore(MemoryStore())
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        (Fault.FULL, StoreFull, False),
        (Fault.UNAVAILABLE, StoreUnavailable, False),
        (Fault.UNKNOWN_APPLIED, OutcomeUnknown, True),
        (Fault.UNKNOWN_ABSENT, OutcomeUnknown, False),
        (Fault.APPLIED_LATE, OutcomeUnknown, False),
    ],
)
async def test_a_scripted_submit(
    faulty: FaultyStore, fault: Fault, error: type[Exception], applied: bool
) -> None:
    """The answer is the scripted one, and the store holds what the fault says."""
    ref = new_ref()
    commit = new_commit(ref, 0)
    faulty.fail_writes(fault)
    answer = await put(faulty, commit)

    assert isinstance(answer, error)
    assert (await faulty.load(ref) is not None) == applied
    assert await put(faulty, commit) == Committed()
    assert await faulty.release() == ([Committed()] if fault is Fault.APPLIED_LATE else [])
    assert faulty.pending == 0
    assert faulty.submitted == [commit, commit]


async def test_a_scripted_conflict_shows_the_head(faulty: FaultyStore) -> None:
    """A conflict names the version and commit that are really there."""
    ref = new_ref()
    first = new_append(ref, 0)
    faulty.fail_writes(Fault.CONFLICT)
    assert await put(faulty, new_commit(ref, 0)) == Conflict(ref, 0, b"")
    await put(faulty, new_commit(ref, 0)._replace(appends=(first,)))
    faulty.fail_writes(Fault.NONE, Fault.CONFLICT)
    assert await put(faulty, new_commit(new_ref(), 0)) == Committed()

    assert await put(faulty, new_commit(ref, 1)) == Conflict(ref, 1, first.commit_id)
    assert await faulty.versions([ref]) == {ref: 1}


async def test_a_late_commit_meets_what_came_before_it(faulty: FaultyStore) -> None:
    """Applied late, a commit is decided by the store as any other."""
    ref = new_ref()
    faulty.fail_writes(Fault.APPLIED_LATE)
    await put(faulty, new_commit(ref, 0))
    winner = new_append(ref, 0)
    await put(faulty, new_commit(ref, 0)._replace(appends=(winner,)))

    assert await faulty.release() == [Conflict(ref, 1, winner.commit_id)]


async def test_scripted_forgets(faulty: FaultyStore) -> None:
    """Forgetting takes its faults from the same script."""
    ref = new_ref()
    await put(faulty, new_commit(ref, 0))
    last = new_append(ref, 1)
    faulty.fail_writes(Fault.FULL, Fault.UNKNOWN_ABSENT, Fault.CONFLICT, Fault.UNKNOWN_APPLIED)
    with pytest.raises(StoreFull):
        await faulty.forget(ref, 1, last)
    with pytest.raises(OutcomeUnknown):
        await faulty.forget(ref, 1, last)
    assert isinstance(await faulty.forget(ref, 1, last), Conflict)
    loaded = await faulty.load(ref)
    assert loaded is not None
    assert not loaded.tombstone
    with pytest.raises(OutcomeUnknown):
        await faulty.forget(ref, 1, last)

    loaded = await faulty.load(ref)
    assert loaded is not None
    assert loaded.tombstone
    assert await faulty.forget(ref, 1, last) == Committed()


async def test_scripted_reads(faulty: FaultyStore) -> None:
    """Reads fail in the order of the script."""
    ref = new_ref()
    faulty.fail_reads(Fault.UNAVAILABLE, Fault.NONE, Fault.CORRUPT)
    with pytest.raises(StoreUnavailable):
        await faulty.load(ref)
    assert await faulty.versions([ref]) == {}
    with pytest.raises(CorruptData):
        await faulty.event_by_request(ref, bytes(16))

    assert await faulty.load(ref) is None


def test_faults_that_make_no_sense_are_refused() -> None:
    """A script is checked when it is written."""
    faulty = FaultyStore(MemoryStore())
    with pytest.raises(ValueError, match="CORRUPT"):
        faulty.fail_writes(Fault.CORRUPT)
    with pytest.raises(ValueError, match="UNAVAILABLE"):
        faulty.fail_reads(Fault.FULL)
