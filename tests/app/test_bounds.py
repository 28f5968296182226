"""Everything that a caller sends is bounded before it costs anything."""

from __future__ import annotations

from typing import Any, TypeGuard

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.app.conftest import FILES, Serve, empty_handlers

from maitred.server.app.pipeline.auth import Authenticator
from maitred.server.app.pipeline.methods import DEFAULT_MAX_REQUEST_BYTES
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.engine.call import Actor
from maitred.server.engine.wire import varint
from maitred.v1 import _rules_descriptors as validate_pb2
from maitred.v1 import common_pb2, conversation_pb2, menu_pb2, session_pb2

RPCS: list[MethodDescriptor] = [
    rpc
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
]
BOUNDED_IN_BYTES = {"PutMenu", "RecordTurn"}
"""Rpcs whose requests may keep every rule of their fields and still be too large."""

_TIMES = ("Timestamp", "Duration")
_TAG = 2 + 5
"""Bytes around a value: its tag and its length, at most."""
_NUMBER = 10


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def _is_ours(message: Descriptor | None) -> TypeGuard[Descriptor]:
    return message is not None and message.file.package == "maitred.v1"


def _value_is_bounded(
    field: FieldDescriptor, rules: validate_pb2.FieldRules, holder: FieldDescriptor
) -> bool:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return rules.string.HasField("max_len")
        case FieldDescriptor.TYPE_BYTES:
            return rules.bytes.HasField("max_len")
        case FieldDescriptor.TYPE_MESSAGE if not _is_ours(field.message_type):
            is_time = str(field.message_type and field.message_type.name) in _TIMES
            return is_time or holder.GetOptions().Extensions[common_pb2.field].max_bytes > 0
    return True


