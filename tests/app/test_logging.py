"""Logs: tied to their call, and free of what must not be in them."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging as stdlib
from typing import Any

import pytest
import structlog
from tests.app.conftest import ADD_ITEM, Serve, Tokens

from maitred.server.engine.call import Call
from maitred.server.telemetry import logging
from maitred.server.telemetry.redaction import REDACTED, clean_text
from maitred.v1 import conversation_pb2, order_pb2

CARD = "4242 4242 4242 4242"


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Read the log."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


class Broken(io.StringIO):
    """A log on a full disk, or into a pipe that was closed."""

    def write(self, _text: str) -> int:
        """Fail."""
        raise OSError(errno.ENOSPC, "no space left on device")


def test_a_log_that_cannot_be_written_fails_nothing() -> None:
    """A line that finds no room is dropped; whoever logged it goes on."""
    stream = Broken()
    logging.configure(stream=stream)
    structlog.get_logger().error("to a full disk")
    stream.close()
    structlog.get_logger().error("to a closed pipe")
    stdlib.getLogger("other").error("as libraries do")


async def test_every_line_is_tied_to_its_call(serve: Serve, log: io.StringIO) -> None:
    """What a handler logs carries method and trace id of its own call, also among many at once."""

    async def add_item(self: object, request: Any, call: Call) -> Any:
        await asyncio.sleep(0)
        structlog.get_logger().info("adding", item=request.item, expected=call.trace_id)
        return order_pb2.AddItemResponse()

    rig = await serve(AddItem=add_item)
    await asyncio.gather(
        *(
            rig.call(ADD_ITEM, order_pb2.AddItemRequest(session_id="s", item=f"i{number}"))
            for number in range(50)
        )
    )

    found = [line for line in lines(log) if line["event"] == "adding"]
    assert len({line["trace_id"] for line in found}) == 50
    for line in found:
        assert line["trace_id"] == line["expected"]
        assert line["method"] == "maitred.v1.OrderService/AddItem"


async def test_failures_are_logged_without_what_was_said(
    serve: Serve, tokens: Tokens, log: io.StringIO
) -> None:
    """A failure is logged with its traceback, and without tokens, texts and card numbers."""
    token = next(iter(tokens.by_role.values()))

    async def record_turn(self: object, request: Any, call: Call) -> Any:
        structlog.get_logger().warning("odd", request=request, text=request.messages[0].text)
        raise RuntimeError(f"could not charge {CARD} with Bearer {token}")

    rig = await serve(tokens=tokens.path, RecordTurn=record_turn)
    request = conversation_pb2.RecordTurnRequest(session_id="mine")
    request.messages.add(role=1, text="my dog is called Rex")
    await rig.call.fails(
        "ConversationService/RecordTurn", request, token=max(tokens.by_role.items())[1]
    )

    text = log.getvalue()
    odd, failed = lines(log)[-2:]
    assert (odd["request"], odd["text"]) == ("<maitred.v1.RecordTurnRequest>", REDACTED)
    assert "RuntimeError" in failed["exception"]
    assert "record_turn" in failed["exception"]
    for secret in ("Rex", token, *tokens.by_role.values(), "4242 4242"):
        assert secret not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"paid with {CARD}.", "paid with [card 4242]."),
        ("4242424242424242", "[card 4242]"),
        ("3782-822463-10005", "[card 0005]"),
        ("order 4242424242424241", "order 4242424242424241"),
        ("at 1795246045406577250 ns", "at 1795246045406577250 ns"),
        ("Authorization: Bearer abcdef123456", f"Authorization: {REDACTED}"),
        ("key sk_test_abcdefghij", f"key {REDACTED}"),
        ("whsec_abcdefghijkl", REDACTED),
        ("token mtd_abcdefghijklmnop", f"token {REDACTED}"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_in_texts_are_masked(text: str, expected: str) -> None:
    """Card numbers keep their last four digits, secrets nothing; other numbers stay."""
    assert clean_text(text) == expected


def test_names_of_secrets_are_enough(log: io.StringIO) -> None:
    """What stands under the name of a secret is dropped, however deep; bytes lose their content."""
    structlog.get_logger().info(
        "x",
        token="t0p",  # noqa: S106  what must not be logged
        data=b"t0p",
        headers={"Authorization": "t0p", "deep": [{"password": "t0p"}]},
        number=5,
    )

    assert "t0p" not in log.getvalue()
    assert lines(log)[0]["number"] == 5


def test_the_standard_librarys_log_goes_the_same_way(log: io.StringIO) -> None:
    """Libraries that use logging are redacted, too."""
    import logging

    logging.getLogger("some.library").warning("card %s", CARD)

    assert lines(log)[0]["event"] == "card [card 4242]"
