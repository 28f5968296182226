"""What a caller expects still holds after the server itself has found out about a payment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.payments.conftest import STAFF, Bar

from maitred.server.errors import ConcurrentModification
from maitred.server.stores.base import Ref
from maitred.v1 import payment_pb2 as pb
from maitred.v1.state_pb2 import (
    PAYMENT_METHOD_CASH,
    PAYMENT_STATUS_EXPIRED,
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
    Session,
)

PAST_EXPIRY_S = 4000


async def complete(bar: Bar, **fields: Any) -> pb.CompletePaymentResponse:
    """Take cash."""
    request = pb.CompletePaymentRequest(
        session_id="s1", method=PAYMENT_METHOD_CASH, reason="cash", **fields
    )
    answer = await bar.service.CompletePayment(request, STAFF)
    return pb.CompletePaymentResponse.FromString(answer)


def expected(session: Session, *names: str) -> dict[str, Any]:
    """Expect a session to be as it was read."""
    found = {
        "expected_version": session.version,
        "expected_payment_version": session.payment.version,
        "expected_reset_count": session.reset_count,
    }
    return {name: found[name] for name in names or found}


def interrupt(bar: Bar, change: str) -> None:
    """Have another guest of the table order as soon as something has happened."""
    orders: list[asyncio.Task[None]] = []

    def listen(_ref: Ref, name: str, *_: object) -> None:
        if name == change and not orders:
            orders.append(asyncio.create_task(bar.order(100)))

    bar.engine.committer.listeners.append(listen)


@pytest.mark.parametrize(
    "names", [(), ("expected_version",), ("expected_payment_version",)], ids=len
)
async def test_a_new_link_after_a_dead_one(bar: Bar, names: tuple[str, ...]) -> None:
    """That the server finds the old link dead is no change by others."""
    first = (await bar.create()).payment
    bar.clock.advance(PAST_EXPIRY_S)
    second = (await bar.create(**expected(await bar.session(), *names))).payment

    assert second.payment_id != first.payment_id
    assert second.status == PAYMENT_STATUS_OPEN
    assert (await bar.payment(first.payment_id)).status == PAYMENT_STATUS_EXPIRED


async def test_a_new_link_after_a_superseded_one(bar: Bar) -> None:
    """Nor that it withdraws a link that asks for too little."""
    await bar.create()
    await bar.order(700)
    second = (await bar.create(**expected(await bar.session()))).payment

    assert second.amount.minor_units == 2000


async def test_cash_after_a_link(bar: Bar) -> None:
    """Nor that it makes the link unusable before cash is taken."""
    await bar.create()
    answer = await complete(bar, **expected(await bar.session()))

    assert answer.payment.status == PAYMENT_STATUS_SUCCEEDED
    assert answer.payment.method == PAYMENT_METHOD_CASH


@pytest.mark.parametrize("names", [("expected_version",), ("expected_payment_version",)])
async def test_what_others_change_meanwhile_still_refuses(bar: Bar, names: tuple[str, ...]) -> None:
    """The tab is no longer the one that the caller has seen."""
    await bar.create()
    bar.clock.advance(PAST_EXPIRY_S)
    interrupt(bar, "payment_expired")
    with pytest.raises(ConcurrentModification):
        await bar.create(**expected(await bar.session(), *names))

    session = await bar.session()
    assert session.payment.tab_total.minor_units == 1400
    assert session.latest_payment.status == PAYMENT_STATUS_EXPIRED


async def test_cash_for_another_tab_is_refused(bar: Bar) -> None:
    """What was ordered while the link was withdrawn is not paid by what was counted before."""
    await bar.create()
    interrupt(bar, "payment_cancel_requested")
    with pytest.raises(ConcurrentModification):
        await complete(bar, **expected(await bar.session()))

    assert (await bar.session()).ledger.received == 0


async def test_a_wrong_expectation_is_refused_before_anything_is_found_out(bar: Bar) -> None:
    """Only what held at first is carried over."""
    await bar.create()
    bar.clock.advance(PAST_EXPIRY_S)
    before = await bar.session()
    with pytest.raises(ConcurrentModification):
        await bar.create(expected_version=before.version - 1)

    assert (await bar.session()).version == before.version
