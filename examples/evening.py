"""A whole visit to a bar, told by a transcript: orders, a tip, two payments, and what goes wrong.

    python examples/evening.py --address 127.0.0.1:50051

The server's simulated guests must pay by themselves (`--simulated-outcome pay`); `make demo` starts
one that does. The exit code is 0 only if everything went as the transcript says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maitred.client import (
    AsyncClient,
    AsyncSessionHandle,
    MaitredError,
    Money,
    NewMessage,
    PaymentState,
    PaymentStatus,
    Phase,
    Session,
    SessionEvent,
    TabStatus,
    assistant,
    current_session,
    format_money,
    tool,
    user,
)

HERE = Path(__file__).resolve().parent
MENU_ID = "bar"

Facts = dict[str, Any]
Tool = Callable[..., Awaitable[Facts]]


# The tools of the agent. None is told the session: it is the one of the turn.


async def recommend(client: AsyncClient, preference: str, limit: int = 0) -> Facts:
    """Name drinks for a taste."""
    answer = await client.recommend(menu_id=MENU_ID, preference=preference, limit=limit)
    return {"items": [item.name for item in answer.items]}


async def mark_sold_out(client: AsyncClient, item: str) -> Facts:
    """The bar has run out of something."""
    await client.set_item_availability(menu_id=MENU_ID, item=item, sold_out=True)
    return {"sold_out": True}


async def add_item(
    _client: AsyncClient, item: str, quantity: int = 1, modifiers: Sequence[str] = ()
) -> Facts:
    """Put something on the tab, at the menu's price."""
    line = await guest().add_item(item, quantity=quantity, modifiers=modifiers)
    return {
        "line": line.line_number,
        "name": line.name,
        "modifiers": [modifier.name for modifier in line.modifiers],
        "quantity": line.quantity,
        "total": line.total.minor_units,
    }


async def remove_item(_client: AsyncClient, line_number: int, quantity: int | None = None) -> Facts:
    """Take something off again, before it is placed."""
    line = await guest().remove_item(line_number, quantity=quantity)
    return {"left": line.quantity if line else 0}


async def clear_order(_client: AsyncClient) -> Facts:
    """Forget what was not placed yet."""
    session = await guest().clear_order()
    return money_facts(session.payment)


async def place_order(_client: AsyncClient) -> Facts:
    """Send the order to the bar."""
    order = await guest().place_order()
    return {"number": order.number, "lines": len(order.lines), "total": order.total.minor_units}


async def get_bill(_client: AsyncClient) -> Facts:
    """What is owed."""
    return money_facts((await guest().get_payment_state()).state)


async def set_tip(
    _client: AsyncClient,
    percentage: int | None = None,
    amount: int | None = None,
    toggle: bool = False,
) -> Facts:
    """Set the tip as the guest asks."""
    return money_facts(await guest().set_tip(percentage, amount=amount, toggle=toggle))


async def create_payment(_client: AsyncClient) -> Facts:
    """Make the link to pay with."""
    payment = await guest().create_payment()
    # There is a link only where the guest can pay now; what else there is to do, the text says.
    link = {"url": payment.url} if payment.url else {}
    return {
        "amount": payment.amount.minor_units,
        "next": payment.next_action.text,
        "simulated": payment.is_simulated,
        **link,
    }


async def check_payment(_client: AsyncClient, wait: float) -> Facts:
    """See whether the guest has paid."""
    answer = await guest().check_payment(wait=wait)
    return {"status": short(PaymentStatus, answer.payment.status), **money_facts(answer.state)}


async def list_payments(_client: AsyncClient) -> Facts:
    """What was paid, newest first."""
    return {"amounts": [each.amount.minor_units async for each in guest().list_payments()]}


TOOLS: Mapping[str, Tool] = {
    function.__name__: function
    for function in (
        *(recommend, mark_sold_out, add_item, remove_item, clear_order, place_order),
        *(get_bill, set_tip, create_payment, check_payment, list_payments),
    )
}


def guest() -> AsyncSessionHandle:
    """The guest of the turn that is going on."""
    return current_session(AsyncSessionHandle)


def money_facts(state: PaymentState) -> Facts:
    """What a model is told of money, in cents."""
    return {
        "tab": state.tab_total.minor_units,
        "tip": state.tip_amount.minor_units,
        "total": state.total.minor_units,
        "balance": state.balance.minor_units,
    }


def session_facts(session: Session) -> Facts:
    """What the transcript may expect after a turn."""
    return {
        "phase": short(Phase, session.conversation.phase),
        "small_talk": session.conversation.small_talk_count,
        "status": short(TabStatus, session.payment.status),
        **money_facts(session.payment),
    }


def short(enum: Any, value: int) -> str:
    """The name of an enum's value without its prefix: ORDER_TAKING."""
    name: str = enum.Name(value)
    prefix: str = enum.Name(0).removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix)


