"""Descriptions of a session: labels, attributes and the customer."""

from __future__ import annotations

from maitred.server.domain import text
from maitred.server.errors import InvalidField, Violation
from maitred.v1 import event_pb2 as ev
from maitred.v1.session_pb2 import UpdateSessionRequest
from maitred.v1.state_pb2 import Session

MAX_LABELS = 32
"""Labels that a session may hold."""

_REPLACEABLE = frozenset({"labels", "attributes", "customer_id"})
"""Paths that the mask of an update may have."""


def update(session: Session, request: UpdateSessionRequest) -> ev.Event | None:
    """Set and remove labels and attributes, and set the customer; a mask replaces fields whole.

    Raises: InvalidField, CardNumberRefused.
    """
    replaced = _replaced(request)
    after = _described(session)
    given = text.free_data(request.attributes, "attributes")
    if "labels" in replaced:
        after.labels.clear()
    if not replaced or "labels" in replaced:
        after.labels.update(request.labels)
    if "attributes" in replaced:
        after.ClearField("attributes")
        if request.HasField("attributes"):
            after.attributes.CopyFrom(given)
    elif not replaced:
        for name, value in given.fields.items():
            after.attributes.fields[name].CopyFrom(value)
    if "customer_id" in replaced or (not replaced and request.HasField("customer_id")):
        after.customer_id = text.identifier(request.customer_id, "customer_id")
    for name in request.remove_labels:
        after.labels.pop(name, None)
    for name in request.remove_attributes:
        # Reading a map of messages would put an empty one there.
        if name in after.attributes.fields:
            del after.attributes.fields[name]
    if not after.attributes.fields and not session.HasField("attributes"):
        after.ClearField("attributes")
    labels(dict(after.labels))
    text.require_size(after.attributes.ByteSize(), "attributes")
    if after == _described(session):
        return None
    return ev.Event(session_updated=ev.SessionUpdated(session=after))


def labels(given: dict[str, str]) -> dict[str, str]:
    """Check labels, and answer them unchanged.

    Raises: InvalidField, CardNumberRefused.
    """
    if len(given) > MAX_LABELS:
        raise _invalid("labels", f"must not exceed {MAX_LABELS}")
    check = text.CardCheck()
    for key, value in given.items():
        check.add(key, "labels")
        check.add(text.line(value, f"labels[{key!r}]"), f"labels[{key!r}]")
    check.refuse()
    return given


def _replaced(request: UpdateSessionRequest) -> frozenset[str]:
    """What the mask replaces whole; a path that it must not have would delete what it misses.

    JSON rewrites the paths of a mask between camel and snake case, so that a name within a map does
    not arrive as it was written.
    """
    paths = frozenset(request.update_mask.paths)
    for path in sorted(paths - _REPLACEABLE):
        raise _invalid(
            "update_mask",
            f"{path!r} cannot be replaced; set single labels and attributes in `labels` and "
            "`attributes`, and remove them by `remove_labels` and `remove_attributes`",
        )
    names_something = (
        paths
        or request.labels
        or request.HasField("attributes")
        or request.HasField("customer_id")
        or request.remove_labels
        or request.remove_attributes
    )
    if not names_something:
        raise _invalid("update_mask", "must name something where nothing is set or removed")
    return paths


def _described(session: Session) -> Session:
    described = Session(customer_id=session.customer_id, labels=session.labels)
    if session.HasField("attributes"):
        described.attributes.CopyFrom(session.attributes)
    return described


def _invalid(field: str, description: str) -> InvalidField:
    return InvalidField(
        f"{field}: {description}", violations=[Violation(field, f"{field}.rule", description)]
    )
