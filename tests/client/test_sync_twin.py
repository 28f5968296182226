"""The blocking client is the asyncio one, translated."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "unasync.py"


@pytest.fixture
def unasync() -> ModuleType:
    """The translator."""
    spec = importlib.util.spec_from_file_location("unasync", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_twin_is_in_step(unasync: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make check-gen` finds every file of `_sync` as the translator writes it."""
    monkeypatch.setattr(sys, "argv", ["unasync.py", "--check"])

    assert unasync.main() == 0


def test_a_stale_or_left_over_file_is_found(
    unasync: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that was edited, that is missing or that nobody needs any more fails the check."""
    for path in unasync.TARGET.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    translated = [(path.name, path.read_text("utf-8")) for path in unasync.TARGET.glob("*.py")]
    generated = [each for each in translated if each[0] not in unasync.HAND_WRITTEN]
    monkeypatch.setattr(unasync, "TARGET", tmp_path)
    monkeypatch.setattr(unasync, "translated", lambda: iter(generated))
    monkeypatch.setattr(sys, "argv", ["unasync.py", "--check"])
    results = [unasync.main()]
    (tmp_path / "surplus.py").write_text("", "utf-8")
    results.append(unasync.main())
    (tmp_path / "surplus.py").unlink()
    (tmp_path / "client.py").unlink()
    results.append(unasync.main())
    (tmp_path / "client.py").write_text("edited", "utf-8")
    results.append(unasync.main())

    assert results == [0, 1, 1, 1]


def test_a_rule_that_matches_nothing_fails(
    unasync: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of rules holds what is needed and no more."""
    monkeypatch.setattr(unasync, "RULES", (*unasync.RULES, ("nowhere in the source", "")))
    monkeypatch.setattr(unasync, "formatted", lambda text: text)

    with pytest.raises(SystemExit, match="nowhere in the source"):
        list(unasync.translated())


def test_nothing_of_asyncio_is_left(unasync: ModuleType) -> None:
    """The twin imports neither asyncio nor grpc.aio and awaits nothing."""
    words = re.compile(r"import asyncio|asyncio\.|grpc\.aio|\bawait |\basync (?:def|for|with)\b")
    found = {
        path.name: words.findall(path.read_text("utf-8")) for path in unasync.TARGET.glob("*.py")
    }

    assert not [name for name, left in found.items() if left]