class Evening:
    """One run of the transcript."""

    def __init__(self, client: AsyncClient, transcript: Mapping[str, Any]) -> None:
        self.client = client
        self.transcript = transcript
        self.failures: list[str] = []
        self.messages = 0

    async def run(self) -> None:
        """Live through it all."""
        menu = json.loads((HERE / "menu.json").read_text("utf-8"))
        await self.client.put_menu(menu=menu)
        visitor = await self.client.create_session(
            menu_id=MENU_ID,
            opening_balance=self.transcript["opening_balance"],
            labels={"table": "7"},
        )
        print(f"{self.transcript['title']}\nsession {visitor.session_id}\n")
        watching = asyncio.create_task(follow(visitor))
        for number, turn in enumerate(self.transcript["turns"], 1):
            await self.turn(visitor, number, turn)
        await self.leave(visitor)
        await watching

    async def turn(self, visitor: AsyncSessionHandle, number: int, turn: Mapping[str, Any]) -> None:
        """Play one turn; one that is marked so twice, as an agent does that crashed in it."""
        print(f"{number:3} guest      {turn['guest']}")
        for _ in range(2 if turn.get("run_twice") else 1):
            with visitor.turn(f"turn-{number}") as running:
                said: list[NewMessage] = [user(turn["guest"])]
                for call in turn.get("calls", ()):
                    result = await self.use(number, call)
                    said.append(tool(call["tool"], json.dumps(result)))
                said.append(assistant(turn["bartender"]))
                await running.record_turn(said)
        self.messages += len(said)
        print(f"    bartender  {turn['bartender']}")
        if visitor.state is not None:
            self.expect(f"turn {number}", turn["expect"], session_facts(visitor.state))

    async def use(self, number: int, call: Mapping[str, Any]) -> Facts:
        """Use a tool, and compare what comes of it; a refusal is an answer like any other."""
        name = call["tool"]
        try:
            result = await TOOLS[name](self.client, **call.get("arguments", {}))
        except MaitredError as error:
            result = {"error": error.reason, "message": error.message}
        print(f"    {name:14} {json.dumps(result)}")
        wanted = {"error": call["error"]} if "error" in call else call.get("expect", {})
        self.expect(f"turn {number}, {name}", wanted, result)
        return result

    async def leave(self, visitor: AsyncSessionHandle) -> None:
        """Close the session, and see that everything is in the book."""
        recorded = [message async for message in visitor.list_messages()]
        events = [event.version async for event in visitor.list_events()]
        session = await visitor.close()
        state = session.payment
        self.expect(
            "the end",
            {"messages": self.messages, "events": list(range(1, session.version)), "owed": 0},
            {"messages": len(recorded), "events": events, "owed": state.total.minor_units},
        )

    def expect(self, where: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Note where something is not as the transcript says."""
        for name, value in wanted.items():
            if found.get(name) != value:
                self.failures.append(f"{where}: {name} is {found.get(name)!r}, not {value!r}")
                print(f"!!! {self.failures[-1]}")


async def follow(visitor: AsyncSessionHandle) -> None:
    """Print every change of tab, tip, phase and payment, as a screen beside the bar would."""
    async with visitor.watch() as watch:
        async for item in watch:
            if not isinstance(item, SessionEvent):
                continue
            told = describe(item)
            if told:
                print(f"{'':40}| v{item.version:<3} {told}")
            if item.change == "session_closed":
                return


def describe(item: SessionEvent) -> str:
    """Say what an event changed."""
    if item.change == "turn_recorded":
        turn = item.event.turn_recorded
        if turn.phase_from == turn.phase_to:
            return ""
        return f"phase {short(Phase, turn.phase_from)} -> {short(Phase, turn.phase_to)}"
    change = getattr(item.event, item.change)
    parts = [item.change.replace("_", " ")]
    if item.change.startswith("payment_"):
        payment = change.payment
        parts.append(f"{short(PaymentStatus, payment.status)} {format_money(payment.amount)}")
    state = getattr(change, "state" if item.change.startswith("payment_") else "payment", None)
    if isinstance(state, PaymentState):
        parts += [shown("tab", state.tab_total), shown("tip", state.tip_amount)]
        parts.append(shown("left", state.balance))
    return "  ".join(parts)


def shown(name: str, amount: Money) -> str:
    """One amount with its name."""
    return f"{name} {format_money(amount)}"


async def main() -> int:
    """Run the evening and say how it went."""
    parser = argparse.ArgumentParser(description="A whole visit to a bar.")
    parser.add_argument("--address", default="127.0.0.1:50051", help="where maitred listens")
    parser.add_argument("--token", default=None, help="bearer token of role STAFF")
    parser.add_argument("--transcript", default=str(HERE / "transcript.json"), type=Path)
    arguments = parser.parse_args()
    transcript = json.loads(arguments.transcript.read_text("utf-8"))
    async with AsyncClient(arguments.address, token=arguments.token) as client:
        evening = Evening(client, transcript)
        await evening.run()
    turns = len(transcript["turns"])
    if evening.failures:
        print(f"\n{len(evening.failures)} expectations of {turns} turns did not hold")
        return 1
    print(f"\n{turns} turns, all as expected")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
