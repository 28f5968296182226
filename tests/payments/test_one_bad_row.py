"""Late money whose session is gone, and rows that nobody can read, keep no others waiting."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.payments.conftest import STAFF, Bar, usd

from maitred.server.domain import sessions
from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.engine.command import Command
from maitred.server.kinds.session import session_ref
from maitred.server.kinds.tables import Table
from maitred.server.payments import simulated
from maitred.server.payments.inbox import NOWHERE, PENDING, UNMATCHED
from maitred.server.payments.provider import Unreachable
from maitred.server.payments.throttle import Priority, Urgency
from maitred.server.stores.base import Commit, Row, RowFilter
from maitred.server.telemetry import metrics
from maitred.server.testing.providers import new_payment
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import PAYMENT_STATUS_SUCCEEDED, Payment


async def erase(bar: Bar, name: str) -> None:
    """Delete a session."""
    await bar.engine.forget(
        Command(
            session_ref(name),
            lambda session, _now: sessions.delete(session, "asked for"),
            ended=True,
            overdue=True,
        ),
        STAFF,
    )


async def late_money(bar: Bar, name: str = "gone") -> Payment:
    """Have money come for a link that was withdrawn, after its session was erased."""
    await bar.seat(1300, name)
    payment = (await bar.create(name)).payment
    await bar.service.CancelPayment(
        pb.CancelPaymentRequest(session_id=name, payment_id=payment.payment_id), STAFF
    )
    await bar.engine.execute(
        Command(
            session_ref(name),
            lambda session, _now: sessions.reset(session, "left", staff=True),
        ),
        STAFF,
    )
    await bar.hear()
    await erase(bar, name)
    with closing(sqlite3.connect(bar.books / "simulated-payments.sqlite")) as books:
        books.execute(
            "UPDATE payment SET status = 'paid' WHERE id = ?", (payment.provider_payment_id,)
        )
        books.execute("INSERT INTO notice (payment) VALUES (?)", (payment.provider_payment_id,))
        books.commit()
    return payment


async def put(bar: Bar, *rows: Row) -> None:
    """Store rows."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    bar.engine.store.submit(Commit((), rows=rows), done.set_result)
    await done


async def unmatched(bar: Bar, page_size: int = 0) -> list[pb.UnmatchedPayment]:
    """List what matches nothing, as staff sees it."""
    found: list[pb.UnmatchedPayment] = []
    request = pb.ListUnmatchedPaymentsRequest(page_size=page_size)
    while True:
        reply = await bar.service.ListUnmatchedPayments(request, STAFF)
        page = pb.ListUnmatchedPaymentsResponse.FromString(reply)
        found += page.unmatched_payments
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def orphans(logs: list[Any]) -> list[tuple[str, str]]:
    """List what was reported to be nobody's: the provider's payment and the session."""
    return [
        (each["provider_payment"], each["session"])
        for each in logs
        if each["event"] == "orphan_payment"
    ]


async def test_the_comparison_goes_on_after_money_of_an_erased_session(bar: Bar) -> None:
    """What came later in the list is mended; the late money calls for a person."""
    gone = await late_money(bar)
    bar.pay((await bar.create()).payment)
    with capture_logs() as logs:
        mended = await bar.coordinator.sweep.run()

    assert mended == 1
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert orphans(logs) == [(gone.provider_payment_id, "gone")]


async def test_a_notice_of_an_erased_session_is_put_away(bar: Bar) -> None:
    """Reported once, and not tried for ever."""
    gone = await late_money(bar)
    with capture_logs() as logs:
        await asyncio.wait_for(bar.hear(), 20)
    kept = await bar.engine.store.list_rows(Table.INBOX, RowFilter(statuses=(UNMATCHED,)), None, 10)

    assert orphans(logs) == [(gone.provider_payment_id, "gone")]
    assert len(kept) == 1
    assert len(bar.coordinator.inbox) == 0


async def test_late_money_of_an_erased_session_is_listed_for_staff(bar: Bar) -> None:
    """Put down once, whoever tells of it and how often, and still there after a restart."""
    gone = await late_money(bar)
    with capture_logs() as logs:
        await bar.hear()
        for _ in range(2):
            bar.clock.advance(24 * 3600)
            await bar.coordinator.sweep.run()
    if not bar.url.startswith("memory"):
        await bar.restart()
    (entry,) = await unmatched(bar)

    assert orphans(logs) == [(gone.provider_payment_id, "gone")]
    assert entry.provider_payment_id == gone.provider_payment_id
    assert (entry.provider, entry.session_id) == (gone.provider, "gone")
    assert (entry.payment_id, entry.reason) == (gone.payment_id, pb.UNMATCHED_REASON_SESSION_GONE)
    assert (entry.amount, entry.refunded_amount) == (usd(1300), usd(0))
    assert entry.found_at.ToNanoseconds() == bar.clock.now_ns() - 2 * 24 * 3600 * 10**9


