"""The README tells the truth: its example runs, its recipes work, and nothing is left out of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from maitred.server.app.server import Server
from maitred.server.testing.servers import running_server
from tests.support.wire import METHODS, STATUS_OF

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:50051"
RECIPES = re.findall(r"^grpcurl .*$", README, re.MULTILINE)


async def _run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_example_runs_as_it_stands(tmp_path: Path) -> None:
    """The Python example does what it says against a server whose guests pay."""
    source = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    async with running_server(
        simulated_outcome="pay", simulated_delay_s=0.5, simulated_dir=str(tmp_path)
    ) as server:
        script = tmp_path / "example.py"
        script.write_text(source.replace(ADDRESS, server.address))
        code, output = await _run(sys.executable, str(script))

    assert code == 0, output
    assert "2 x Negroni: 2200 cents" in output
    assert "too much for 2800" in output
    assert "pay 2640 at" in output
    assert output.rstrip().endswith("tab 0 settled: True")


async def _recipes(server: Server, tool: str) -> list[str]:
    outputs = []
    for recipe in RECIPES:
        arguments = shlex.split(recipe.replace(ADDRESS, server.address))[1:]
        code, output = await _run(tool, *arguments)
        # The watch goes on until its time is over, which grpcurl reports as status 4.
        assert code == 0 or ("WatchSession" in recipe and code == 64 + 4), output
        outputs.append(output)
    return outputs


async def test_grpcurl_recipes_work() -> None:
    """Every grpcurl line of the README works, one after the other."""
    tool = shutil.which("grpcurl") or str(ROOT / ".cache" / "bin" / "grpcurl")
    if not Path(tool).exists():
        pytest.skip("grpcurl is not installed; `make tools` builds it where Go is present")
    async with running_server() as server:
        outputs = await _recipes(server, tool)

    assert "maitred.v1.OrderService" in outputs[0]
    assert '"minorUnits": "600"' in outputs[4]
    assert "lineAdded" in outputs[5]


async def test_recipes_with_jq_work() -> None:
    """Every line of docs/languages.md works, after those of the README."""
    tool = shutil.which("grpcurl") or str(ROOT / ".cache" / "bin" / "grpcurl")
    bash, jq = shutil.which("bash"), shutil.which("jq")
    if not (Path(tool).exists() and bash and jq):
        pytest.skip("grpcurl (`make tools` builds it where Go is present), bash or jq is missing")
    text = (ROOT / "docs" / "languages.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^grpcurl .*$", text, re.MULTILINE)
    outputs = []
    async with running_server() as server:
        await _recipes(server, tool)
        for recipe in recipes:
            line = recipe.replace(ADDRESS, server.address).replace("grpcurl", tool, 1)
            code, output = await _run(bash, "-o", "pipefail", "-c", line)
            assert code == 0, output
            outputs.append(output)

    assert "// AddItem adds a line" in outputs[0]
    assert json.loads(outputs[2])["name"] == "Tea"
    assert json.loads(outputs[3])["tab"] == "900"
    assert json.loads(outputs[4]) == ["tea"]
    assert "lineAdded" in outputs[5]
    assert json.loads(outputs[6]) == {"party_size": 4}
    assert json.loads(outputs[7]) in ({}, None)


async def test_buf_curl_takes_the_same_requests() -> None:
    """`buf curl` reads the contract by reflection and sends what grpcurl sends."""
    tool = str(Path(sys.executable).with_name("buf"))
    answers: list[dict[str, Any]] = []
    async with running_server() as server:
        for recipe in RECIPES[1:5]:
            arguments = shlex.split(recipe)
            data, method = arguments[arguments.index("-d") + 1], arguments[-1]
            code, output = await _run(
                tool,
                "curl",
                "--protocol",
                "grpc",
                "--http2-prior-knowledge",
                "-d",
                data,
                f"http://{server.address}/{method}",
            )
            assert code == 0, output
            answers.append(json.loads(output))

    assert answers[-1]["state"]["tabTotal"] == {"minorUnits": "600", "currency": "USD"}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_readme_names_every_rpc(method: Any) -> None:
    """No rpc is missing from the table."""
    row = next(
        line
        for line in README.splitlines()
        if line.startswith(f"| {method.containing_service.name}")
    )

    assert re.search(rf"\b{method.name}\b", row)


def test_reference_names_every_error() -> None:
    """docs/reference.md lists each reason with its status."""
    reference = (ROOT / "docs" / "reference.md").read_text()
    reasons = [name for name in STATUS_OF if name != "UNSPECIFIED"]

    assert [name for name in reasons if f"| {name} |" not in reference] == []


def test_readme_is_short() -> None:
    """A README is read to its end or not at all."""
    assert len(README.splitlines()) <= 200
