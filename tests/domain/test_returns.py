"""Money that came by several ways, money that goes back, and what calls for a person meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from tests.domain.test_payments import S, Till

from maitred.server.domain import attention, orders, payments, receipts, refunds, settlement
from maitred.server.domain.money import money
from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)
from maitred.server.errors import RefundExceedsPaid
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    ATTENTION_DISPUTED,
    ATTENTION_OVERPAID,
    ATTENTION_REFUND_FAILED,
    ATTENTION_UNSPECIFIED,
    DISPUTE_STATUS_LOST,
    DISPUTE_STATUS_WON,
    PAYMENT_METHOD_CARD_TERMINAL,
    PAYMENT_METHOD_CASH,
    PAYMENT_METHOD_PROVIDER,
    REFUND_STATUS_PENDING,
    REFUND_STATUS_SUCCEEDED,
    Payment,
)


@pytest.fixture
def till(log: Any) -> Till:
    """A session with a martini on the tab."""
    log.add("martini")
    return Till(log)


def ways(payment: Payment) -> dict[int, tuple[int, int]]:
    """What came and what went back, by way."""
    return {
        each.method: (each.amount.minor_units, each.refunded_amount.minor_units)
        for each in payment.receipts
    }


def kinds(till: Till) -> list[int]:
    """What the session calls for."""
    return list(attention.kinds_of(till.log.session))


def give_back(till: Till, name: str, amount: int | None, method: Any, refund_id: str) -> Payment:
    """Record a refund of what came by one way."""
    wanted = None if amount is None else money(amount, "USD")
    return till.apply(
        refunds.refund(
            till.log.session,
            till.stored(name),
            till.log.now_ns,
            refund_id,
            wanted,
            "sorry",
            method,
        )
    )


def tell(till: Till, name: str, refund_id: str, state: RefundState) -> None:
    """Let the provider tell of a refund."""
    amount = next(
        each.amount.minor_units for each in till.stored(name).refunds if each.refund_id == refund_id
    )
    news = ProviderRefund(f"re-{refund_id}", state, amount, refund_id)
    till.apply(settlement.apply_refund(till.log.session, till.stored(name), news, "poll", 0))


def dispute(till: Till, name: str, state: DisputeState, which: str = "dp") -> Payment:
    """Let the provider tell of a dispute."""
    return till.hear(name, S.PAID, disputes=(ProviderDispute(which, state),))


@pytest.fixture(params=[PAYMENT_METHOD_CASH, PAYMENT_METHOD_CARD_TERMINAL])
def mixed(till: Till, request: pytest.FixtureRequest) -> Till:
    """A payment that was taken by hand, and whose link was paid as well."""
    till.open()
    till.hear("p1", S.EXPIRED)
    till.apply(till.by_hand("p1", request.param))
    till.hear("p1", S.PAID)
    return till


# --- ways -----------------------------------------------------------------------------------------


def test_money_is_kept_apart_by_the_way_it_came(mixed: Till) -> None:
    """Both are there, and the payment still says what settled it."""
    payment = mixed.stored("p1")

    assert ways(payment) == {payment.method: (1300, 0), PAYMENT_METHOD_PROVIDER: (1300, 0)}
    assert payment.method != PAYMENT_METHOD_PROVIDER
    assert [each.provider for each in payment.receipts] == ["house", "test"]
    assert payment.excess_amount == money(1300, "USD")


def test_a_refund_of_all_makes_one_for_each_way(mixed: Till) -> None:
    """The provider is asked for its own and no more; what came by hand goes back by hand."""
    payment = mixed.refund("p1")
    by_provider, by_hand = payment.refunds

    assert (by_provider.method, by_provider.amount.minor_units) == (PAYMENT_METHOD_PROVIDER, 1300)
    assert (by_provider.status, by_provider.key) == (REFUND_STATUS_PENDING, "p1:refund:r1")
    assert (by_hand.method, by_hand.amount.minor_units) == (payment.method, 1300)
    assert (by_hand.status, by_hand.key) == (REFUND_STATUS_SUCCEEDED, "")
    assert payment.refunded_amount == money(2600, "USD")
    mixed.check()


def test_each_way_is_given_back_and_never_more_of_it(mixed: Till) -> None:
    """In any order, in parts, and told what is left of what."""
    by_hand = mixed.stored("p1").method
    give_back(mixed, "p1", 800, by_hand, "r1")
    with pytest.raises(RefundExceedsPaid) as refused:
        give_back(mixed, "p1", 501, by_hand, "r2")
    give_back(mixed, "p1", None, by_hand, "r3")
    payment = give_back(mixed, "p1", None, PAYMENT_METHOD_PROVIDER, "r4")

    assert refused.value.metadata["refundable"] == "500"
    assert "PROVIDER=1300" in refused.value.metadata["ways"]
    assert ways(payment) == {by_hand: (1300, 1300), PAYMENT_METHOD_PROVIDER: (1300, 1300)}
    with pytest.raises(RefundExceedsPaid):
        mixed.refund("p1", 1, "r5")


def test_an_amount_beyond_one_way_is_taken_from_both(mixed: Till) -> None:
    """The provider's money goes first, because it is what came late."""
    payment = mixed.refund("p1", 2000)

    assert [each.amount.minor_units for each in payment.refunds] == [1300, 700]
    assert [each.refund_id for each in payment.refunds] == ["r1", "r1.2"]


