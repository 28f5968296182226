"""Notices of providers: durable before they are acknowledged, and worked off until each is done."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.stripe import StripeBar, until

from maitred.server.kinds.tables import Table
from maitred.server.payments import inbox
from maitred.server.payments.inbox import KEPT_S, PENDING, PROCESSED, UNMATCHED
from maitred.server.payments.provider import Notice
from maitred.server.stores.base import Row, RowFilter, StoreError
from maitred.server.testing.fakestripe import FakeStripe
from maitred.server.testing.faulty import Fault
from maitred.v1.state_pb2 import PAYMENT_STATUS_OPEN, PAYMENT_STATUS_SUCCEEDED, Payment


@pytest.fixture
async def paid(bar: StripeBar, fake: FakeStripe) -> Payment:
    """Make a payment that was paid, of which nobody has told us yet."""
    payment = (await bar.create()).payment
    fake.account.pay(payment.provider_payment_id)
    return payment


def notice(payment: Payment, name: str = "evt_1") -> Notice:
    """Make a notice that a payment has news."""
    return Notice(name, "paid", payment.provider_payment_id, payment.payment_id)


async def rows(bar: StripeBar) -> list[Row]:
    """Read the inbox as it is stored."""
    return await bar.engine.store.list_rows(Table.INBOX, RowFilter(), None, 1000)


async def statuses(bar: StripeBar) -> list[int]:
    """Read how far the stored notices are."""
    return [row.status for row in await rows(bar)]


async def receive(bar: StripeBar, given: Notice) -> bool:
    """Take a notice in."""
    return await bar.coordinator.inbox.receive("stripe", given)


async def settle_down(bar: StripeBar) -> None:
    """Wait until everything is worked off, and check that it counted once."""
    await bar.coordinator.inbox.settled_down()

    assert (await bar.payment()).status == PAYMENT_STATUS_SUCCEEDED
    assert (await bar.session()).ledger.received == 1300
    assert await bar.changes("payment_succeeded") == 1


# --- each is taken in once ------------------------------------------------------------------------


async def test_a_notice_that_is_known_is_told_so(bar: StripeBar, paid: Payment) -> None:
    """However often it comes, one row is kept of it."""
    taken = [await receive(bar, notice(paid)) for _ in range(3)]

    assert taken == [True, False, False]
    assert len(await rows(bar)) == 1
    await settle_down(bar)


async def test_of_many_that_come_at_once_one_is_new(bar: StripeBar, paid: Payment) -> None:
    """The store decides which."""
    taken = await asyncio.gather(*(receive(bar, notice(paid)) for _ in range(10)))

    assert sorted(taken) == [False] * 9 + [True]
    assert len(await rows(bar)) == 1
    await settle_down(bar)


async def test_a_notice_is_still_known_after_a_restart(bar: StripeBar, paid: Payment) -> None:
    """What is in memory only saves a question to the store."""
    first = await receive(bar, notice(paid))
    await bar.coordinator.inbox.settled_down()
    await bar.restart()
    second = await receive(bar, notice(paid))

    assert (first, second) == (True, False)
    await settle_down(bar)


async def test_two_servers_take_a_notice_in_once(bar: StripeBar, paid: Payment) -> None:
    """Stripe may deliver it to both at the same time."""
    other = bar.another_coordinator()
    taken = await asyncio.gather(
        *(each.inbox.receive("stripe", notice(paid)) for each in (bar.coordinator, other) * 3)
    )
    await other.inbox.settled_down()
    await other.inbox.aclose()

    assert sorted(taken) == [False] * 5 + [True]
    await settle_down(bar)


async def test_what_another_server_left_is_taken_up(bar: StripeBar, paid: Payment) -> None:
    """By whoever looks next."""
    other = bar.another_coordinator()
    await other.inbox.aclose()
    taken = await other.inbox.receive("stripe", notice(paid))
    left = await statuses(bar)
    await bar.coordinator.inbox.take_up()

    assert (taken, left) == (True, [PENDING])
    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED]


# --- not known to be durable ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.UNAVAILABLE])
async def test_what_could_not_be_stored_is_refused_and_taken_when_it_comes_again(
    bar: StripeBar, paid: Payment, fault: Fault
) -> None:
    """Nothing is remembered of the first delivery."""
    bar.faulty.fail_writes(fault)
    with pytest.raises(StoreError):
        await receive(bar, notice(paid))
    left = await rows(bar)

    assert left == []
    assert await receive(bar, notice(paid))
    await settle_down(bar)


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_APPLIED, Fault.UNKNOWN_ABSENT])
async def test_whether_it_was_stored_is_found_out_before_it_is_acknowledged(
    bar: StripeBar, paid: Payment, fault: Fault
) -> None:
    """By the identical commit once more; then it is as any other."""
    bar.faulty.fail_writes(fault, fault)
    taken = await receive(bar, notice(paid))
    again = await receive(bar, notice(paid))

    assert (taken, again) == (True, False)
    assert len(await rows(bar)) == 1
    await settle_down(bar)


async def test_a_commit_that_is_applied_late_does_no_harm(bar: StripeBar, paid: Payment) -> None:
    """At most the payment is looked at once more."""
    bar.faulty.fail_writes(Fault.APPLIED_LATE)
    taken = await receive(bar, notice(paid))
    await bar.coordinator.inbox.settled_down()
    await bar.faulty.release()
    await bar.coordinator.inbox.take_up()

    assert taken
    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED]


async def test_who_waits_may_leave(bar: StripeBar, paid: Payment) -> None:
    """Once durable, a notice is worked off, whoever heard of it."""
    waiting = asyncio.create_task(receive(bar, notice(paid)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(bar.coordinator.inbox._durable.__len__)

    assert waiting.cancelled()
    await settle_down(bar)


# --- working off ----------------------------------------------------------------------------------


async def test_a_crash_after_the_receipt_loses_nothing(
    bar: StripeBar, fake: FakeStripe, paid: Payment
) -> None:
    """The next start takes up what was acknowledged, without Stripe and without a poll."""
    fake.script("sessions.retrieve", *["error_503"] * 50)
    taken = await receive(bar, notice(paid))
    await until(lambda: fake.calls["sessions.retrieve"])
    await bar.crash()
    fake.heal()
    await bar.resume()

    assert taken
    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED]


async def test_one_look_is_enough_for_many_notices(
    bar: StripeBar, fake: FakeStripe, paid: Payment
) -> None:
    """Those that came before it began; one more for those that came meanwhile."""
    taken = await asyncio.gather(*(receive(bar, notice(paid, f"evt_{n}")) for n in range(40)))

    assert all(taken)
    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED] * 40
    assert fake.calls["sessions.retrieve"] <= 2


async def test_notices_of_two_payments_do_not_wait_for_each_other(
    bar: StripeBar, fake: FakeStripe, paid: Payment
) -> None:
    """Each payment is looked at by itself."""
    await bar.seat(900, "s2")
    other = (await bar.create("s2")).payment
    fake.account.pay(other.provider_payment_id)
    fake.script("sessions.retrieve", "timeout", "ok")
    await receive(bar, notice(paid, "evt_1"))
    await until(lambda: fake.calls["sessions.retrieve"])
    await receive(bar, notice(other, "evt_2"))
    await until(lambda: len(bar.coordinator.inbox) == 1)

    states = [(await bar.payment(name=name)).status for name in ("s1", "s2")]
    await bar.crash()
    await bar.resume()

    assert states == [PAYMENT_STATUS_OPEN, PAYMENT_STATUS_SUCCEEDED]


async def test_it_is_done_when_what_was_found_is_durable(bar: StripeBar, paid: Payment) -> None:
    """The mark is part of the commit that settles the payment, and of no other."""
    await receive(bar, notice(paid))
    await settle_down(bar)
    marking = [
        commit
        for commit in bar.faulty.submitted
        if any(row.table == Table.INBOX and row.status == PROCESSED for row in commit.rows)
    ]

    assert len(marking) == 1
    assert len(marking[0].appends) == 1


async def test_a_settlement_that_was_refused_leaves_it_pending(
    bar: StripeBar, paid: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is done again, at the latest by the next start."""
    monkeypatch.setattr(inbox, "RETRY_S", (3600.0,))
    bar.faulty.fail_writes(Fault.NONE, Fault.UNAVAILABLE)
    await receive(bar, notice(paid))
    await until(lambda: not bar.faulty.pending)
    between = await bar.payment(), await statuses(bar)
    await bar.crash()
    await bar.resume()

    assert (between[0].status, between[1]) == (PAYMENT_STATUS_OPEN, [PENDING])
    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED]


