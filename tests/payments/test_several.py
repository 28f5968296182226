"""Several servers and one provider: routine on one of them, and every effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.payments.conftest import STAFF, Bar, usd
from tests.support.shared import Shared

from maitred.server.kinds.session import session_ref
from maitred.server.kinds.tables import Table
from maitred.server.payments import duty, inbox, simulated, sweep
from maitred.server.payments.coordinator import PaymentCoordinator
from maitred.server.payments.provider import Notice
from maitred.server.stores.base import RowFilter
from maitred.server.stores.memory import MemoryStore
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
)

GUESTS = tuple(f"g{number}" for number in range(10))


class House:
    """Two servers on one store, with one provider's books."""

    def __init__(self, books: Path) -> None:
        self.first, self.second = Bar("memory://", books), Bar("memory://", books)
        self.clock = self.second.clock = self.first.clock
        self.store = MemoryStore(clock_ns=self.clock.now_ns)

    async def open(self) -> None:
        """Start both servers; nobody is on duty yet."""
        info = await self.store.open()
        for bar in self.bars:
            bar.store = Shared(self.store, info)
            bar.build({})
            await bar.start()

    @property
    def bars(self) -> tuple[Bar, Bar]:
        """Both servers."""
        return self.first, self.second

    async def seat(self, *guests: str, on: Bar) -> list[Payment]:
        """Let guests order and ask to pay."""
        opened = []
        for guest in guests:
            await on.seat(name=guest)
            opened.append((await on.create(guest)).payment)
        return opened

    async def changes(self, guest: str) -> list[str]:
        """Name everything that happened in a session."""
        events = await self.first.engine.events(session_ref(guest), 0, 1000)
        return [str(event.WhichOneof("change")) for event in events]


async def on_duty(bar: Bar) -> bool:
    """Try for the lease, and wait until what is open was taken up."""
    await bar.coordinator.duty.tend()
    while bar.coordinator.duty.held and not bar.coordinator._poller._tracked:
        await asyncio.sleep(0)
    return bar.coordinator.duty.held


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Two servers without anything in their background but what a test does."""
    house = House(tmp_path / "books")
    await house.open()
    yield house
    for bar in house.bars:
        await bar.stop()
    await house.store.close()


async def test_one_server_asks_as_a_matter_of_routine(house: House) -> None:
    """The one on duty asks about all payments, those of other servers too; the other about none."""
    await house.seat("g1", on=house.first)
    held = [await on_duty(bar) for bar in house.bars]
    await house.seat("g2", on=house.second)
    await house.first.coordinator.find_new(every=False)
    house.clock.advance(3)
    asked = [await bar.coordinator.poll_due() for bar in house.bars]

    assert held == [True, False]
    assert asked == [2, 0]


async def test_new_payment_of_another_server_is_left_to_it_for_a_moment(house: House) -> None:
    """What another server may be in the midst of creating is not asked about at once."""
    await house.seat("g1", on=house.first)
    assert await on_duty(house.first)
    await house.first.coordinator.poll_due()
    await house.seat("g2", on=house.second)
    for every in (False, True):
        await house.first.coordinator.find_new(every=every)

    assert await house.first.coordinator.poll_due() == 0


async def test_who_takes_over_takes_up_everything_anew(house: House) -> None:
    """When a server is gone, another one knows all open payments and asks about them at once."""
    paid, _ = await house.seat("g1", "g2", on=house.first)
    assert await on_duty(house.first)
    simulated.pay(house.first.books, paid.url, clock=house.clock)
    early = await on_duty(house.second)
    house.clock.advance(duty.LEASE_S + 1)
    late = await on_duty(house.second)
    asked = await house.second.coordinator.poll_due()
    await house.first.coordinator.duty.tend()

    assert (early, late) == (False, True)
    assert asked == 2
    assert (await house.second.payment(name="g1")).status == PAYMENT_STATUS_SUCCEEDED
    assert not house.first.coordinator.duty.held
    assert await house.first.coordinator.poll_due() == 0


async def test_server_that_stops_hands_the_duty_over(house: House) -> None:
    """A clean stop makes nobody wait for the lease to end."""
    await house.seat("g1", on=house.first)
    assert await on_duty(house.first)
    await house.first.coordinator.duty.aclose()
    house.clock.advance(duty.RELEASE_S)

    assert await on_duty(house.second)


async def test_server_that_cannot_renew_stops_asking(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lost the store is off duty when its lease ends, without being told."""
    monkeypatch.setattr(duty, "LEASE_S", 0.05)
    await house.seat("g1", on=house.first)
    assert await on_duty(house.first)
    store = house.first.store
    assert isinstance(store, Shared)
    store.lose()
    async with asyncio.timeout(10):
        while house.first.coordinator.duty.held:
            await asyncio.sleep(0.001)
    house.clock.advance(3)

    assert await house.first.coordinator.poll_due() == 0


async def test_two_servers_that_ask_at_once_settle_once(house: House) -> None:
    """A lease saves work and nothing else: without it every payment is settled once, too."""
    opened = await house.seat(*GUESTS, on=house.first)
    for payment in opened:
        simulated.pay(house.first.books, payment.url, clock=house.clock)
    await asyncio.gather(*(bar.check(name=guest) for guest in GUESTS for bar in house.bars * 2))

    for guest in GUESTS:
        assert (await house.changes(guest)).count("payment_succeeded") == 1
        assert (await house.first.session(guest)).payment.tab_total.minor_units == 0


