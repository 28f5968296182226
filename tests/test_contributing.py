"""What CONTRIBUTING.md promises: how little an rpc and an error need."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from maitred.server.app.pipeline.auth import Authenticator, add_token
from maitred.server.app.pipeline.methods import ContractError
from maitred.server.app.pipeline.pipeline import Pipeline
from maitred.server.app.pipeline.refusals import WireError
from maitred.v1 import common_pb2
from maitred.v1.common_pb2 import Binding, Role
from tests.support.wire import METHODS
from tests.test_house import ROOT, committed, is_generated

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MOST = {"Add an rpc": 6, "Add an error": 4}
"""How many files written by hand each of them may touch."""


def toy(*, binding: Binding.ValueType) -> ServiceDescriptor:
    """A service that nothing in the repository knows, whose request names a table."""
    file = descriptor_pb2.FileDescriptorProto(name="toy.proto", package="toy", syntax="proto3")
    message = file.message_type.add(name="Table")
    field = message.field.add(
        name="table",
        number=1,
        type=FieldDescriptor.TYPE_STRING,
        label=FieldDescriptor.LABEL_OPTIONAL,
    )
    field.options.Extensions[common_pb2.field].binding = binding
    rpc = file.service.add(name="ToyService").method.add(
        name="Echo", input_type=".toy.Table", output_type=".toy.Table"
    )
    rpc.options.Extensions[common_pb2.method].minimum_role = Role.ROLE_VIEWER
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("toy.ToyService")


class Toy:
    """Its handler."""

    async def Echo(self, request: Any, call: Any) -> Any:
        """Answer what was asked."""
        return request


async def test_an_rpc_is_a_descriptor_and_a_handler(tmp_path: Any) -> None:
    """The server needs nothing else, and binds a viewer by the field that the contract says."""
    tokens = tmp_path / "tokens.jsonl"
    token = add_token(tokens, "viewer", Role.ROLE_VIEWER, "7")
    service = toy(binding=Binding.BINDING_SESSION)
    pipeline = Pipeline({service: [Toy()]}, Authenticator(tokens), validate=lambda _message: [])
    echo = pipeline.unary(pipeline.methods["toy.ToyService/Echo"])
    caller = pipeline.admit((f"Bearer {token}",))
    table: Any = GetMessageClass(service.methods[0].input_type)
    own, other = table(table="7").SerializeToString(), table(table="8").SerializeToString()

    assert await echo(own, caller, None) == own
    with pytest.raises(WireError) as caught:
        await echo(other, caller, None)
    assert caught.value.reason == "PERMISSION_DENIED"


def test_an_rpc_that_could_not_hold_a_viewer_is_refused_at_start() -> None:
    """A viewer's rpc names what a viewer is bound to, or says that it need not."""
    with pytest.raises(ContractError, match="open_to_bound"):
        Pipeline({toy(binding=Binding.BINDING_UNSPECIFIED): [Toy()]}, Authenticator(None))


@pytest.mark.parametrize("rpc", METHODS)
def test_a_request_says_which_session_it_names(rpc: str) -> None:
    """No `session_id` of a request is without its binding."""
    field = METHODS[rpc].input_type.fields_by_name.get("session_id")

    if field is not None:
        options = field.GetOptions().Extensions[common_pb2.field]
        assert options.binding == Binding.BINDING_SESSION


@pytest.mark.parametrize("section", MOST)
def test_the_lists_are_as_short_as_promised(section: str) -> None:
    """A list that grows is a shape that should change."""
    text = CONTRIBUTING.split(f"## {section}\n")[1].split("\n## ")[0]
    items = re.findall(r"^\d+\. ", text, re.MULTILINE)

    assert 1 < len(items) <= MOST[section]


def _by_hand() -> dict[str, str]:
    found = {}
    for path in committed():
        if path.suffix in {".py", ".proto", ".md", ".toml"} and "reference" not in path.name:
            text = path.read_text("utf-8")
            if not is_generated(text):
                found[str(path.relative_to(ROOT))] = text
    return found


def test_nothing_forces_an_error_into_more_files() -> None:
    """Some errors stand in no more files than the list says: contract, raiser, test, changelog."""
    texts = _by_hand()
    counts = {}
    for reason, number in common_pb2.ErrorReason.items():
        name = reason.removeprefix("ERROR_REASON_")
        kind = name.title().replace("_", "")
        word = re.compile(rf"\b(?:ERROR_REASON_)?{name}\b|\b{kind}\b")
        files = [path for path, text in texts.items() if word.search(text)]
        if number and any(f"{kind}(" in texts[each] for each in files if "server/" in each):
            counts[name] = len(files)

    assert min(counts.values()) <= MOST["Add an error"], counts
