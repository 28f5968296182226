"""Ten thousand watchers of one session, and how fast a thousand hear of a change."""

from __future__ import annotations

from contextlib import ExitStack, closing

from benchmarks import guests
from benchmarks.context import ROUNDS, Context
from benchmarks.guests import SESSIONS, Guests
from benchmarks.load import Step
from benchmarks.measure import BenchmarkError, median, median_ratio, progress, say
from benchmarks.servers import Maitred, ServerProcess, bare_server
from maitred.v1 import session_pb2

WATCHERS = 10_000
AUDIENCE = 1_000
CHANGES = 60
WINDOW = 16


def run(context: Context) -> None:
    """Measure the fan-out beside a bare stream server, then the crowd on a server of its own."""
    folder = context.folder("watch")
    with ExitStack() as stack:
        bare = stack.enter_context(bare_server(folder))
        maitred = stack.enter_context(Maitred(folder / "bench.db", folder / "maitred.log"))
        people = stack.enter_context(closing(Guests(maitred.target)))
        people.put_menu()
        _fan_out(context, bare, maitred, people)
    with ExitStack() as stack:
        # Not the one before: memory that its watchers gave back would be counted as nothing.
        maitred = stack.enter_context(Maitred(folder / "crowd.db", folder / "maitred.log"))
        people = stack.enter_context(closing(Guests(maitred.target)))
        people.put_menu()
        _crowd(context, maitred, people.create(1)[0])


def watch_step(session_id: str) -> Step:
    """Watch a session."""
    request = session_pb2.WatchSessionRequest(session_id=session_id)
    return Step("WatchSession", SESSIONS + "WatchSession", request.SerializeToString())


def _message_bytes(people: Guests, session_id: str) -> int:
    """Learn how long the message of a watch is that carries one turn."""
    request = session_pb2.ListEventsRequest(session_id=session_id, page_size=1000)
    answer = people.call(SESSIONS + "ListEvents", request, session_pb2.ListEventsResponse)
    message = session_pb2.WatchSessionResponse(
        version=answer.events[-1].version, resume_token=bytes(24)
    )
    message.events.events.append(answer.events[-1])
    return int(message.ByteSize())


def _fan_out(context: Context, bare: ServerProcess, maitred: ServerProcess, people: Guests) -> None:
    say(f"deliveries to {AUDIENCE} watchers")
    session_id = people.create(1)[0]
    turn = guests.record_turn(session_id)
    with context.generator.watch(
        maitred.target, watch_step(session_id), 1, [turn], publishes=10
    ) as first:
        first.publish()
    size = _message_bytes(people, session_id)
    theirs = Step("Watch", f"/bench.Bare/Watch{size}", b"watch")
    publish = Step("Publish", f"/bench.Bare/Publish{size}", turn.body, request_id=True)
    plan = (
        ("bare", bare, theirs, publish, "messages"),
        ("maitred", maitred, watch_step(session_id), turn, "session"),
    )
    show = progress("rounds")
    detail: dict[str, dict[str, list[float]]] = {}
    for window in (1, WINDOW):
        for number in range(ROUNDS):
            for name, server, watch, change, count in plan[:: -1 if number % 2 else 1]:
                with context.generator.watch(
                    server.target,
                    watch,
                    AUDIENCE,
                    [change],
                    publishes=CHANGES,
                    window=window,
                    count=count,
                ) as crowd:
                    before = server.cpu_s
                    result = crowd.publish()
                    used = server.cpu_s - before
                _require(result["delivered"] == CHANGES * AUDIENCE, f"{name}: {result}")
                figures = detail.setdefault(f"{name}, window {window}", {"rate": [], "cpu_us": []})
                figures["rate"].append(result["delivered"] / result["elapsed_s"])
                figures["cpu_us"].append(used / result["delivered"] * 1e6)
            show(number + 1 + (ROUNDS if window > 1 else 0), 2 * ROUNDS)
    context.figures["fanout_vs_bare_stream"] = median_ratio(
        detail["maitred, window 1"]["rate"], detail["bare, window 1"]["rate"]
    )
    context.detail["fan_out"] = {
        **detail,
        "message_bytes": size,
        "ratio_at_window_16": median_ratio(
            detail[f"maitred, window {WINDOW}"]["rate"], detail[f"bare, window {WINDOW}"]["rate"]
        ),
        "cpu_ratio": median_ratio(
            detail["bare, window 1"]["cpu_us"], detail["maitred, window 1"]["cpu_us"]
        ),
        "deliveries_per_s": median(detail["maitred, window 1"]["rate"]),
    }


def _crowd(context: Context, server: ServerProcess, session_id: str) -> None:
    say(f"{WATCHERS} watchers of one session in one burst")
    watch = watch_step(session_id)
    turn = [guests.record_turn(session_id)]
    with context.generator.watch(server.target, watch, 10, turn, publishes=3) as crowd:
        crowd.publish()
    before = server.rss_kib
    with context.generator.watch(server.target, watch, WATCHERS, turn, publishes=3) as crowd:
        connected = server.rss_kib
        result = crowd.publish()
        after = server.rss_kib
    _require(result["delivered"] == 3 * crowd.connected, f"crowd: {result}")
    context.figures["watchers_connected"] = crowd.connected
    context.figures["watcher_kib"] = (max(connected, after) - before) / max(1, crowd.connected)
    context.detail["crowd"] = {
        "connect_s": crowd.connect_s,
        "rss_kib_before": before,
        "rss_kib_connected": connected,
        "rss_kib_after_three_changes": after,
        "deliveries_per_s": result["delivered"] / result["elapsed_s"],
    }


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BenchmarkError(f"not every watcher saw every change: {what}")
