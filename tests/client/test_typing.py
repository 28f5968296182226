"""The types of the public surface, as `make types` reads them.

A call that a type checker should refuse carries a `type: ignore` with its code; mypy reports one
that is not needed.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import maitred.client

if TYPE_CHECKING:
    from typing import assert_type

    from maitred.client import (
        AsyncClient,
        AsyncSessionHandle,
        Client,
        Conversation,
        Money,
        Order,
        OrderLine,
        PaymentState,
        PaymentUpdate,
        RequestedPayment,
        Session,
        SessionHandle,
        SessionUpdate,
        current_session,
    )

    async def awaited(client: AsyncClient) -> None:
        """What is awaited has its type."""
        guest = await client.create_session(opening_balance=Money(), labels={"table": "7"})
        assert_type(guest, AsyncSessionHandle)
        assert_type(guest.state, Session | None)
        assert_type(await guest.add_item("Negroni", quantity=2, expected_version=1), OrderLine)
        assert_type(await guest.remove_item(1), OrderLine | None)
        assert_type(await guest.place_order(request_id="r"), Order)
        assert_type(await guest.set_tip(15), PaymentState)
        assert_type(await guest.create_payment(), RequestedPayment)
        assert_type(await guest.record_turn([]), Conversation)
        assert_type(await client.get_session(session_id="s"), Session)
        async for item in guest.watch():
            assert_type(item, SessionUpdate)
        async for update in guest.watch_payment(end_when_settled=True):
            assert_type(update, PaymentUpdate)
        async for session in client.list_sessions():
            assert_type(session, Session)
        with guest.turn("t") as turn:
            assert_type(turn, AsyncSessionHandle)
        assert_type(current_session(AsyncSessionHandle), AsyncSessionHandle)
        assert_type(current_session(), Any)

    async def refused(client: AsyncClient, guest: AsyncSessionHandle) -> None:
        """What is wrong is an error before it runs."""
        await client.get_session("s")  # type: ignore[call-arg]  # keyword-only
        await guest.add_item(item="IPA", price=5)  # type: ignore[call-arg]  # a price is the menu's
        await guest.add_item("IPA", quantity="2")  # type: ignore[arg-type]  # a number
        await guest.place_order(expected_versoin=1)  # type: ignore[call-arg]  # misspelt
        await guest.set_tip(amount=1.5)  # type: ignore[arg-type]  # never a float
        guest.place_order()  # type: ignore[unused-coroutine]  # not awaited

    def called(client: Client) -> None:
        """The blocking twin has the same types."""
        guest = client.create_session()
        assert_type(guest, SessionHandle)
        assert_type(guest.add_item("Negroni"), OrderLine)
        for item in guest.watch():
            assert_type(item, SessionUpdate)
        for session in client.list_sessions():
            assert_type(session, Session)
        assert_type(current_session(SessionHandle), SessionHandle)


def test_every_annotation_resolves() -> None:
    """The types of the surface can be read at run time, by those who build tools from it."""
    for kind in (maitred.client.AsyncClient, maitred.client.Client):
        for name in dir(kind):
            method = getattr(kind, name)
            if not name.startswith("_") and callable(method):
                hints = typing.get_type_hints(getattr(method, "__func__", method))

                assert "return" in hints
