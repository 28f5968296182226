"""The servers that are measured, each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2

from benchmarks.measure import BenchmarkError, cpu_s, rss_kib

ROOT = Path(__file__).parent.parent
START_S = 60.0
STOP_S = 30.0


class ServerProcess:
    """A server that runs until the block ends."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.target = ""
        """Where it listens; chosen beforehand, or told by the server on its first line."""
        self._command = list(command)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        return cpu_s(self.pid)

    @property
    def rss_kib(self) -> int:
        """Memory in use."""
        return rss_kib(self.pid)

    def start(self) -> float:
        """Start it and wait until it serves; return how long that took. Raises: BenchmarkError."""
        begun = time.perf_counter()
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the benchmark, which then ends its servers.
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log if self.target else subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return time.perf_counter() - begun

    def _wait(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise self._failed()
        self.target = f"127.0.0.1:{int(line)}"

    def _failed(self) -> BenchmarkError:
        told = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return BenchmarkError(f"{self.name} did not start: {' | '.join(told[-3:])}")

    def stop(self) -> None:
        """End it in good order; kill it where it does not listen."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class MaitredAt(ServerProcess):
    """`maitred serve` with its defaults on any store, on a port that was free a moment ago."""

    def __init__(self, url: str, log: Path, *options: str) -> None:
        port = free_port()
        super().__init__(
            "maitred",
            [
                sys.executable,
                "-m",
                "maitred.server",
                "serve",
                *("--listen", f"127.0.0.1:{port}"),
                *("--data", url),
                *options,
            ],
            log,
        )
        self.target = f"127.0.0.1:{port}"

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_S
        host, _, port = self.target.partition(":")
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise self._failed()
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                time.sleep(0.002)
                continue
            if _is_serving(self.target):
                return
        raise self._failed()


class Maitred(MaitredAt):
    """The same on a SQLite file."""

    def __init__(self, data: Path, log: Path, *options: str) -> None:
        super().__init__(f"sqlite:{data}", log, *options)
        self.data = data

    def size(self) -> int:
        """Bytes on disk; to be asked once it is stopped, because stopping checkpoints."""
        wal = self.data.with_name(self.data.name + "-wal")
        return self.data.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def bare_server(directory: Path) -> ServerProcess:
    """Make the bare echo and stream server."""
    command = [sys.executable, "-m", "benchmarks.bare"]
    return ServerProcess("bare", command, directory / "bare.log")


def naive_server(directory: Path) -> ServerProcess:
    """Make the naive server on a new database."""
    command = [sys.executable, "-m", "benchmarks.naive", str(directory / "naive.db")]
    return ServerProcess("naive", command, directory / "naive.log")


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_serving(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _environment() -> dict[str, str]:
    """Leave out what would change the defaults of the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAITRED_")}
