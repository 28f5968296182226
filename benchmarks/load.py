"""Plans of load, and whoever carries them out: the Go generator, or Python where Go is missing."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import BenchmarkError, say

HERE = Path(__file__).parent
CONNECTIONS = 4
TIMEOUT_S = 60.0


class Step(NamedTuple):
    """One request; with `request_id`, the generator puts a fresh id into its field 2."""

    name: str
    path: str
    body: bytes
    request_id: bool = False

    @property
    def size(self) -> int:
        """Length of the request as it is sent."""
        return len(self.body) + (34 if self.request_id else 0)

    def plan(self) -> dict[str, Any]:
        """Write the step as the generators read it."""
        return {
            "name": self.name,
            "path": self.path,
            "body": base64.b64encode(self.body).decode(),
            "request_id": self.request_id,
        }


@dataclass
class Caller:
    """Goes through its steps one at a time, over and over, and remembers where it is."""

    steps: Sequence[Step]
    at: int = 0
    calls: int = 0
    """How many calls a run makes; 0 means as many as fit into its time."""


@dataclass(frozen=True)
class Tally:
    """What was measured of the calls of one name."""

    count: int
    bytes: int
    p50_us: float
    p90_us: float
    p99_us: float
    mean_us: float


class Post(NamedTuple):
    """One signed message for a webhook."""

    body: bytes
    signature: str


@dataclass(frozen=True)
class Posting:
    """Messages for a webhook, and how they arrive beside the calls of a run.

    `rate_per_s` a second, whether or not those before are answered; with 0 all are due at once, and
    each connection sends its next one when it has its answer. The first is due `after_s` seconds
    into the run, which ends with the last answer. Each must be answered with 200, and its
    connection kept.
    """

    target: str
    path: str
    posts: Sequence[Post]
    connections: int
    rate_per_s: float = 0.0
    after_s: float = 0.0

    def plan(self) -> dict[str, Any]:
        """Write the messages as the generators read them."""
        return {
            "target": self.target,
            "path": self.path,
            "connections": self.connections,
            "rate_per_s": self.rate_per_s,
            "after_s": self.after_s,
            "messages": [
                {"body": base64.b64encode(post.body).decode(), "signature": post.signature}
                for post in self.posts
            ],
        }


@dataclass(frozen=True)
class Posted(Tally):
    """What came of messages; latencies count from when each was due."""

    elapsed_s: float
    """From when the first was due to the last answer."""
    calls: int
    """Calls that were answered meanwhile."""
    answers: dict[str, int]
    """How often each text was the answer."""

    @property
    def calls_per_s(self) -> float:
        """Rate of the calls meanwhile."""
        return self.calls / self.elapsed_s


@dataclass
class Report:
    """What came of a run."""

    elapsed_s: float
    generator_cpu_s: float
    names: dict[str, Tally]
    posted: Posted | None = None

    @property
    def calls(self) -> int:
        """Count all calls."""
        return sum(each.count for each in self.names.values())


@dataclass
class Crowd:
    """Streams that are open."""

    connected: int
    connect_s: float
    process: subprocess.Popen[str]
    result: dict[str, Any] = field(default_factory=dict)

    def publish(self) -> dict[str, Any]:
        """Publish what the plan says and wait until all is delivered. Raises: BenchmarkError."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.result = _answer(self.process)
        return self.result


class Generator:
    """Carries plans out in processes of its own."""

    def __init__(self, cache: Path) -> None:
        """Build the Go generator, or say that Python has to do."""
        self._cache = cache
        self._command, self.name = self._find()

    def _find(self) -> tuple[list[str], str]:
        go = shutil.which("go")
        if go is not None and os.environ.get("BENCH_GENERATOR") != "python":
            binary = self._cache / "loadgen"
            built = subprocess.run(
                [go, "build", "-o", str(binary), "."],
                cwd=HERE / "loadgen",
                capture_output=True,
                text=True,
                check=False,
            )
            if built.returncode == 0:
                return [str(binary)], "Go"
            say(f"the Go generator does not build, Python has to do:\n{built.stderr.strip()}")
        return [sys.executable, "-m", "benchmarks.generator"], "Python (slower than the server)"

    def _start(self, plan: dict[str, Any]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan) + "\n")
        process.stdin.flush()
        return process

    def unary(
        self,
        target: str,
        callers: Sequence[Caller],
        *,
        duration_s: float = 0.0,
        connections: int = CONNECTIONS,
        metadata: Sequence[tuple[str, str]] = (),
        posting: Posting | None = None,
    ) -> Report:
        """Let callers call, each with one call in flight; with `posting`, until all is answered.

        Raises: BenchmarkError.
        """
        plan: dict[str, Any] = {
            "mode": "unary",
            "target": target,
            "metadata": list(metadata),
            "connections": min(connections, len(callers)),
            "duration_s": duration_s,
            "timeout_s": TIMEOUT_S,
            "callers": [
                {
                    "steps": [step.plan() for step in caller.steps],
                    "at": caller.at,
                    "calls": caller.calls,
                }
                for caller in callers
            ],
            "posts": posting.plan() if posting is not None else None,
        }
        process = self._start(plan)
        try:
            answer = _answer(process)
        finally:
            _end(process)
        for caller, at in zip(callers, answer["at"], strict=True):
            caller.at = at
        names = {name: Tally(**tally) for name, tally in answer["names"].items()}
        posted = Posted(**answer["posted"]) if posting is not None else None
        return Report(answer["elapsed_s"], answer["cpu_s"], names, posted)

    @contextmanager
    def watch(
        self,
        target: str,
        watch: Step,
        streams: int,
        publish: Sequence[Step],
        *,
        publishes: int,
        window: int = 1,
        count: str = "session",
        connections: int = 8,
    ) -> Iterator[Crowd]:
        """Open streams in one burst and keep them until the end of the block.

        Raises: BenchmarkError.
        """
        plan = {
            "mode": "watch",
            "target": target,
            "connections": connections,
            "timeout_s": 2 * TIMEOUT_S,
            "streams": streams,
            "path": watch.path,
            "body": base64.b64encode(watch.body).decode(),
            "count": count,
            "publishes": publishes,
            "window": window,
            "callers": [{"steps": [step.plan() for step in publish]}],
        }
        process = self._start(plan)
        try:
            first = _answer(process)
            yield Crowd(first["connected"], first["elapsed_s"], process)
        finally:
            _end(process)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchmarkError(f"the load generator ended with status {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    if answer["failures"]:
        told = "; ".join(f"{count} x {what}" for what, count in answer["failures"].items())
        raise BenchmarkError(f"calls failed: {told}")
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
