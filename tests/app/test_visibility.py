"""What a role may see."""

from __future__ import annotations

from typing import Any

import pytest
from tests.app.conftest import FILES, Serve, Tokens

from maitred.server.app.pipeline.visibility import filter_for, is_hidden
from maitred.server.engine.call import Call
from maitred.v1 import payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Role
from maitred.v1.event_pb2 import Event

RESPONSES = {
    method.output_type.full_name: method.output_type
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def fill(message: Any, depth: int = 0) -> Any:
    """Set every field of a message, of a oneof the last one."""
    for each in message.DESCRIPTOR.fields:
        if each.message_type is not None and depth < 7:
            if each.message_type.GetOptions().map_entry:
                value = each.message_type.fields_by_name["value"]
                if value.message_type is None:
                    getattr(message, each.name)["k"] = "v"
                else:
                    fill(getattr(message, each.name)["k"], depth + 1)
            elif each.is_repeated:
                fill(getattr(message, each.name).add(), depth + 1)
            else:
                getattr(message, each.name).SetInParent()
                fill(getattr(message, each.name), depth + 1)
        elif each.message_type is None:
            value = {"string": "x", "bytes": b"x"}.get(
                {9: "string", 12: "bytes"}.get(each.type, ""), 1
            )
            if each.is_repeated:
                getattr(message, each.name).append(value)
            else:
                setattr(message, each.name, value)
    return message


def hidden_fields(message: Any, role: Role.ValueType) -> list[str]:
    """Name the set fields that the contract keeps from a role."""
    found = []
    for each, value in message.ListFields():
        if is_hidden(each, role):
            found.append(each.full_name)
        elif each.message_type is not None and not each.message_type.GetOptions().map_entry:
            for part in value if each.is_repeated else [value]:
                found += hidden_fields(part, role)
    return found


@pytest.mark.parametrize("role", [role for role in Role.values() if role], ids=Role.Name)
@pytest.mark.parametrize("name", RESPONSES)
def test_no_response_shows_what_a_role_may_not_see(name: str, role: Role.ValueType) -> None:
    """For every response and role: hidden fields are cleared wherever they stand, others stay."""
    from google.protobuf.message_factory import GetMessageClass

    response: Any = GetMessageClass(RESPONSES[name])
    hide = filter_for(RESPONSES[name], response.FromString, role)
    variants = [fill(response())]
    for change in Event.DESCRIPTOR.oneofs_by_name["change"].fields:
        event = fill(Event())
        event.ClearField("change")
        getattr(event, change.name).SetInParent()
        fill(getattr(event, change.name))
        for variant in (response(),):
            if "event" in variant.DESCRIPTOR.fields_by_name:
                variant.event.CopyFrom(event)
                variants.append(variant)
    for each in variants:
        data = each.SerializeToString()
        shown = response.FromString(hide(data) if hide else data)

        assert hidden_fields(shown, role) == []
        if not hidden_fields(each, role):
            assert shown == each


def test_an_untouched_message_is_the_same_bytes() -> None:
    """A message that holds nothing hidden goes out as it came in."""
    hide = filter_for(
        session_pb2.GetSessionResponse.DESCRIPTOR,
        session_pb2.GetSessionResponse.FromString,
        Role.ROLE_AGENT,
    )
    assert hide is not None
    data = session_pb2.GetSessionResponse(
        session=state_pb2.Session(session_id="s", version=3)
    ).SerializeToString()

    assert hide(data) is data


async def test_a_viewer_watches_without_what_was_said(serve: Serve, tokens: Tokens) -> None:
    """A VIEWER's watch shows the turn without its text; an AGENT's both, but no staff field."""
    event = Event(version=2)
    event.turn_recorded.messages.add(turn=1, text="a gin, please", name="Ann")
    paid = state_pb2.Payment(payment_id="p", reason="staff only")
    paid.request.key = "provider key"

    async def watch(self: object, request: Any, call: Call) -> Any:
        message = session_pb2.WatchSessionResponse(version=2)
        message.events.events.append(event)
        yield message.SerializeToString()

    async def watch_payment(self: object, request: Any, call: Call) -> Any:
        yield payment_pb2.WatchPaymentResponse(version=2, payment=paid)

    rig = await serve(tokens=tokens.path, WatchSession=watch, WatchPayment=watch_payment)
    request = session_pb2.WatchSessionRequest(session_id="mine")
    seen = {}
    for role in (Role.ROLE_VIEWER, Role.ROLE_AGENT, Role.ROLE_STAFF):
        token = tokens.by_role[role]
        said = await rig.call.stream("SessionService/WatchSession", request, token).read()
        payment = await rig.call.stream("PaymentService/WatchPayment", request, token).read()
        (told,) = said.events.events[0].turn_recorded.messages
        seen[role] = (told.turn, told.text, told.name, payment.payment.reason)

    assert seen == {
        Role.ROLE_VIEWER: (1, "", "", ""),
        Role.ROLE_AGENT: (1, "a gin, please", "Ann", ""),
        Role.ROLE_STAFF: (1, "a gin, please", "Ann", "staff only"),
    }
