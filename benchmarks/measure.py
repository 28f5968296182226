"""Measurements: processor time, memory, the disk, medians."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A figure could not be measured, or a call failed; there is no result then."""


def cpu_s(pid: int) -> float:
    """Read the processor time of a process and all its threads, user and system."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_kib(pid: int) -> int:
    """Read how much memory a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise BenchmarkError(f"process {pid} has no memory")


def fsync_ms(directory: Path, count: int) -> float:
    """Append 4 KiB and make it durable, over and over; the median in milliseconds."""
    path = directory / "fsync.probe"
    block = os.urandom(4096)
    taken: list[float] = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(taken) * 1000


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of rounds that belong together."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def rounded(value: Any, digits: int = 4) -> Any:
    """Round the numbers of a result, wherever they are in it."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    return value


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    import sqlite3

    import grpc

    return {
        "load_before": os.getloadavg()[0],
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def say(text: str) -> None:
    """Tell people what is being done."""
    print(text, file=sys.stderr, flush=True)


def progress(label: str) -> Callable[[int, int], None]:
    """Make a function that shows how far something is; on a terminal in place, else at tenths."""
    terminal = sys.stderr.isatty()
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(1, total)
        step = percent if terminal else percent // 10
        if step == shown:
            return
        shown = step
        end = "\n" if done >= total or not terminal else ""
        start = "\r" if terminal else ""
        print(f"{start}  {label}: {percent:3d} %", end=end, file=sys.stderr, flush=True)

    return show
