"""Logs of every release fold to the states that were stored with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from maitred.server.domain.evolve import evolve_menu, evolve_session
from maitred.server.engine import eventlog
from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import Kind, Ref, StoredEvent
from maitred.v1.state_pb2 import Menu, Session

LOGS = sorted((Path(__file__).parent.parent / "golden").glob("*.jsonl"))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_log_folds_to_its_state(log: Path) -> None:
    """However events are read today, an old log still means what it meant."""
    folded = 0
    for line in log.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line)
        ref = Ref(Kind(entry["kind"]), entry["id"])
        evolve: Any = evolve_session if ref.kind is SESSION else evolve_menu
        state: Any = None
        chain = eventlog.chain_start(ref)
        for stored in entry["events"]:
            facts = _bytes(stored["facts"]) or b""
            chain = eventlog.chain_next(chain, facts)
            row = StoredEvent(
                ref,
                stored["version"],
                b"",
                None,
                b"",
                0,
                0,
                facts,
                _bytes(stored["personal"]),
                chain,
            )
            state = evolve(state, eventlog.decode(row))
            folded += 1
        kept = (Session if ref.kind is SESSION else Menu).FromString(_bytes(entry["body"]) or b"")

        assert state == kept
        assert chain == _bytes(entry["chain"])
    assert folded > 50


def test_there_is_a_golden_log() -> None:
    """A release without its log would not be held to anything."""
    assert LOGS
