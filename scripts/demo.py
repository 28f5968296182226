"""Start a server, and play a guest who orders, tips and pays: `make demo`.

The server is a process of its own on a free port, its data in a directory that is gone afterwards.
The exit code is the example's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "evening.py"
STOP_S = 20
"""More than the server's grace."""


def main() -> int:
    """Run the demo; arguments go to the example."""
    with (
        tempfile.TemporaryDirectory(prefix="maitred-demo-") as data,
        serving(Path(data)) as address,
    ):
        command = [sys.executable, str(EXAMPLE), "--address", address, *sys.argv[1:]]
        return subprocess.run(command, check=False, env=environment()).returncode


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """Run a server whose simulated guests pay by themselves; yields its address."""
    command = [sys.executable, "-m", "maitred.server", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data", f"sqlite:{data / 'maitred.db'}", "--log-format", "json"]
    command += ["--backup-dir", str(data / "backups")]
    command += ["--simulated-outcome", "pay", "--simulated-delay-s", "0.3"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    try:
        assert server.stdout is not None
        yield listening(server.stdout)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOP_S)
        finally:
            server.kill()


def listening(log: IO[str]) -> str:
    """Read the server's log until it says where it listens; what follows is read and dropped."""
    before = []
    for line in log:
        before.append(line)
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") == "serving":
            # Unread, the pipe would fill up and stop the server.
            threading.Thread(target=log.read, daemon=True).start()
            return str(entry["listen"])
    raise SystemExit("demo: the server did not start:\n" + "".join(before))


def environment() -> dict[str, str]:
    """The environment without settings that would reach the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAITRED_")}


if __name__ == "__main__":
    sys.exit(main())
