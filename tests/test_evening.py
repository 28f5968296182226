"""The example is a test: a whole visit against a server process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make demo`."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_the_evening_goes_as_the_transcript_says() -> None:
    """`make demo` ends with 0, and only because every expectation held."""
    run = demo()

    assert run.returncode == 0, run.stdout + run.stderr
    assert "all as expected" in run.stdout


def test_a_broken_expectation_is_noticed(tmp_path: Path) -> None:
    """An example that could not fail would prove nothing."""
    transcript = json.loads((EXAMPLES / "transcript.json").read_text("utf-8"))
    transcript["turns"] = transcript["turns"][:3]
    transcript["turns"][2]["expect"]["tab"] = 1301
    # A visit that ends here leaves a tab, which the guest of this test does not pay.
    transcript["turns"][2]["calls"].append({"tool": "clear_order"})
    path = tmp_path / "transcript.json"
    path.write_text(json.dumps(transcript), "utf-8")
    run = demo("--transcript", str(path))

    assert run.returncode == 1, run.stdout + run.stderr
    assert "turn 3: tab is 0, not 1301" in run.stdout


def test_the_transcript_is_an_evening() -> None:
    """Thirty turns or more, and what goes wrong is in them."""
    turns = json.loads((EXAMPLES / "transcript.json").read_text("utf-8"))["turns"]
    calls = [call for turn in turns for call in turn.get("calls", ())]
    refusals = {call["error"] for call in calls if "error" in call}

    assert len(turns) >= 30
    assert refusals >= {"INSUFFICIENT_FUNDS", "ITEM_NOT_FOUND", "ITEM_SOLD_OUT"}
    assert sum(call["tool"] == "create_payment" for call in calls) == 2


def test_the_example_knows_only_the_client() -> None:
    """It imports what `pip install maitred` gives, and nothing behind it."""
    lines = (EXAMPLES / "evening.py").read_text("utf-8").splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("from maitred", "import "))}

    assert {name for name in imported if name.startswith("maitred")} == {"maitred.client"}
