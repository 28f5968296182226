"""No amount and no sum leaves its bounds, whatever is done and whatever providers say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.test_payments import TERMS, Till

from maitred.server.domain import balances, orders, payments, sessions, tips
from maitred.server.domain.money import MAX_MINOR_UNITS, money
from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    ProviderStatus,
    RefundState,
)
from maitred.server.errors import AmountOutOfRange, MaitredError
from maitred.v1.common_pb2 import Money
from maitred.v1.payment_pb2 import AdjustBalanceRequest, SetTipRequest
from maitred.v1.state_pb2 import (
    ATTENTION_AMOUNT_MISMATCH,
    BALANCE_POLICY_BUDGET,
    BALANCE_POLICY_LIMIT,
    Ledger,
)

MOST = MAX_MINOR_UNITS
WIDE = dataclasses.replace(TERMS, maximum=MOST)
AMOUNTS = st.sampled_from([1, 999, MOST // 2, MOST - 1, MOST])


def amounts(message: Message) -> Iterator[int]:
    """Every amount and sum in a message, at any depth."""
    if isinstance(message, Money):
        yield message.minor_units
    for field, value in message.ListFields():
        if isinstance(message, Ledger):
            yield value
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        elif isinstance(value, Message):
            yield from amounts(value)
        else:
            for each in value:
                yield from amounts(each)


def adjust(log: Any, delta: int) -> None:
    """Adjust the balance."""
    request = AdjustBalanceRequest(delta=money(delta, "USD"), reason="x")
    log.apply(balances.adjust(log.session, request))


def test_what_is_on_the_tab_can_always_be_given_back(new_log: Callable[..., Any]) -> None:
    """Charge, adjust, clear: the adjustment is what would go too far, and is told so."""
    log = new_log(opening_balance=money(MOST, "USD"))
    log.add("Gold", open_price=money(MOST, "USD"))
    with pytest.raises(AmountOutOfRange) as refused:
        adjust(log, MOST)
    log.clear()

    assert refused.value.metadata["operation"] == "adjust"
    assert refused.value.metadata["maximum"] == str(MOST)
    assert "10000000000.00 USD" in refused.value.message
    assert log.balance == MOST


def test_sums_since_the_last_reset_are_bounded_and_a_reset_begins_anew(
    new_log: Callable[..., Any],
) -> None:
    """Charging and clearing for ever does not overflow the ledger."""
    log = new_log(opening_balance=money(MOST, "USD"))
    log.add("Gold", open_price=money(MOST, "USD"))
    log.clear()
    with pytest.raises(AmountOutOfRange) as refused:
        log.add("Gold", open_price=money(1, "USD"))
    log.apply(sessions.reset(log.session, "x", staff=True))
    log.add("Gold", open_price=money(1, "USD"))

    assert refused.value.metadata["operation"] == "charge"


def test_a_tip_does_not_bring_the_total_out_of_bounds(new_log: Callable[..., Any]) -> None:
    """Neither may be too large, nor both together."""
    log = new_log(opening_balance=money(MOST, "USD"))
    log.add("Gold", open_price=money(MOST, "USD"))
    with pytest.raises(AmountOutOfRange) as refused:
        log.tip(amount=money(1, "USD"))

    assert refused.value.metadata["operation"] == "set_tip"


def test_money_that_cannot_be_booked_waits_for_a_person(new_log: Callable[..., Any]) -> None:
    """A provider's fact is never refused."""
    till = Till(new_log(opening_balance=money(MOST, "USD")))
    till.log.add("Gold", open_price=money(MOST, "USD"))
    till.apply(till.request("p1", WIDE))
    till.hear("p1", ProviderStatus.EXPIRED)
    till.apply(till.by_hand("p1"))
    payment = till.hear("p1", ProviderStatus.PAID)

    assert payment.attention == till.log.session.attention == ATTENTION_AMOUNT_MISMATCH
    assert payment.received_amount == money(MOST, "USD")
    assert till.says("p1", ProviderStatus.PAID) is None
    till.check()


STEPS = ("add", "clear", "adjust", "lower", "tip", "create", "hand", "hear", "refund", "reset")


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    length=st.integers(1, 25),
    policy=st.sampled_from([BALANCE_POLICY_BUDGET, BALANCE_POLICY_LIMIT]),
)
def test_no_state_and_no_event_holds_more_than_the_bound(
    data: st.DataObject, length: int, policy: Any, new_log: Callable[..., Any]
) -> None:
    """The largest amounts, in any order; and the books are right to the cent all the while."""
    till = Till(new_log(opening_balance=money(MOST, "USD"), balance_policy=policy))
    since_reset = till
    for number in range(length):
        kind, amount = data.draw(st.sampled_from(STEPS)), data.draw(AMOUNTS)
        name = data.draw(st.sampled_from(sorted(till.payments))) if till.payments else ""
        if kind == "hear" and name:
            # Outside of any net: no fact is ever refused.
            hear(till, name, data)
        else:
            try:
                step(till, kind, amount, name, f"p{number}")
            except MaitredError:
                continue
        for message in (till.log.session, till.log.events[-1], *till.payments.values()):
            assert all(-MOST <= each <= MOST for each in amounts(message))
        if not till.log.session.reset_count:
            since_reset.check()
    assert till.log.fold() == till.log.session


def hear(till: Till, name: str, data: st.DataObject) -> None:
    """Let the provider say whatever it likes."""
    news: dict[str, Any] = {"minor_units": data.draw(AMOUNTS)}
    if data.draw(st.booleans()):
        news["minor_units"] = till.stored(name).amount.minor_units
    if data.draw(st.booleans()):
        state = data.draw(st.sampled_from(list(RefundState)))
        news["refunds"] = (
            ProviderRefund(f"re-{len(till.log.events)}", state, news["minor_units"]),
        )
    if data.draw(st.booleans()):
        decided = data.draw(st.sampled_from(list(DisputeState)))
        news["disputes"] = (ProviderDispute("dp", decided, news["minor_units"]),)
    till.hear(name, data.draw(st.sampled_from(list(ProviderStatus))), **news)


def step(till: Till, kind: str, amount: int, name: str, new: str) -> None:
    """Do one thing."""
    log = till.log
    match kind:
        case "add":
            log.add("Gold", open_price=money(amount, "USD"))
        case "clear":
            event = orders.clear(log.session)
            if event is not None:
                log.apply(event)
        case "adjust" | "lower":
            adjust(log, amount if kind == "adjust" else -amount)
        case "tip":
            event = tips.set_tip(log.session, SetTipRequest(amount=money(amount, "USD")), ())
            if event is not None:
                log.apply(event)
        case "create":
            event = payments.request_payment(log.session, log.now_ns, new, WIDE)
            if event is not None:
                till.apply(event)
        case "hand":
            event = till.by_hand(new=new)
            if event is not None:
                till.apply(event)
        case "refund" if name:
            till.refund(name, None, f"r-{new}")
        case "reset":
            log.apply(sessions.reset(log.session, "x", staff=True))
