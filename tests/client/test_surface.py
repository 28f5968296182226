"""What `maitred.client` promises by name."""

from __future__ import annotations

import inspect
import re

import pytest

import maitred.client
from maitred.client import AsyncClient, AsyncSessionHandle, Client, SessionHandle
from maitred.client._methods import DESCRIPTORS
from maitred.v1 import common_pb2

RPCS = sorted(method.name for method in DESCRIPTORS)

NAMES = """
TLS AsyncClient AsyncEventsWatch AsyncPager AsyncPaymentWatch AsyncSessionHandle AsyncSessionWatch
Attention BalancePolicy Client Conversation ErrorReason Event EventsWatch FieldViolation
InboundMessage MarkPolicy Menu MenuItem MenuModifier MenuPreference Message MessageRole Money
Mutation NewMessage NextAction NextActionKind NoCurrentSession Order OrderLine OrderStatus Pager
Payment PaymentMethod PaymentOutcome PaymentState PaymentStatus PaymentUpdate PaymentWatch Phase
Refund RefundStatus RequestId RequestedPayment Retries Role Session SessionEnded SessionEvent
SessionHandle SessionSnapshot SessionStatus SessionUpdate SessionWatch SourcedEvent TabStatus
WatchMode assistant current_session format_money staff system tool user
""".split()


def snake(name: str) -> str:
    """The method of an rpc."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def public(kind: type) -> set[str]:
    """The public names of a class."""
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_the_exports_are_these() -> None:
    """A name that leaves or enters the client is a decision, made here."""
    exported = set(maitred.client.__all__)
    reasons = (name for name, number in common_pb2.ErrorReason.items() if number)
    errors = {name.removeprefix("ERROR_REASON_").title().replace("_", "") for name in reasons}

    assert exported == {*NAMES, *errors, "MaitredError"}
    assert all(hasattr(maitred.client, name) for name in exported)


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_a_method(rpc: str) -> None:
    """Each rpc of the contract is a method of both clients, with keyword arguments only."""
    for kind in (AsyncClient, Client):
        parameters = list(inspect.signature(getattr(kind, snake(rpc))).parameters.values())[1:]

        assert all(
            each.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
            for each in parameters
        )


@pytest.mark.parametrize("rpc", RPCS)
def test_every_method_takes_what_its_request_holds(rpc: str) -> None:
    """Each field of a request can be given to its method."""
    (method,) = (method for method in DESCRIPTORS if method.name == rpc)
    parameters = set(inspect.signature(getattr(AsyncClient, snake(rpc))).parameters)
    covered = parameters | (
        {
            "request_id",
            "expected_version",
            "expected_payment_version",
            "expected_reset_count",
        }
        if "options" in parameters
        else set()
    )

    assert set(method.input_type.fields_by_name) <= covered


@pytest.mark.parametrize(
    ("source", "twin"), [(AsyncClient, Client), (AsyncSessionHandle, SessionHandle)]
)
def test_the_twins_have_the_same_methods(source: type, twin: type) -> None:
    """What can be awaited can be called."""
    assert {name.replace("aclose", "close") for name in public(source)} == public(twin)


def test_whatever_concerns_a_session_is_on_its_handle() -> None:
    """The handle has a short name for each rpc that names one session and no page of it."""
    of_session = {
        snake(method.name)
        for method in DESCRIPTORS
        if "session_id" in method.input_type.fields_by_name
    }
    shortened = {name.removesuffix("_session") for name in of_session}
    elsewhere = {"create", "get", "get_payment", "reconcile_payment", "verify_audit"}

    assert shortened - public(AsyncSessionHandle) == elsewhere
