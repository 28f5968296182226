"""The first five rows: AddItem and GetSession beside an echo and a naive server."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, closing

from benchmarks import guests
from benchmarks.context import CALLERS, ROUNDS, SESSIONS, Context, Series, run_round, warm_up
from benchmarks.guests import LINES, Guests, lines_of
from benchmarks.load import Caller, Step
from benchmarks.measure import fsync_ms, median, median_ratio, progress, say
from benchmarks.servers import ROOT, Maitred, ServerProcess, bare_server, naive_server

WARM_CYCLES = 2 * (LINES + 1)
"""Calls of a warm-up: whole orders, so that it shows the mean size of an answer."""


def echo_step(step: Step, response_bytes: float) -> Step:
    """Make an echo with the message sizes of another call."""
    size = round(response_bytes)
    return Step("Echo", f"/bench.Bare/Echo{size}", os.urandom(len(step.body)), step.request_id)


def echo_callers(step: Step, response_bytes: float, count: int = CALLERS) -> list[Caller]:
    """Make callers of an echo."""
    echo = echo_step(step, response_bytes)
    return [Caller([echo]) for _ in range(count)]


def run(context: Context) -> None:
    """Measure throughput and processor time, then the latency of one caller."""
    folder = context.folder("calls")
    with ExitStack() as stack:
        bare = stack.enter_context(bare_server(folder))
        naive = stack.enter_context(naive_server(folder))
        maitred = stack.enter_context(Maitred(folder / "bench.db", folder / "maitred.log"))
        people = stack.enter_context(closing(Guests(maitred.target)))
        others = stack.enter_context(closing(Guests(naive.target)))
        people.put_menu()
        sessions = people.create(SESSIONS)
        still = people.create(SESSIONS)
        theirs = others.create(SESSIONS, prefix=os.urandom(14).hex() + "-")
        adding = [Caller(guests.order_cycle(each)) for each in sessions]
        naively = [Caller(guests.order_cycle(each)) for each in theirs]
        # Sessions with half an order that stay as they are: answers keep their size.
        resting = [Caller(guests.order_cycle(each)) for each in still]
        warm_up(context, maitred, resting, "AddItem", LINES // 2)
        getting = [Caller([guests.get_session(each)]) for each in still]
        _throughput(context, bare, maitred, naive, adding, getting, naively)
        alone = people.create(1)
        single = Caller(guests.order_cycle(alone[0]))
        _latency(context, bare, maitred, single)
        added = people.check_tabs(
            "maitred",
            sessions + still + alone,
            [lines_of(caller.at) for caller in (*adding, *resting, single)],
        )
        others.check_tabs("naive", theirs, [lines_of(caller.at) for caller in naively])
        context.detail["add_item_checked"] = added
    if not context.quick:
        _with_tokens(context)


def _throughput(
    context: Context,
    bare: ServerProcess,
    maitred: ServerProcess,
    naive: ServerProcess,
    adding: list[Caller],
    getting: list[Caller],
    naively: list[Caller],
) -> None:
    say("throughput and processor time: 64 callers, interleaved rounds")
    cycles = WARM_CYCLES if context.quick else 5 * WARM_CYCLES
    add_bytes = warm_up(context, maitred, adding, "AddItem", cycles)
    get_bytes = warm_up(context, maitred, getting, "GetSession", cycles)
    warm_up(context, naive, naively, "AddItem", WARM_CYCLES)
    echo_add = echo_callers(adding[0].steps[0], add_bytes)
    echo_get = echo_callers(getting[0].steps[0], get_bytes)
    warm_up(context, bare, echo_add, "Echo", cycles)
    names = ("echo_add_item", "add_item", "naive_add_item", "echo_get_session", "get_session")
    rounds = {name: Series() for name in names}
    duration = 1.2 if context.quick else 4.0
    plan = (
        (bare, "echo_add_item", echo_add, "Echo"),
        (maitred, "add_item", adding, "AddItem"),
        (naive, "naive_add_item", naively, "AddItem"),
        (bare, "echo_get_session", echo_get, "Echo"),
        (maitred, "get_session", getting, "GetSession"),
    )
    show = progress("rounds")
    for number in range(ROUNDS):
        # There and back: a machine that gets slower or faster favours neither side.
        order = plan[:: -1 if number % 2 else 1]
        for place, (server, name, callers, counted) in enumerate(order):
            run_round(context, server, rounds[name], callers, counted, duration)
            show(number * len(plan) + place + 1, ROUNDS * len(plan))
    echo, get_echo = rounds["echo_add_item"], rounds["echo_get_session"]
    add, get = rounds["add_item"], rounds["get_session"]
    context.figures |= {
        "add_item_cpu_vs_echo": median_ratio(echo.cpu_us, add.cpu_us),
        "add_item_vs_echo": median_ratio(add.rate, echo.rate),
        "get_session_cpu_vs_echo": median_ratio(get_echo.cpu_us, get.cpu_us),
        "add_item_vs_naive": median_ratio(add.rate, rounds["naive_add_item"].rate),
    }
    context.detail["throughput"] = {name: each.detail() for name, each in rounds.items()}
    context.detail["get_session_vs_echo"] = median_ratio(get.rate, get_echo.rate)


def _latency(context: Context, bare: ServerProcess, maitred: ServerProcess, single: Caller) -> None:
    say("latency: one caller")
    add, echo = Series(), Series()
    size = warm_up(context, maitred, [single], "AddItem", 20 * WARM_CYCLES)
    echoing = echo_callers(single.steps[0], size, count=1)
    warm_up(context, bare, echoing, "Echo", 20 * WARM_CYCLES)
    duration = 0.5 if context.quick else 2.0
    synced: list[float] = []
    folder = context.directory / "calls"
    for _ in range(ROUNDS):
        run_round(context, bare, echo, echoing, "Echo", duration, connections=1)
        run_round(context, maitred, add, [single], "AddItem", duration, connections=1)
        synced.append(fsync_ms(folder, 60 if context.quick else 200))
    context.figures |= {
        "add_item_p50_ms": median(add.p50_us) / 1000,
        "echo_p50_ms": median(echo.p50_us) / 1000,
        "fsync_p50_ms": median(synced),
    }
    context.detail["latency"] = {
        "add_item": add.detail(),
        "echo": echo.detail(),
        "fsync_ms": synced,
    }


def _with_tokens(context: Context) -> None:
    say("the same with bearer tokens")
    folder = context.folder("tokens")
    tokens = folder / "tokens.jsonl"
    made = subprocess.run(
        [
            *(sys.executable, "-m", "maitred.server", "token", "bench"),
            *("--role", "admin", "--tokens", str(tokens)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    metadata = (("authorization", f"Bearer {made.stdout.split()[-1]}"),)
    with ExitStack() as stack:
        bare = stack.enter_context(bare_server(folder))
        options = ("--tokens", str(tokens))
        maitred = stack.enter_context(
            Maitred(folder / "bench.db", folder / "maitred.log", *options)
        )
        people = stack.enter_context(closing(Guests(maitred.target, metadata)))
        people.put_menu()
        sessions = people.create(SESSIONS)
        adding = [Caller(guests.order_cycle(each)) for each in sessions]
        add, echo = Series(), Series()
        size = warm_up(context, maitred, adding, "AddItem", 3 * WARM_CYCLES, metadata)
        echoing = echo_callers(adding[0].steps[0], size)
        for _ in range(3):
            run_round(context, bare, echo, echoing, "Echo", 2.0, metadata=metadata)
            run_round(context, maitred, add, adding, "AddItem", 2.0, metadata=metadata)
        people.check_tabs("with tokens", sessions, [lines_of(each.at) for each in adding])
    context.detail["with_tokens"] = {
        "add_item_cpu_vs_echo": median_ratio(echo.cpu_us, add.cpu_us),
        "add_item_vs_echo": median_ratio(add.rate, echo.rate),
        "echo": echo.detail(),
        "add_item": add.detail(),
    }
