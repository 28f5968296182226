"""What campaigns check with finds what it is there to find."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from tests.campaigns.crowd import Guest
from tests.campaigns.evidence import Evidence
from tests.campaigns.killing import KillFailure
from tests.campaigns.operations import Operation
from tests.support.bar import new_guest, open_bar, turn
from tests.support.wire import wired

from maitred.server.stores.base import Loaded, Ref, Store, StoredEvent
from maitred.server.stores.memory import MemoryStore
from maitred.v1 import conversation_pb2
from maitred.v1.event_pb2 import Event
from maitred.v1.state_pb2 import Session

Rows = list[StoredEvent]


class Doctored(MemoryStore):
    """What reads say of another store, after somebody has been at it."""

    def __init__(
        self,
        inner: Store,
        rows: Callable[[Rows], Rows] = lambda rows: rows,
        head: Callable[[Loaded], Loaded] = lambda loaded: loaded,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._rows = rows
        self._head = head

    async def load(self, ref: Ref, request_id: bytes | None = None) -> Loaded | None:
        """Answer a changed head."""
        loaded = await self._inner.load(ref, request_id)
        return None if loaded is None else self._head(loaded)

    async def events(
        self, ref: Ref, after: int, limit: int, changes: Sequence[int] | None = None, **_: Any
    ) -> Rows:
        """Answer a changed log."""
        rows = self._rows(await self._inner.events(ref, 0, limit, changes))
        return [row for row in rows if row.version > after]


@pytest.fixture
async def evening() -> AsyncIterator[tuple[MemoryStore, Guest]]:
    """A session with four turns, and the true history of it."""
    store = MemoryStore()
    async with wired(store=store) as (_server, wire):
        await open_bar(wire)
        guest = Guest(await new_guest(wire))
        for at in range(4):
            request = turn(guest.session_id, f"turn {at}", request_id=f"op-{at}")
            reply = await wire("ConversationService/RecordTurn", request)
            guest.operations.append(
                Operation(
                    "ConversationService/RecordTurn",
                    request,
                    conversation_pb2.RecordTurnResponse,
                    reply.event.version,
                )
            )
            guest.shown.append(reply.event)
            guest.observed = reply.event.version
        yield store, guest


async def examine(store: Store, guest: Guest) -> None:
    """Look at everything once."""
    evidence = Evidence(guest)
    await evidence.follow(store)
    evidence.check()


async def test_a_true_history_is_found_true(evening: tuple[MemoryStore, Guest]) -> None:
    """Nothing is amiss where everything is as it was told."""
    store, guest = evening
    await examine(store, guest)

    assert guest.shown == []


def _twice(rows: Rows) -> Rows:
    return [*rows[:3], rows[3]._replace(request_id=rows[2].request_id), *rows[4:]]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda rows: rows[:-1], "the log ends at 4, the head says 5"),
        (lambda rows: rows[:2] + rows[3:], "version 4 follows 2"),
        (lambda rows: [*rows[:2], rows[1], *rows[2:]], "version 2 follows 2"),
        (lambda rows: [*rows[:-1], rows[-1]._replace(facts=b"")], "the chain breaks at version 5"),
        (_twice, "one request was applied as versions 3 and 4"),
    ],
)
async def test_a_log_that_was_changed_is_found_out(
    evening: tuple[MemoryStore, Guest], change: Callable[[Rows], Rows], finding: str
) -> None:
    """A lost end, a gap, a doubled row, other bytes, a request with two effects."""
    store, guest = evening
    with pytest.raises(KillFailure, match=finding):
        await examine(Doctored(store, rows=change), guest)


async def test_a_state_that_the_log_does_not_explain_is_found_out(
    evening: tuple[MemoryStore, Guest],
) -> None:
    """The fold of the log is the state, in every field."""
    store, guest = evening

    def relabel(loaded: Loaded) -> Loaded:
        session = Session.FromString(loaded.body)
        session.labels["table"] = "7"
        return loaded._replace(body=session.SerializeToString())

    with pytest.raises(KillFailure, match="folding the log gives another state"):
        await examine(Doctored(store, head=relabel), guest)


def _forget_the_last(guest: Guest) -> None:
    guest.operations.pop()


def _claim_more(guest: Guest) -> None:
    guest.operations[-1].version += 1


def _show_more(guest: Guest) -> None:
    guest.observed += 1


def _show_another(guest: Guest) -> None:
    guest.shown[-1] = Event(version=guest.shown[-1].version)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_forget_the_last, "requests that nobody made"),
        (_claim_more, "1 acknowledged writes are not in the log"),
        (_show_more, "version 6 was shown, the log has 5"),
        (_show_another, "a watch showed another version 5"),
    ],
)
async def test_a_history_that_the_log_does_not_have_is_found_out(
    evening: tuple[MemoryStore, Guest], change: Callable[[Guest], None], finding: str
) -> None:
    """Acknowledged and absent, applied and never asked for, shown and never there."""
    store, guest = evening
    change(guest)
    with pytest.raises(KillFailure, match=finding):
        await examine(store, guest)
