"""A watch until settled ends with the payment that it is about, and says what became of it."""

from __future__ import annotations

import asyncio
import copy
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from maitred.client import (
    AsyncClient,
    NextAction,
    NextActionKind,
    Payment,
    PaymentMethod,
    PaymentOutcome,
    RequestedPayment,
)
from maitred.v1.payment_pb2 import CreatePaymentResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from maitred.client import AsyncSessionHandle

PENDING = PaymentOutcome.PAYMENT_OUTCOME_PENDING
PAID = PaymentOutcome.PAYMENT_OUTCOME_PAID
DEAD = PaymentOutcome.PAYMENT_OUTCOME_DEAD
SUPERSEDED = PaymentOutcome.PAYMENT_OUTCOME_SUPERSEDED


@asynccontextmanager
async def outcomes(
    guest: AsyncSessionHandle, payment_id: str = ""
) -> AsyncIterator[asyncio.Task[list[int]]]:
    """Collect what a watch until settled says, from before the body on."""
    begun = asyncio.Event()

    async def follow() -> list[int]:
        seen = []
        async for update in guest.watch_payment(payment_id=payment_id, end_when_settled=True):
            seen.append(int(update.outcome))
            begun.set()
        return seen

    task = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(20):
            await begun.wait()
            yield task
    finally:
        task.cancel()


async def cash(guest: AsyncSessionHandle) -> None:
    """Settle the tab at the bar."""
    method = PaymentMethod.PAYMENT_METHOD_CASH
    await guest.complete_payment(method=method, reason="paid at the bar")


async def test_a_second_round_does_not_end_with_the_payment_of_the_first(
    client: AsyncClient,
) -> None:
    """The watch waits for the payment that is to come; who comes late to it is told at once."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    await cash(guest)
    await guest.add_item("IPA")
    async with outcomes(guest) as seen:
        await guest.create_payment()
        assert not seen.done()
        await cash(guest)
        said = await seen
    async with outcomes(guest) as late:
        told = await late

    assert said[0] == PENDING
    assert said[-1] == PAID
    assert PAID not in said[:-1]
    assert told == [PAID]


async def test_a_canceled_link_is_dead_and_not_paid(client: AsyncClient) -> None:
    """It ends the watch that saw it open, and none that begins later."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    await guest.create_payment()
    async with outcomes(guest) as seen:
        await guest.cancel_payment()
        said = await seen
    async with outcomes(guest) as late:
        await guest.add_item("IPA")
        assert not late.done()
        await cash(guest)
        told = await late

    assert (said[0], said[-1]) == (PENDING, DEAD)
    assert (told[0], told[-1]) == (DEAD, PAID)


async def test_a_superseded_link_is_followed_by_the_next(client: AsyncClient) -> None:
    """Who watches no one payment goes on; who watches that one is told what became of it."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    first = await guest.create_payment()
    async with outcomes(guest) as tab, outcomes(guest, first.payment_id) as one:
        await guest.add_item("IPA")
        await guest.create_payment()
        told = await one
        assert not tab.done()
        await guest.cancel_payment()
        said = await tab

    assert told[-1] == SUPERSEDED
    assert SUPERSEDED in said
    assert said[-1] == DEAD


async def test_cash_for_an_open_link_is_told_as_paid_and_never_as_dead(
    client: AsyncClient,
) -> None:
    """The link is withdrawn first, but whoever waits for the tab is not told that it is over."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    link = await guest.create_payment()
    async with outcomes(guest) as tab, outcomes(guest, link.payment_id) as one:
        await cash(guest)
        said, told = await tab, await one

    assert DEAD not in said
    assert (said[0], said[-1]) == (PENDING, PAID)
    assert DEAD not in told
    assert told[-1] == SUPERSEDED


async def test_who_asks_for_a_payment_is_told_what_to_do(client: AsyncClient) -> None:
    """In the answer, in a check of it and in the watch; a url is there only to be shown."""
    guest = await client.create_session()
    await guest.add_item("IPA")
    asked = await guest.create_payment()
    again = await guest.create_payment()
    checked = await guest.check_payment()
    update = await anext(aiter(guest.watch_payment()))
    await cash(guest)
    paid = await guest.check_payment()

    assert asked.next_action.kind == NextActionKind.NEXT_ACTION_KIND_PAY
    assert (asked.url, asked.outcome) == (asked.payment.url, PENDING)
    assert asked.url
    assert (asked.amount.minor_units, asked.is_simulated) == (600, True)
    assert asked == again == asked.payment
    assert checked.next_action == asked.next_action == update.next_action
    assert (paid.outcome, paid.next_action.kind) == (PAID, NextActionKind.NEXT_ACTION_KIND_NONE)


def test_a_link_that_must_not_be_shown_has_no_url() -> None:
    """Whatever the payment itself still knows of it."""
    answer = CreatePaymentResponse(
        payment=Payment(payment_id="p", url="https://pay.example/p"),
        next_action=NextAction(kind=NextActionKind.NEXT_ACTION_KIND_WAIT, text="wait"),
    )
    asked = RequestedPayment(answer)

    assert asked.url == ""
    assert "wait" in repr(asked)
    assert copy.copy(asked) == asked
