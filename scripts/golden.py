"""Keep the log of an evening as it is written today: `python scripts/golden.py VERSION`.

Run once for each release. Every later version must fold these logs to the very states that were
stored, whatever its own events look like; `tests/engine/test_golden.py` holds it to that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from maitred.server.stores import create_store
from maitred.server.testing.servers import running_server

ROOT = Path(__file__).resolve().parent.parent


async def record() -> str:
    """Play the evening against a server and return what it stored."""
    with tempfile.TemporaryDirectory(prefix="maitred-golden-") as directory:
        data = f"sqlite:{directory}/maitred.db"
        async with running_server(data=data, simulated_outcome="pay", grace_s=1.0) as server:
            example = await asyncio.create_subprocess_exec(
                sys.executable,
                str(ROOT / "examples" / "evening.py"),
                "--address",
                server.address,
                stdout=subprocess.DEVNULL,
            )
            if await example.wait() != 0:
                sys.exit("the evening went wrong; nothing was recorded")
        store = create_store(data)
        await store.open()
        lines = [_line(each) async for each in store.scan()]
        await store.close()
    return "".join(json.dumps(line) + "\n" for line in lines)


def _line(entry: Any) -> dict[str, Any]:
    return {
        "kind": int(entry.loaded.ref.kind),
        "id": entry.loaded.ref.id,
        "body": _text(entry.loaded.body),
        "chain": _text(entry.loaded.chain),
        "events": [
            {
                "version": event.version,
                "facts": _text(event.facts),
                "personal": _text(event.personal),
            }
            for event in entry.events
        ],
    }


def _text(stored: bytes | None) -> str | None:
    return None if stored is None else base64.b64encode(stored).decode()


if __name__ == "__main__":
    (ROOT / "tests" / "golden" / f"{sys.argv[1]}.jsonl").write_text(asyncio.run(record()))