async def test_each_notice_is_taken_in_once_and_looked_at(house: House) -> None:
    """Sent to both servers, more than once: one takes it in, the payment is settled once."""
    opened = await house.seat(*GUESTS, on=house.first)
    for payment in opened:
        simulated.pay(house.first.books, payment.url, clock=house.clock)
    notices = [
        Notice(f"evt_{payment.payment_id}", "paid", reference=payment.provider_payment_id)
        for payment in opened
    ]
    taken = await asyncio.gather(
        *(
            bar.coordinator.inbox.receive(bar.provider.name, notice)
            for notice in notices
            for bar in house.bars * 2
        )
    )
    for bar in house.bars:
        await bar.coordinator.inbox.settled_down()
    rows = await house.store.list_rows(Table.INBOX, RowFilter(), None, 100)

    assert sum(taken) == len(GUESTS)
    assert {row.status for row in rows} == {inbox.PROCESSED}
    for guest in GUESTS:
        assert (await house.changes(guest)).count("payment_succeeded") == 1


async def test_notices_that_were_left_are_taken_up_by_all_and_do_no_harm(house: House) -> None:
    """A server that dies leaves notices; whoever takes them up, each payment is settled once."""
    opened = await house.seat(*GUESTS, on=house.first)
    dead = PaymentCoordinator(house.first.engine, house.first.gateways, background=False)
    for payment in opened:
        simulated.pay(house.first.books, payment.url, clock=house.clock)
        notice = Notice(f"evt_{payment.payment_id}", "paid", reference=payment.provider_payment_id)
        assert await dead.inbox.receive(house.first.provider.name, notice)
        await dead.inbox.aclose()
        dead = PaymentCoordinator(house.first.engine, house.first.gateways, background=False)
    await asyncio.gather(*(bar.coordinator.inbox.take_up() for bar in house.bars))
    for bar in house.bars:
        await bar.coordinator.inbox.settled_down()
    rows = await house.store.list_rows(Table.INBOX, RowFilter(), None, 100)

    assert [row.status for row in rows] == [inbox.PROCESSED] * len(GUESTS)
    for guest in GUESTS:
        assert (await house.changes(guest)).count("payment_succeeded") == 1


async def test_two_servers_make_one_link(house: House) -> None:
    """Asked for the same payment on both servers at once, the provider makes one link of it."""
    for guest in GUESTS:
        await house.first.seat(name=guest)
    answers = await asyncio.gather(
        *(bar.create(guest) for guest in GUESTS for bar in house.bars * 2), return_exceptions=True
    )
    opened = [await house.second.payment(name=guest) for guest in GUESTS]
    links = simulated.unpaid(house.first.books, clock=house.clock)

    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    assert {payment.status for payment in opened} == {PAYMENT_STATUS_OPEN}
    assert sorted(link.url for link in links) == sorted(payment.url for payment in opened)


async def test_refund_is_given_once(house: House) -> None:
    """Carried on by both servers at once, a refund gives the money back once."""
    (payment,) = await house.seat("g1", on=house.first)
    simulated.pay(house.first.books, payment.url, clock=house.clock)
    await house.first.check(name="g1")
    request = pb.RefundPaymentRequest(
        session_id="g1",
        payment_id=payment.payment_id,
        amount=usd(500),
        reason="warm beer",
        request_id="back",
    )
    await asyncio.gather(*(bar.service.RefundPayment(request, STAFF) for bar in house.bars * 2))
    asking = pb.ReconcilePaymentRequest(
        session_id="g1", payment_id=payment.payment_id, reason="sure?"
    )
    await asyncio.gather(*(bar.service.ReconcilePayment(asking, STAFF) for bar in house.bars))
    refunded = await house.second.payment(name="g1")
    stored = await house.first.provider.retrieve(payment.provider_payment_id)

    assert refunded.refunded_amount.minor_units == 500
    assert [refund.minor_units for refund in stored.refunds] == [500]


async def test_the_day_is_swept_once(house: House) -> None:
    """After one server has compared the books, none does it again that day."""
    house.first.coordinator.sweep.start()
    held_ns = round((sweep.LEASE_S + 1) * 1e9)
    leases = house.store._state.leases
    async with asyncio.timeout(10):
        while sweep.LEASE not in leases or leases[sweep.LEASE].expires_ns < (
            house.clock.now_ns() + held_ns
        ):
            await asyncio.sleep(0.001)
    await house.first.coordinator.sweep.stop()
    house.clock.advance(sweep.EVERY_S - 2 * sweep.LEASE_S)

    assert await house.first.provider.calls("completed") == 1
    assert await house.store.lease(sweep.LEASE, "other", 1) is None


async def test_everything_goes_on_after_an_outage(house: House) -> None:
    """Paid while the store was away and every notice lost, it is settled when the store is back."""
    opened = await house.seat("g1", on=house.first)
    assert await on_duty(house.first)
    store = house.first.store
    assert isinstance(store, Shared)
    store.lose()
    simulated.pay(house.first.books, opened[0].url, clock=house.clock)
    await house.first.coordinator.poll_due()
    store.regain()
    house.clock.advance(60)
    assert await on_duty(house.first)
    await house.first.coordinator.poll_due()

    assert (await house.second.payment(name="g1")).status == PAYMENT_STATUS_SUCCEEDED
    assert (await house.changes("g1")).count("payment_succeeded") == 1
