"""What every case works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Caller, Generator, Report
from benchmarks.servers import ServerProcess

SESSIONS = 64
CALLERS = 64
ROUNDS = 5


@dataclass
class Context:
    """Where to work, with what, how long; and what came of it."""

    directory: Path
    """Gone afterwards."""
    cache: Path
    """Kept for the next run."""
    generator: Generator
    quick: bool
    figures: dict[str, float] = field(default_factory=dict)
    """The keys of the table."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Raw figures."""

    def folder(self, name: str) -> Path:
        """Make a new directory for a case."""
        made = self.directory / name
        made.mkdir()
        return made


@dataclass
class Series:
    """Rounds of one kind of call on one server."""

    cpu_us: list[float] = field(default_factory=list)
    """The server's processor time for each call."""
    rate: list[float] = field(default_factory=list)
    """Calls a second, of every kind in the round."""
    generator_cpu_us: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    bytes: float = 0.0
    """Mean size of a response."""

    def add(self, report: Report, cpu_s: float, name: str) -> None:
        """Take in a round."""
        tally = report.names[name]
        self.cpu_us.append(cpu_s / report.calls * 1e6)
        self.rate.append(report.calls / report.elapsed_s)
        self.generator_cpu_us.append(report.generator_cpu_s / report.calls * 1e6)
        self.p50_us.append(tally.p50_us)
        self.p99_us.append(tally.p99_us)
        self.bytes = tally.bytes / tally.count

    def detail(self) -> dict[str, Any]:
        """Return everything, for the record."""
        return {
            "cpu_us": self.cpu_us,
            "calls_per_s": self.rate,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "generator_cpu_us": self.generator_cpu_us,
            "response_bytes": self.bytes,
        }


def run_round(
    context: Context,
    server: ServerProcess,
    series: Series,
    callers: list[Caller],
    name: str,
    duration_s: float,
    *,
    metadata: tuple[tuple[str, str], ...] = (),
    connections: int = 4,
) -> None:
    """Load a server for a while, or until every caller has made its calls; take in what it did."""
    before = server.cpu_s
    report = context.generator.unary(
        server.target, callers, duration_s=duration_s, metadata=metadata, connections=connections
    )
    series.add(report, server.cpu_s - before, name)


def warm_up(
    context: Context,
    server: ServerProcess,
    callers: list[Caller],
    name: str,
    calls: int,
    metadata: tuple[tuple[str, str], ...] = (),
) -> float:
    """Have every caller make some calls; return the mean size of a response."""
    for caller in callers:
        caller.calls = calls
    series = Series()
    run_round(context, server, series, callers, name, 0.0, metadata=metadata)
    for caller in callers:
        caller.calls = 0
    return series.bytes
