"""What a deletion keeps, as it is noted beside the tombstone until the deletion is finished."""

from __future__ import annotations

import json

from maitred.server.stores.values import Keep


def note(keep: Keep) -> str:
    """Write down what to keep."""
    return json.dumps({"tables": list(keep.tables), "spaces": list(keep.spaces)})


def read(noted: str) -> Keep:
    """Read what `note` wrote."""
    found = json.loads(noted)
    return Keep(tuple(found["tables"]), tuple(found["spaces"]))