def test_a_failed_refund_frees_its_own_way_only(mixed: Till) -> None:
    """What came by hand went back; the provider's money did not."""
    mixed.refund("p1")
    tell(mixed, "p1", "r1", RefundState.FAILED)
    payment = mixed.stored("p1")

    assert ways(payment)[PAYMENT_METHOD_PROVIDER] == (1300, 0)
    assert ways(payment)[payment.method] == (1300, 1300)
    mixed.check()


def test_money_that_comes_in_parts_is_all_there(till: Till) -> None:
    """What the provider took more than it said at first is credit, once."""
    till.open()
    till.hear("p1", S.PAID)
    payment = till.hear("p1", S.PAID, minor_units=1500)
    stale = till.says("p1", S.PAID)

    assert ways(payment) == {PAYMENT_METHOD_PROVIDER: (1500, 0)}
    assert (till.credit, stale) == (200, None)
    assert till.says("p1", S.PAID, minor_units=1500) is None
    till.check()


def test_late_money_in_another_currency_is_not_forgotten(till: Till) -> None:
    """It cannot be booked; a person is called, and it can be given back in its own currency."""
    till.open()
    till.hear("p1", S.EXPIRED)
    till.apply(till.by_hand("p1"))
    till.hear("p1", S.PAID, currency="EUR", minor_units=1200)
    waiting = till.stored("p1")
    called = kinds(till)
    till.apply(payments.reconcile(till.log.session, waiting, None, "looked", 0))
    payment = give_back(till, "p1", None, PAYMENT_METHOD_PROVIDER, "r1")

    assert waiting.received_amount == money(1300, "USD")
    assert called == [ATTENTION_AMOUNT_MISMATCH]
    assert kinds(till) == []
    assert payment.refunds[-1].amount == money(1200, "EUR")
    assert payment.refunded_amount == money(0, "USD")
    till.check()


def test_a_payment_from_before_receipts_gets_one(till: Till) -> None:
    """State of an older server can be refunded as it is."""
    till.open()
    till.hear("p1", S.PAID)
    old = till.stored("p1")
    del old.receipts[:]

    assert ways(settlement.copy(old)) == {PAYMENT_METHOD_PROVIDER: (1300, 0)}
    assert (
        receipts.refundable(settlement.copy(old), PAYMENT_METHOD_PROVIDER, "USD")[0].minor_units
        == 1300
    )


# --- disputes -------------------------------------------------------------------------------------


def test_a_dispute_won_leaves_nothing_behind(till: Till) -> None:
    """The money stays, and nobody has to look any more."""
    till.open()
    till.hear("p1", S.PAID)
    dispute(till, "p1", DisputeState.OPEN)
    called = kinds(till)
    payment = dispute(till, "p1", DisputeState.WON)

    assert called == [ATTENTION_DISPUTED]
    assert (payment.disputed, payment.attention, kinds(till)) == (False, 0, [])
    assert payment.disputes[0].status == DISPUTE_STATUS_WON
    assert payment.disputes[0].HasField("closed_at")
    assert till.log.session.ledger.refunded == 0


def test_a_dispute_lost_is_booked(till: Till) -> None:
    """The money is gone and cannot be given back again; what was served stays settled."""
    till.open()
    till.hear("p1", S.PAID)
    dispute(till, "p1", DisputeState.OPEN)
    payment = dispute(till, "p1", DisputeState.LOST)

    assert payment.disputes[0].status == DISPUTE_STATUS_LOST
    assert (payment.disputed, kinds(till)) == (False, [])
    assert payment.refunded_amount == money(1300, "USD")
    assert till.log.session.ledger.refunded == 1300
    assert till.log.tab == 0
    with pytest.raises(RefundExceedsPaid):
        till.refund("p1")
    assert till.says("p1", S.PAID, disputes=(ProviderDispute("dp", DisputeState.OPEN),)) is None
    till.check()