@pytest.mark.parametrize("way", ["notice", "comparison"])
async def test_what_was_given_back_is_no_longer_listed(
    bar: Bar, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is shown; the whole ends the entry, also where the provider lists it no more."""
    gone = await late_money(bar)
    await bar.hear()

    async def nothing(_since_ns: int) -> AsyncIterator[ProviderSnapshot]:
        nobody: tuple[ProviderSnapshot, ...] = ()
        for snapshot in nobody:
            yield snapshot

    monkeypatch.setattr(bar.provider, "completed", nothing)
    listed = []
    for number, amount in enumerate((300, 1000)):
        await bar.provider.refund(
            gone.provider_payment_id, f"by-hand-{number}", amount, str(number)
        )
        await (bar.hear() if way == "notice" else bar.coordinator.sweep.run())
        listed.append([entry.refunded_amount for entry in await unmatched(bar)])
    with capture_logs() as logs:
        await bar.coordinator.sweep.run()

    assert listed == [[usd(300)], []]
    assert await unmatched(bar) == []
    assert orphans(logs) == []


async def test_what_nobody_knows_is_listed_a_page_at_a_time(bar: Bar) -> None:
    """Newest first; what is in the books by another way is not on the list."""
    bar.pay((await bar.create()).payment)
    made = []
    for number in range(3):
        stranger = new_payment(bar.provider)
        stranger.expires_at.FromNanoseconds(bar.clock.now_ns() + 10**12)
        link = await bar.provider.create(bar.provider.parameters(stranger), str(number))
        simulated.pay(bar.books, link.url, clock=bar.clock)
        await bar.hear()
        made.append(link.provider_payment_id)
    await bar.coordinator.sweep.run()
    entries = await unmatched(bar, page_size=2)

    assert [entry.provider_payment_id for entry in entries] == made[::-1]
    assert {entry.reason for entry in entries} == {pb.UNMATCHED_REASON_UNKNOWN_PAYMENT}


async def test_rows_that_nobody_can_read_are_passed_over(bar: Bar) -> None:
    """In the inbox and among the payments: logged, counted, and the rest is done."""
    payment = (await bar.create()).payment
    bar.pay(payment)
    now_ns = bar.clock.now_ns()
    await put(
        bar,
        Row(Table.INBOX, "a/bad", NOWHERE, now_ns - 1, b"[1", PENDING),
        Row(
            Table.PAYMENTS,
            "bad",
            session_ref("s0"),
            now_ns - 1,
            b"\xff\xff",
            PAYMENT_STATUS_SUCCEEDED,
            1,
        ),
    )
    before = [metrics.ROWS_SKIPPED.labels(work).value for work in ("notices", "payments")]
    await bar.coordinator.inbox.take_up()
    await bar.coordinator.find_new(every=True)
    mended = await bar.coordinator.sweep.run()
    after = [metrics.ROWS_SKIPPED.labels(work).value for work in ("notices", "payments")]

    assert mended == 1
    assert all(now > then for now, then in zip(after, before, strict=True))


async def test_whatever_goes_wrong_with_one_payment_the_others_are_compared(
    bar: Bar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a fault of our own."""
    await bar.seat(500, "s0")
    bar.pay((await bar.create("s0")).payment)
    bar.pay((await bar.create()).payment)
    stored = bar.coordinator.sweep._records.stored
    asked = []

    async def faulty(payment_id: str) -> Payment | None:
        asked.append(payment_id)
        if len(asked) == 1:
            raise KeyError("bad")
        return await stored(payment_id)

    monkeypatch.setattr(bar.coordinator.sweep._records, "stored", faulty)

    assert await bar.coordinator.sweep.run() == 1
    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED


async def test_a_provider_whose_code_breaks_down_does_not_answer(
    bar: Bar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers are never told INTERNAL, and its probe says that it is away."""

    async def broken(*_: object) -> ProviderSnapshot:
        raise AttributeError("no such field")

    monkeypatch.setattr(bar.provider, "retrieve", broken)
    monkeypatch.setattr(bar.provider, "probe", broken)
    gateway = bar.gateways.primary
    with pytest.raises(Unreachable):
        await gateway.retrieve("x", Urgency(Priority.GUEST))

    assert not (await gateway.probe.health()).available


async def test_a_locked_book_does_not_answer(bar: Bar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever statement finds it locked."""
    parameters = bar.provider.parameters(Payment())

    def locked(*_: object) -> bool:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(bar.provider.books, "is_poisoned", locked)
    with pytest.raises(Unreachable):
        await bar.provider.create(parameters, "key")
