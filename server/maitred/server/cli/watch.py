"""maitred watch: follow a session as it changes, in readable form."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys

import grpc
from google.protobuf.json_format import MessageToJson

from maitred.server.cli.connection import Connection, connect
from maitred.server.cli.words import enum_word, money_word, safe, show, when
from maitred.v1 import session_pb2, state_pb2
from maitred.v1.event_pb2 import Event

_LONGEST_PAUSE_S = 5.0
_COLOURS = {"session": "35", "turn": "36", "context": "36", "phase": "36", "payment": "32"}


def watch(arguments: argparse.Namespace) -> int:
    """Print changes until the session is gone or somebody interrupts."""
    asyncio.run(_watch(arguments))
    return 0


async def _watch(arguments: argparse.Namespace) -> None:
    request = session_pb2.WatchSessionRequest(session_id=arguments.session)
    if arguments.after is not None:
        request.after_version = arguments.after
    tell = _as_json if arguments.json else _as_text
    pause_s = 0.0
    async with connect(arguments) as server:
        while True:
            try:
                if await _follow(server, request, tell):
                    return
                pause_s = 0.0
            except grpc.aio.AioRpcError as error:
                # Without a token nothing was seen yet: the first connection has to work.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not request.resume_token:
                    raise
                show(f"connection lost ({error.details()}); resuming", file=sys.stderr)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2 or 0.25)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  spreads load


async def _follow(
    server: Connection, request: session_pb2.WatchSessionRequest, tell: object
) -> bool:
    """Show one stream's messages; whether the session is gone."""
    assert callable(tell)
    messages = server.stream(
        "SessionService/WatchSession", request, session_pb2.WatchSessionResponse
    )
    async for message in messages:
        tell(message)
        if message.resume_token:
            request.ClearField("after_version")
            request.resume_token = message.resume_token
        if message.WhichOneof("update") == "end":
            return True
    return False


def _as_json(message: session_pb2.WatchSessionResponse) -> None:
    if message.WhichOneof("update") != "heartbeat":
        show(MessageToJson(message, preserving_proto_field_name=True, indent=None))


def _as_text(message: session_pb2.WatchSessionResponse) -> None:
    match message.WhichOneof("update"):
        case "snapshot":
            show(_snapshot(message.snapshot), painted=True)
        case "events":
            for event in message.events.events:
                show(_event(event), painted=True)
        case "end":
            show("the session was deleted")


def _snapshot(session: state_pb2.Session) -> str:
    return _paint(
        "1",
        f"{safe(session.session_id)} at version {session.version}: "
        f"{enum_word(state_pb2.SessionStatus, session.status)}, "
        f"{enum_word(state_pb2.Phase, session.conversation.phase)}, "
        f"balance {money_word(session.payment.balance)}, "
        f"tab {money_word(session.payment.tab_total)}",
    )


def _event(event: Event) -> str:
    change = event.WhichOneof("change") or "unknown change"
    colour = _COLOURS.get(change.partition("_")[0], "33")
    head = f"{when(event.time)}  {event.version:>5}  "
    who = _paint("2", safe(event.actor))
    return f"{head}{_paint(colour, f'{change:<26}')} {safe(describe(event))}  {who}"


def describe(event: Event) -> str:
    """Say in a few words what an event did."""
    match event.WhichOneof("change"):
        case "session_created" | "visit_started" as change:
            return f"balance {money_word(getattr(event, change).session.payment.balance)}"
        case "line_added":
            added = event.line_added
            line = added.line
            return (
                f"{line.quantity} × {line.name} {money_word(line.total)}"
                f", tab {money_word(added.payment.tab_total)}"
            )
        case "line_removed":
            removed = event.line_removed
            return (
                f"line {removed.line_number}: {removed.quantity} less"
                f", tab {money_word(removed.payment.tab_total)}"
            )
        case "order_cleared":
            return f"tab {money_word(event.order_cleared.payment.tab_total)}"
        case "order_placed":
            order = event.order_placed.order
            return f"order {order.number}, {len(order.lines)} lines, {money_word(order.total)}"
        case "line_voided":
            voided = event.line_voided
            return f"line {voided.line_number}, tab {money_word(voided.payment.tab_total)}"
        case "turn_recorded":
            turn = event.turn_recorded
            told = " ⏎ ".join(each.text for each in turn.messages)
            return (
                f"{enum_word(state_pb2.Phase, turn.phase_from)} → "
                f"{enum_word(state_pb2.Phase, turn.phase_to)}: {told[:160]}"
            )
        case "balance_adjusted":
            return f"balance {money_word(event.balance_adjusted.payment.balance)}"
        case "tip_set":
            state = event.tip_set.payment
            return f"tip {money_word(state.tip_amount)}, total {money_word(state.total)}"
        case str(change) if change.startswith("payment_"):
            payment = getattr(event, change).payment
            status = enum_word(state_pb2.PaymentStatus, payment.status)
            return f"{status} {money_word(payment.amount)} {payment.url}".rstrip()
        case "attention_changed":
            return enum_word(state_pb2.Attention, event.attention_changed.attention)
        case _:
            return ""


def _paint(colour: str, text: str) -> str:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{colour}m{safe(text)}\x1b[0m" if coloured else safe(text)