def test_a_loss_takes_the_credit_and_gives_it_back_if_it_is_reversed(till: Till) -> None:
    """Money that is gone is no credit of the guest's."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    dispute(till, "p1", DisputeState.LOST)
    after_loss = till.credit
    till.check()
    payment = dispute(till, "p1", DisputeState.WON)

    assert (after_loss, till.credit) == (0, 1300)
    assert payment.refunded_amount.minor_units == 0
    till.check()


def test_two_disputes_end_one_by_one(till: Till) -> None:
    """Each is an entry of its own."""
    till.open()
    till.hear("p1", S.PAID)
    dispute(till, "p1", DisputeState.OPEN, "dp1")
    dispute(till, "p1", DisputeState.OPEN, "dp2")
    payment = dispute(till, "p1", DisputeState.WON, "dp1")

    assert [item.source_id for item in payment.attention_items] == ["dp2"]
    assert payment.disputed


# --- attention ------------------------------------------------------------------------------------


def test_another_payment_never_clears_a_dispute(till: Till) -> None:
    """Nor hides it: the most urgent is shown, and all are in the set."""
    till.open()
    till.hear("p1", S.PAID)
    dispute(till, "p1", DisputeState.OPEN)
    till.log.add("daiquiri")
    till.open("p2")
    till.hear("p2", S.PAID)
    till.hear("p2", S.PAID, minor_units=1100)

    assert till.log.session.attention == ATTENTION_DISPUTED
    assert {(each.kind, each.payment_id) for each in till.log.session.attention_items} == {
        (ATTENTION_DISPUTED, "p1"),
        (ATTENTION_OVERPAID, "p2"),
    }
    dispute(till, "p1", DisputeState.WON)
    assert kinds(till) == [ATTENTION_OVERPAID]


@pytest.mark.parametrize("way", ["refunded", "used up"])
def test_overpaid_ends_with_the_credit(till: Till, way: str) -> None:
    """When it was given back, or paid for something else."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    called = kinds(till)
    if way == "refunded":
        till.refund("p1", 1300)
    else:
        till.log.add("martini")
        till.apply(till.request("p2"))

    assert (called, kinds(till), till.credit) == ([ATTENTION_OVERPAID], [], 0)
    # Its own row tells of its own last change; whoever reads it is told what has ended since.
    items = attention.items_of(till.log.session)
    stands = attention.as_it_stands(till.stored("p1"), items)
    assert stands.attention == ATTENTION_UNSPECIFIED


def test_the_newest_payment_is_told_what_an_older_one_ended(till: Till) -> None:
    """The credit of the newest is gone with the refund of an older one."""
    till.open()
    till.hear("p1", S.PAID)
    till.log.add("daiquiri")
    till.open("p2")
    till.log.remove(2)
    till.hear("p2", S.PAID)
    till.refund("p1", 1000)

    assert till.credit == 0
    assert till.log.session.latest_payment.payment_id == "p2"
    assert till.log.session.latest_payment.attention == ATTENTION_UNSPECIFIED
    assert till.log.fold() == till.log.session


def test_a_failed_refund_is_made_good_by_a_later_one(till: Till) -> None:
    """Not before the money is back, and not by less than it."""
    till.open()
    till.hear("p1", S.PAID)
    till.refund("p1", 1000, "r1")
    tell(till, "p1", "r1", RefundState.FAILED)
    till.refund("p1", 400, "r2")
    tell(till, "p1", "r2", RefundState.SUCCEEDED)
    after_a_part = kinds(till)
    till.refund("p1", 600, "r3")
    under_way = kinds(till)
    tell(till, "p1", "r3", RefundState.SUCCEEDED)

    assert after_a_part == under_way == [ATTENTION_REFUND_FAILED]
    assert kinds(till) == []


def test_reconciling_ends_what_was_known_and_nothing_newer(till: Till) -> None:
    """Nobody has looked yet at what the provider says only now; a dispute ends at the bank."""
    till.open()
    till.hear("p1", S.PAID)
    till.refund("p1", 100, "r1")
    till.refund("p1", 200, "r2")
    tell(till, "p1", "r1", RefundState.FAILED)
    dispute(till, "p1", DisputeState.OPEN)
    payment = till.stored("p1")
    news = ProviderSnapshot(
        ProviderStatus.PAID,
        provider_payment_id="x-p1",
        minor_units=1300,
        currency="USD",
        refunds=(ProviderRefund("re-r2", RefundState.FAILED, 200, "r2"),),
    )
    after = till.apply(payments.reconcile(till.log.session, payment, news, "looked", 0))

    assert {(each.kind, each.source_id) for each in after.attention_items} == {
        (ATTENTION_DISPUTED, "dp"),
        (ATTENTION_REFUND_FAILED, "r2"),
    }


# --- paid is what money paid ----------------------------------------------------------------------


def test_an_order_is_not_paid_by_a_part(till: Till) -> None:
    """Staff accepts less than was asked for: the rest is owed, until it is paid as well."""
    till.log.place()
    till.open()
    till.hear("p1", S.PAID, minor_units=1000)
    till.apply(till.by_hand("p1"))
    in_part = orders.is_paid(till.log.session, till.log.orders[1])
    left = till.log.tab
    till.open("p2")
    till.hear("p2", S.PAID)

    assert (in_part, left) == (False, 300)
    assert orders.is_paid(till.log.session, till.log.orders[1])
    till.check()


def test_an_order_that_credit_paid_is_paid(till: Till) -> None:
    """Credit is money that came before."""
    till.open()
    till.log.remove(1)
    till.hear("p1", S.PAID)
    till.log.add("martini")
    till.log.place()
    till.apply(till.request("p2"))

    assert orders.is_paid(till.log.session, till.log.orders[1])
    assert not orders.is_written_off(till.log.session, till.log.orders[1])
