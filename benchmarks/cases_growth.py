"""What grows with a conversation: the cost of a turn (it must not) and the database."""

from __future__ import annotations

from contextlib import closing

from benchmarks import guests
from benchmarks.context import ROUNDS, SESSIONS, Context
from benchmarks.guests import Guests
from benchmarks.load import Caller
from benchmarks.measure import median, median_ratio, progress, say
from benchmarks.servers import Maitred, ServerProcess

LATE = 5000
EARLY = 10
BLOCK = 500
"""Cycles of a round, so that processor time is read over a second or so."""

TURNS = 100
"""Turns of each session when the growth of the database is measured."""


def run(context: Context) -> None:
    """Measure both."""
    _cost(context)
    _bytes(context)


def _cost(context: Context) -> None:
    say(f"a turn with an order, {EARLY} and {LATE} turns into a session")
    folder = context.folder("growth")
    with (
        Maitred(folder / "bench.db", folder / "maitred.log") as server,
        closing(Guests(server.target)) as people,
    ):
        people.put_menu()
        old = Caller(guests.turn_cycle(people.create(1)[0]))
        show = progress("ageing a session")
        start = LATE - ROUNDS * BLOCK // 2
        while old.at < 3 * start:
            old.calls = 3 * min(250, start - old.at // 3)
            _cycles(context, server, [old])
            show(old.at // 3, start)
        early: list[float] = []
        late: list[float] = []
        latency: dict[str, list[float]] = {"early_us": [], "late_us": []}
        old.calls = 3 * BLOCK
        for _ in range(ROUNDS):
            sessions = people.create(BLOCK // EARLY)
            young = [Caller(guests.turn_cycle(each), calls=3 * EARLY // 2) for each in sessions]
            _cycles(context, server, young)
            # One after the other, as the calls of the old session are; cycles 6 to 15.
            steps = [step for each in sessions for step in EARLY * guests.turn_cycle(each)]
            cpu, p50 = _cycles(context, server, [Caller(steps, calls=3 * BLOCK)])
            early.append(cpu)
            latency["early_us"].append(p50)
            cpu, p50 = _cycles(context, server, [old])
            late.append(cpu)
            latency["late_us"].append(p50)
        people.check_tabs("growth", [_name(old)], [old.at // 3])
    context.figures["cost_at_turn_5000_vs_10"] = median_ratio(late, early)
    context.detail["turn_with_order"] = {
        "early_cpu_us": early,
        "late_cpu_us": late,
        "cycles_of_old_session": old.at // 3,
        "add_item_p50": {name: median(values) for name, values in latency.items()},
    }


def _name(caller: Caller) -> str:
    body = caller.steps[0].body
    return body[2 : 2 + body[1]].decode()


def _cycles(context: Context, server: ServerProcess, callers: list[Caller]) -> tuple[float, float]:
    """Run cycles; return the processor time of one and the median latency of AddItem, in µs."""
    before = server.cpu_s
    report = context.generator.unary(server.target, callers, connections=1)
    add = report.names["AddItem"]
    return (server.cpu_s - before) / add.count * 1e6, add.p50_us


def _bytes(context: Context) -> None:
    say("growth of the database")
    folder = context.folder("bytes")
    server = Maitred(folder / "bench.db", folder / "maitred.log")
    with server, closing(Guests(server.target)) as people:
        people.put_menu()
        callers = [Caller([guests.record_turn(each)]) for each in people.create(SESSIONS)]
        # The first turns fill pages that are there already.
        _turns(context, server, callers, TURNS // 4)
    before = server.size()
    with server:
        _turns(context, server, callers, TURNS)
    after = server.size()
    turns = TURNS * len(callers)
    context.figures["bytes_per_turn"] = (after - before) / turns
    context.detail["growth"] = {"turns": turns, "bytes_before": before, "bytes_after": after}


def _turns(context: Context, server: ServerProcess, callers: list[Caller], each: int) -> None:
    for caller in callers:
        caller.calls = each
    context.generator.unary(server.target, callers)