def _is_bounded(field: FieldDescriptor) -> bool:
    rules = _rules(field)
    if not field.is_repeated:
        return _value_is_bounded(field, rules, field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return (
            rules.map.HasField("max_pairs")
            and _value_is_bounded(key, rules.map.keys, field)
            and _value_is_bounded(value, rules.map.values, field)
        )
    return rules.repeated.HasField("max_items") and _value_is_bounded(
        field, rules.repeated.items, field
    )


def _fields(message: Descriptor, seen: set[str]) -> list[FieldDescriptor]:
    """Every field of a message and of those within it."""
    if message.full_name in seen:
        return []
    seen.add(message.full_name)
    found: list[FieldDescriptor] = []
    for field in message.fields:
        found.append(field)
        inner = field.message_type
        if _is_ours(inner) and not inner.GetOptions().map_entry:
            found += _fields(inner, seen)
    return found


def test_everything_in_a_request_has_a_bound() -> None:
    """Every text, list and map of every request, at any depth, says how long it may be."""
    seen: set[str] = set()
    fields = [field for rpc in RPCS for field in _fields(rpc.input_type, seen)]

    assert len(fields) > 150
    assert [field.full_name for field in fields if not _is_bounded(field)] == []


def test_what_is_bounded_in_bytes_stands_in_the_request_itself() -> None:
    """Sizes are asked of the fields of a request; deeper down nobody would ask for them."""
    requests = {rpc.input_type.full_name for rpc in RPCS}
    seen: set[str] = set()
    sized = [
        field
        for rpc in RPCS
        for field in _fields(rpc.input_type, seen)
        if field.GetOptions().Extensions[common_pb2.field].max_bytes
    ]

    assert sized
    nested = [f for f in sized if f.containing_type and f.containing_type.full_name not in requests]
    assert [field.full_name for field in nested] == []


def _most_bytes(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> int:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return _TAG + rules.string.max_len
        case FieldDescriptor.TYPE_BYTES:
            return _TAG + rules.bytes.max_len
        case FieldDescriptor.TYPE_MESSAGE if _is_ours(field.message_type):
            return _TAG + _most_bytes_of(field.message_type)
        case FieldDescriptor.TYPE_MESSAGE:
            most = field.GetOptions().Extensions[common_pb2.field].max_bytes
            return _TAG + int(most or 2 * _NUMBER)
    return _TAG + _NUMBER


def _most_bytes_of(message: Descriptor) -> int:
    total = 0
    for field in message.fields:
        rules = _rules(field)
        if not field.is_repeated:
            total += _most_bytes(field, rules)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            pair = _most_bytes(key, rules.map.keys) + _most_bytes(value, rules.map.values)
            total += rules.map.max_pairs * (_TAG + pair)
        else:
            total += rules.repeated.max_items * _most_bytes(field, rules.repeated.items)
    return total


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_a_valid_request_fits(rpc: MethodDescriptor) -> None:
    """A request of ASCII text that keeps the rules of its fields is never too large."""
    bound = rpc.GetOptions().Extensions[common_pb2.method].max_request_bytes
    most = _most_bytes_of(rpc.input_type)

    assert (most <= (bound or DEFAULT_MAX_REQUEST_BYTES)) is (rpc.name not in BOUNDED_IN_BYTES)
    assert bound <= 1024 * 1024


async def test_a_large_request_is_refused_before_it_is_parsed(serve: Serve) -> None:
    """A request beyond its rpc's bound is refused by size, also where it is no message."""
    rig = await serve()

    failure = await rig.call.fails("OrderService/PlaceOrder", b"\xff" * 20_000)

    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert failure.metadata == {"limit": "16384", "size": "20000"}


async def test_data_without_rules_is_bounded_in_bytes(serve: Serve) -> None:
    """Free data is measured before anything looks into it."""
    rig = await serve()
    request = session_pb2.CreateSessionRequest()
    request.attributes.update({"x": "y" * 20_000})

    failure = await rig.call.fails("SessionService/CreateSession", request)

    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert failure.violations == [("attributes", "message.max_bytes")]


@pytest.mark.parametrize(
    ("rpc", "raw", "field"),
    [
        ("ConversationService/RecordTurn", b"\x0a\x01s" + b"\x52\x00" * 140_000, "messages"),
        ("MenuService/PutMenu", b"\x0a\x80\x80\x3c" + b"\x32\x00" * 491_520, "menu"),
    ],
)
async def test_floods_of_elements_break_one_rule(
    serve: Serve, rpc: str, raw: bytes, field: str
) -> None:
    """However many elements break a rule, one is named: violations cost more than they say."""
    rig = await serve()

    failure = await rig.call.fails(rpc, raw)

    assert failure.reason == "INVALID_FIELD"
    assert len(failure.violations) == 1
    assert failure.violations[0][0].startswith(field)


def test_both_floods_are_what_they_seem() -> None:
    """The floods are messages of their types."""
    turn = conversation_pb2.RecordTurnRequest.FromString(b"\x52\x00" * 3)
    menu = menu_pb2.PutMenuRequest.FromString(b"\x0a\x06" + b"\x32\x00" * 3)

    assert (len(turn.messages), len(menu.menu.modifiers)) == (3, 3)


# --- what the contract does not know --------------------------------------------------------------

_UNKNOWN = b"\xf2\x3e\x064242 4"
"""Field 1006, a text."""


def _stuffed(message: Message, depth: int = 0) -> bytes:
    """Serialise a message with something unknown in it and in every message within."""
    data = b""
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        inner = field.message_type
        if inner is None or depth > 18:
            continue
        if inner.GetOptions().map_entry:
            value = inner.fields_by_name["value"]
            content = b"\x0a\x01k"
            if value.message_type is not None:
                content += _wrapped(value, GetMessageClass(value.message_type)(), depth)
            content += _UNKNOWN
            data += _prefix(field.number, content)
        else:
            data += _wrapped(field, GetMessageClass(inner)(), depth)
    return data + _UNKNOWN


def _wrapped(field: FieldDescriptor, message: Message, depth: int) -> bytes:
    return _prefix(field.number, _stuffed(message, depth + 1))


def _prefix(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_unknown_fields_are_discarded_at_every_depth(rpc: MethodDescriptor) -> None:
    """Nothing that the contract does not know reaches a handler, wherever it was put."""
    kind = GetMessageClass(rpc.input_type)
    raw = _stuffed(kind())
    services = {
        service: [empty_handlers(service)]
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    pipeline = Pipeline(services, Authenticator(None), validate=lambda _message: [])
    method = pipeline.methods[f"{rpc.containing_service.full_name}/{rpc.name}"]

    request = pipeline.decode(method, raw, Actor("somebody", common_pb2.ROLE_ADMIN))

    assert b"4242 4" in kind.FromString(raw).SerializeToString()
    assert b"4242 4" not in request.SerializeToString()


# --- texts ----------------------------------------------------------------------------------------

IDS = {
    *["session_id", "request_id", "menu_id", "customer_id", "payment_id", "item_id", "modifier_id"],
    *["item_ids", "popular_item_ids", "session_ids", "channel_type", "channel_identifier"],
    *["message_id", "revision", "currency", "page_token", "resume_token", "changes"],
}
"""Fields that name something. What they hold is never read as free text."""
SOUGHT = {
    *["FindItemsRequest.query", "FindItemsRequest.section", "FindItemsRequest.tags"],
    *["RecommendRequest.preference", "ListSessionsRequest.labels", "BackupRequest.path"],
    *["UpdateSessionRequest.remove_labels", "UpdateSessionRequest.remove_attributes"],
    *["UpdateSessionRequest.update_mask", "UpdateContextRequest.remove_entities"],
    *["SetItemAvailabilityRequest.item"],
}
"""Fields that something is looked for by, and that nobody keeps."""
KEPT = {
    *["CreateSessionRequest.labels", "CreateSessionRequest.attributes"],
    *["UpdateSessionRequest.labels", "UpdateSessionRequest.attributes"],
    *["ResetSessionRequest.reason", "CloseSessionRequest.reason", "DeleteSessionRequest.reason"],
    *["NewMessage.text", "NewMessage.name", "UpdateContextRequest.topic", "IntentList.intents"],
    *["UpdateContextRequest.entities", "Menu.title", "MenuItem.name", "MenuItem.section"],
    *["MenuItem.description", "MenuItem.tags", "MenuModifier.name", "MenuPreference.name"],
    *["AddItemRequest.item", "AddItemRequest.modifiers", "AddItemRequest.note"],
    *["VoidLineRequest.reason", "AdjustBalanceRequest.reason", "CancelPaymentRequest.reason"],
    *["CompletePaymentRequest.reason", "RefundPaymentRequest.reason"],
    *["ReconcilePaymentRequest.reason"],
}
"""Fields that hold free text, which the domain reads for card numbers."""


def test_every_text_is_an_id_or_is_read_for_cards() -> None:
    """Whoever adds a text to a request says what it is, and reads it for cards if it is kept."""
    texts = set()
    seen: set[str] = set()
    for rpc in RPCS:
        for field in _fields(rpc.input_type, seen):
            inner = field.message_type
            holds_text = field.type == FieldDescriptor.TYPE_STRING or (
                inner is not None
                and (inner.GetOptions().map_entry or inner.name in {"Struct", "FieldMask"})
            )
            if holds_text and field.name not in IDS:
                texts.add(field.full_name.removeprefix("maitred.v1."))

    assert texts == SOUGHT | KEPT