async def test_a_look_that_finds_nothing_new_is_the_end_of_it_too(
    bar: StripeBar, paid: Payment
) -> None:
    """Polling was faster."""
    await bar.poll(3)
    await receive(bar, notice(paid))

    await settle_down(bar)
    assert await statuses(bar) == [PROCESSED]


async def test_a_provider_that_is_away_is_asked_again(
    bar: StripeBar, fake: FakeStripe, paid: Payment
) -> None:
    """Until it answers: a notice is never given up."""
    fake.script("sessions.retrieve", *["error_503"] * 2)
    await receive(bar, notice(paid))

    await settle_down(bar)


async def test_a_notice_of_nothing_is_put_aside(bar: StripeBar) -> None:
    """Stripe knows no such payment, and neither do we."""
    taken = await receive(bar, Notice("evt_1", "paid", "cs_test_nothing"))
    await bar.coordinator.inbox.settled_down()

    assert taken
    assert await statuses(bar) == [UNMATCHED]


# --- clearing away --------------------------------------------------------------------------------


async def test_what_is_old_and_done_is_deleted(bar: StripeBar, paid: Payment) -> None:
    """With its claim; what is young or not done yet stays."""
    await receive(bar, notice(paid, "evt_old"))
    await bar.coordinator.inbox.settled_down()
    idle = bar.another_coordinator().inbox
    await idle.aclose()
    await idle.receive("stripe", notice(paid, "evt_pending"))
    bar.clock.advance(KEPT_S + 1)
    await receive(bar, notice(paid, "evt_young"))
    await bar.coordinator.inbox.settled_down()
    purged = await bar.coordinator.inbox.purge()
    kept = [row.key for row in await rows(bar)]
    claims = {
        name: await bar.engine.store.claim("notice", f"stripe/{name}")
        for name in ("evt_old", "evt_pending", "evt_young")
    }

    assert purged == 1
    assert kept == ["stripe/evt_young", "stripe/evt_pending"]
    assert [name for name, claim in claims.items() if claim is None] == ["evt_old"]


async def test_more_than_a_page_is_deleted_at_once(bar: StripeBar) -> None:
    """However many there are."""
    many = [Notice(f"evt_{n}", "paid", "cs_test_nothing") for n in range(450)]
    await asyncio.gather(*(receive(bar, each) for each in many))
    await bar.coordinator.inbox.settled_down()
    bar.clock.advance(KEPT_S + 1)

    assert await bar.coordinator.inbox.purge() == 450
    assert await rows(bar) == []
