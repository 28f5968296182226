"""A million sessions beside a thousand: reading a cold one, listing a page, starting."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path

from benchmarks import bulk, guests
from benchmarks.context import ROUNDS, Context
from benchmarks.guests import SESSIONS, Guests
from benchmarks.load import Caller, Step
from benchmarks.measure import BenchmarkError, median, median_ratio, progress, say
from benchmarks.servers import Maitred
from maitred.v1 import session_pb2

SMALL = 1_000
LARGE = 1_000_000
COLD = 900
"""Sessions that are read once each in the life of a server."""

PAGES = 20
LISTINGS = 400
Figures = dict[str, list[float]]


def run(context: Context) -> None:
    """Measure both databases in interleaved rounds, each on a server just started."""
    paths = {count: bulk.database(context.cache, count) for count in (SMALL, LARGE)}
    say(f"{LARGE} sessions beside {SMALL}")
    folder = context.folder("size")
    figures: dict[int, Figures] = {count: {} for count in paths}
    show = progress("rounds")
    for number in range(ROUNDS):
        for place, (count, path) in enumerate(paths.items()):
            read_whole(path)
            _round(context, folder, path, count, figures[count], seed=number)
            show(2 * number + place + 1, 2 * ROUNDS)
    small, large = figures[SMALL], figures[LARGE]
    get = median_ratio(large["get_p50_us"], small["get_p50_us"])
    pages = median_ratio(large["list_p50_us"], small["list_p50_us"])
    context.figures["cost_at_1m_sessions_vs_1k"] = max(get, pages)
    context.figures["start_s"] = median(large["start_s"])
    context.detail["sessions"] = {
        "get_session_ratio": get,
        "list_sessions_ratio": pages,
        "by_label_ratio": median_ratio(large["label_p50_us"], small["label_p50_us"]),
        "get_session_cpu_ratio": median_ratio(large["get_cpu_us"], small["get_cpu_us"]),
        "list_sessions_cpu_ratio": median_ratio(large["list_cpu_us"], small["list_cpu_us"]),
        "bytes_on_disk": {str(count): path.stat().st_size for count, path in paths.items()},
        **{str(count): each for count, each in figures.items()},
    }


def read_whole(path: Path) -> None:
    """Bring a file into the page cache: the disk of this machine is not what is measured here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while os.read(descriptor, 1 << 24):
            continue
    finally:
        os.close(descriptor)


def _round(
    context: Context, folder: Path, path: Path, count: int, figures: Figures, seed: int
) -> None:
    chosen = [
        bulk.name_of(index)
        for index in random.Random(seed).sample(range(count), min(count, COLD + 100))
    ]
    server = Maitred(path, folder / "maitred.log")
    figures.setdefault("start_s", []).append(server.start())
    try:
        with closing(Guests(server.target)) as people:
            pages, labelled = _pages(people, ""), _pages(people, "7")
        # What a server does only once (imports, first statements) belongs to no session.
        _measure(context, server, figures, "warm", [guests.get_session(n) for n in chosen[COLD:]])
        _measure(context, server, figures, "get", [guests.get_session(n) for n in chosen[:COLD]])
        _measure(context, server, figures, "list", pages, LISTINGS)
        _measure(context, server, figures, "label", labelled, LISTINGS)
    finally:
        server.stop()


def _pages(people: Guests, label: str) -> list[Step]:
    """Follow a listing for a while; return the steps that read its pages."""
    steps: list[Step] = []
    token = ""
    for _ in range(PAGES):
        request = session_pb2.ListSessionsRequest(page_token=token)
        if label:
            request.labels["table"] = label
        answer = people.call(SESSIONS + "ListSessions", request, session_pb2.ListSessionsResponse)
        if not label and len(answer.sessions) != 50:
            raise BenchmarkError(f"a page holds {len(answer.sessions)} sessions instead of 50")
        # The same number of sessions in both databases: a last page is shorter.
        if len(answer.sessions) == 50 or not steps:
            steps.append(guests.list_sessions(token, label))
        token = answer.next_page_token
        if not token:
            break
    return steps[:1] if label else steps


def _measure(
    context: Context,
    server: Maitred,
    figures: Figures,
    name: str,
    steps: list[Step],
    calls: int = 0,
) -> None:
    before = server.cpu_s
    caller = Caller(steps, calls=calls or len(steps))
    report = context.generator.unary(server.target, [caller], connections=1)
    used = server.cpu_s - before
    tally = report.names[steps[0].name]
    figures.setdefault(f"{name}_cpu_us", []).append(used / tally.count * 1e6)
    figures.setdefault(f"{name}_p50_us", []).append(tally.p50_us)
    figures.setdefault(f"{name}_bytes", []).append(tally.bytes / tally.count)
