"""Every reason of the contract crosses the wire."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tests.app.conftest import ADD_ITEM, Serve

from maitred.server import errors
from maitred.server.app.pipeline.refusals import MAX_DETAILS_BYTES, to_wire
from maitred.server.engine.call import Call
from maitred.server.errors import MaitredError, Violation, status_of
from maitred.v1 import order_pb2
from maitred.v1.common_pb2 import ErrorReason

CLASSES = {
    each.reason: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, MaitredError) and each is not MaitredError
}


def test_every_reason_has_one_class_and_a_status() -> None:
    """Each reason of the contract is raised by one class and travels under a real status."""
    reasons = {number for number in ErrorReason.values() if number}

    assert set(CLASSES) == reasons
    for each in CLASSES.values():
        assert to_wire(each("x")).proto.code == grpc.StatusCode[status_of(each.reason)].value[0]


async def test_every_reason_crosses_the_wire(serve: Serve) -> None:
    """A caller reads status, message, reason, metadata, violations and retry time of each."""
    raised: list[MaitredError] = []

    async def add_item(self: object, request: Any, call: Call) -> Any:
        raise raised[-1]

    rig = await serve(AddItem=add_item)
    for each in CLASSES.values():
        raised.append(
            each(
                f"what happened: «{each.__name__}»",
                metadata={"current_version": "7"},
                violations=[Violation("item", "rule", "says why")],
                retry_after_s=1.5,
            )
        )

        failure = await rig.call.fails(ADD_ITEM, order_pb2.AddItemRequest(session_id="s", item="x"))

        assert failure[:6] == (
            grpc.StatusCode[status_of(raised[-1].reason)],
            raised[-1].message,
            ErrorReason.Name(each.reason).removeprefix("ERROR_REASON_"),
            {"current_version": "7"},
            [("item", "rule")],
            1.5,
        )


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "\N{COCKTAIL GLASS}" * 100_000])
async def test_the_largest_error_arrives(serve: Serve, text: str) -> None:
    """However much an error says, what is sent of it fits into the metadata of any client."""
    error = errors.InvalidField(
        text,
        metadata={f"{number}{text}": text for number in range(50)},
        violations=[Violation(text, text, text)] * 50,
        retry_after_s=1,
    )

    async def add_item(self: object, request: Any, call: Call) -> Any:
        raise error

    rig = await serve(AddItem=add_item)
    failure = await rig.call.fails(ADD_ITEM, order_pb2.AddItemRequest(session_id="s", item="x"))

    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.details_bytes <= MAX_DETAILS_BYTES
