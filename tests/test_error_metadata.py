"""What travels with a refusal is what the contract says of its reason, no more and no less."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from maitred.server import errors
from maitred.server.errors import MaitredError
from maitred.v1 import common_pb2

SERVER = Path(inspect.getfile(errors)).parent
CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, MaitredError) and each is not MaitredError
}


def declared() -> dict[str, set[str]]:
    """The keys that the contract names for each reason."""
    return {
        value.name.removeprefix("ERROR_REASON_"): set(
            value.GetOptions().Extensions[common_pb2.reason].metadata
        )
        for value in common_pb2.ErrorReason.DESCRIPTOR.values
    }


def _keys(node: ast.expr) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            yield from (
                key.value
                for key in part.keys
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            )


def raised() -> dict[str, set[str]]:
    """The keys that the code gives to the errors of each reason."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SERVER.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name not in CLASSES:
                continue
            reason = common_pb2.ErrorReason.Name(CLASSES[name].reason)
            for keyword in node.keywords:
                if keyword.arg == "metadata":
                    found[reason.removeprefix("ERROR_REASON_")] |= set(_keys(keyword.value))
    return found


def test_every_key_of_an_error_is_in_the_contract() -> None:
    """A reason carries no key that `(reason).metadata` does not name."""
    contract = declared()
    strangers = {
        reason: sorted(keys - contract[reason])
        for reason, keys in raised().items()
        if keys - contract[reason]
    }

    assert strangers == {}


def test_keys_are_words() -> None:
    """Keys are snake case, as fields are, and none is named twice."""
    for reason, keys in declared().items():
        assert all(key.replace("_", "").isalnum() and key.islower() for key in keys), reason
