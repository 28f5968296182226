"""AddItem on PostgreSQL and Redis beside the echo, and what several servers are to one another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import structlog

from benchmarks import guests, postgres_store
from benchmarks.cases_calls import WARM_CYCLES, echo_callers
from benchmarks.context import ROUNDS, SESSIONS, Context, Series, run_round, warm_up
from benchmarks.guests import Guests, lines_of
from benchmarks.load import CONNECTIONS, Caller
from benchmarks.measure import BenchmarkError, fsync_ms, median, median_ratio, progress, say
from benchmarks.servers import Maitred, MaitredAt, ServerProcess, bare_server
from maitred.server.testing.postgres_server import NoPostgres, PostgresServer
from maitred.server.testing.redis_server import NoRedis, RedisServer
from maitred.v1 import conversation_pb2, session_pb2, state_pb2

ARRIVAL_S = 10.0

Round = Callable[[float], None]


class Bar(NamedTuple):
    """Servers that share a store, and guests who order there, each at one of them."""

    name: str
    servers: Sequence[ServerProcess]
    people: Guests
    sessions: list[str]
    callers: list[Caller]

    @classmethod
    def opened(cls, name: str, people: Guests, *servers: ServerProcess) -> Bar:
        """Let guests in."""
        sessions = people.create(SESSIONS)
        callers = [Caller(guests.order_cycle(each)) for each in sessions]
        return cls(name, servers, people, sessions, callers)

    def parts(self) -> list[tuple[ServerProcess, list[Caller]]]:
        """Say who orders at which server."""
        share = len(self.callers) // len(self.servers)
        return [
            (server, self.callers[number * share : (number + 1) * share])
            for number, server in enumerate(self.servers)
        ]

    def check(self) -> int:
        """Compare the tabs with what was acknowledged. Raises: BenchmarkError."""
        acknowledged = [lines_of(caller.at) for caller in self.callers]
        return self.people.check_tabs(self.name, self.sessions, acknowledged)


def run(context: Context) -> None:
    """Measure what there are servers of; say what there are none of."""
    folder = context.folder("engines")
    with ExitStack() as stack:
        postgres = redis = None
        try:
            postgres = stack.enter_context(PostgresServer(fsync="on"))
        except NoPostgres as error:
            _skip(context, "PostgreSQL", error)
        try:
            redis = stack.enter_context(RedisServer())
        except NoRedis as error:
            _skip(context, "Redis", error)
        if postgres is not None or redis is not None:
            # Where the two keep their data.
            context.detail["engines_fsync_ms"] = fsync_ms(Path(tempfile.gettempdir()), 100)
            _servers(context, folder, postgres, redis)
        if postgres is not None:
            _postgres_store(context, postgres)


def _skip(context: Context, engine: str, error: Exception) -> None:
    say(f"{engine} is not measured: {error}")
    context.detail.setdefault("skipped", {})[engine] = str(error)


# --- through servers -----------------------------------------------------------------------------


def _servers(
    context: Context, folder: Path, postgres: PostgresServer | None, redis: RedisServer | None
) -> None:
    log = folder / "maitred.log"
    # Else the books of simulated payments are in the folder that the server was started in.
    books = ("--simulated-dir", str(folder))
    with ExitStack() as stack:
        bare = stack.enter_context(bare_server(folder))

        def started(server: MaitredAt) -> tuple[Guests, MaitredAt]:
            stack.enter_context(server)
            people = stack.enter_context(closing(Guests(server.target)))
            people.put_menu()
            return people, server

        bars = [Bar.opened("sqlite", *started(Maitred(folder / "bench.db", log)))]
        if postgres is not None:
            url = postgres.create_database()
            people, first = started(MaitredAt(url, log, *books))
            second = stack.enter_context(MaitredAt(url, log, *books))
            bars.append(Bar.opened("pg", people, first))
            bars.append(Bar.opened("pg_two_servers", people, first, second))
        if redis is not None:
            bars.append(Bar.opened("redis", *started(MaitredAt(redis.url(), log, *books))))
        _throughput(context, bare, bars)
        if postgres is not None:
            _cross_server(context, first.target, second.target, people.create(1)[0])


def _throughput(context: Context, bare: ServerProcess, bars: list[Bar]) -> None:
    say("AddItem on each engine: 64 callers, interleaved rounds")
    cycles = WARM_CYCLES if context.quick else 5 * WARM_CYCLES
    series = {bar.name: Series() for bar in bars if len(bar.servers) == 1}
    spread: list[float] = []
    echo = Series()
    size = 0.0
    plan: list[Round] = []
    for bar in bars:
        for server, callers in bar.parts():
            size = warm_up(context, server, callers, "AddItem", cycles)
        if len(bar.servers) == 1:
            plan.append(partial(_ordering, context, bar, series[bar.name]))
        else:
            plan.append(partial(_spread, context, bar, spread))
    echoing = echo_callers(bars[0].callers[0].steps[0], size)
    warm_up(context, bare, echoing, "Echo", cycles)
    plan.insert(0, partial(run_round, context, bare, echo, echoing, "Echo"))
    show = progress("rounds")
    for number in range(ROUNDS):
        # There and back: a machine that gets slower or faster favours no side.
        for place, measure in enumerate(plan[:: -1 if number % 2 else 1]):
            measure(1.2 if context.quick else 4.0)
            show(number * len(plan) + place + 1, ROUNDS * len(plan))
    ratios = {name: median_ratio(each.rate, echo.rate) for name, each in series.items()}
    for name in ("pg", "redis"):
        if name in ratios:
            context.figures[f"{name}_add_item_vs_echo"] = ratios[name]
    if spread:
        context.figures |= {
            "pg_two_servers_vs_one": median_ratio(spread, series["pg"].rate),
            "processors": len(os.sched_getaffinity(0)),
        }
    context.detail["engines"] = {
        "echo": echo.detail(),
        **{name: each.detail() for name, each in series.items()},
        "pg_two_servers_calls_per_s": spread,
        "vs_echo": ratios,
        "cpu_vs_echo": {
            name: median_ratio(echo.cpu_us, each.cpu_us) for name, each in series.items()
        },
        "checked": sum(bar.check() for bar in bars),
        "load": os.getloadavg()[0],
    }


def _ordering(context: Context, bar: Bar, series: Series, duration_s: float) -> None:
    run_round(context, bar.servers[0], series, bar.callers, "AddItem", duration_s)


def _spread(context: Context, bar: Bar, rates: list[float], duration_s: float) -> None:
    """Load all servers at once, each by a generator of its own; take in the sum."""

    def load(part: tuple[ServerProcess, list[Caller]]) -> float:
        server, callers = part
        report = context.generator.unary(
            server.target,
            callers,
            duration_s=duration_s,
            connections=CONNECTIONS // len(bar.servers),
        )
        return report.calls / report.elapsed_s

    with ThreadPoolExecutor(len(bar.servers)) as pool:
        rates.append(sum(pool.map(load, bar.parts())))


# --- from one server to the other ----------------------------------------------------------------


def _cross_server(context: Context, writing: str, watching: str, session_id: str) -> None:
    say("changes of one server seen at the other")
    count = 40 if context.quick else 100
    taken = asyncio.run(_arrivals_ms(writing, watching, session_id, count))
    context.figures["pg_cross_server_watch_p50_ms"] = median(taken)
    context.detail["cross_server_watch"] = _summary(taken)


async def _arrivals_ms(writing: str, watching: str, session_id: str, count: int) -> list[float]:
    """Measure from each acknowledgement to the arrival. Raises: BenchmarkError."""
    arrived: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def watch(stream: Any) -> None:
        async for message in stream:
            arrived.put_nowait((message.version, time.monotonic()))

    taken: list[float] = []
    async with (
        grpc.aio.insecure_channel(writing) as one,
        grpc.aio.insecure_channel(watching) as other,
    ):
        open_watch: Any = other.unary_stream(
            guests.SESSIONS + "WatchSession",
            request_serializer=session_pb2.WatchSessionRequest.SerializeToString,
            response_deserializer=session_pb2.WatchSessionResponse.FromString,
        )
        record: Any = one.unary_unary(
            guests.CONVERSATIONS + "RecordTurn",
            request_serializer=conversation_pb2.RecordTurnRequest.SerializeToString,
            response_deserializer=conversation_pb2.RecordTurnResponse.FromString,
        )
        stream = open_watch(session_pb2.WatchSessionRequest(session_id=session_id))
        task = asyncio.create_task(watch(stream))
        try:
            async with asyncio.timeout(ARRIVAL_S):
                version, _ = await arrived.get()
            for number in range(count):
                # At any time between two looks of the other server.
                await asyncio.sleep(0.1 + number % 10 * 0.017)
                request = conversation_pb2.RecordTurnRequest(
                    session_id=session_id, request_id=os.urandom(16).hex()
                )
                request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=guests.TEXT)
                await record(request, timeout=ARRIVAL_S)
                acknowledged = time.monotonic()
                async with asyncio.timeout(ARRIVAL_S):
                    seen, at = await arrived.get()
                if seen != version + 1:
                    raise BenchmarkError(f"version {seen} came after {version}")
                version = seen
                taken.append((at - acknowledged) * 1000)
        except TimeoutError as error:
            raise BenchmarkError(f"a change did not arrive in {ARRIVAL_S:.0f} s") from error
        except grpc.RpcError as error:
            raise BenchmarkError(f"a turn was not recorded: {error}") from error
        finally:
            stream.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.RpcError):
                await task
    return taken


def _summary(taken: list[float]) -> dict[str, float]:
    """Sum up milliseconds."""
    taken = sorted(taken)
    return {
        "count": len(taken),
        "p50_ms": median(taken),
        "p95_ms": taken[int(len(taken) * 0.95)],
        "worst_ms": taken[-1],
    }


# --- the store by itself -------------------------------------------------------------------------


def _postgres_store(context: Context, postgres: PostgresServer) -> None:
    say("the PostgreSQL engine by itself: batches, single statements, looking")
    # The store says what a server would: that there is no standby.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    url = postgres.create_database()
    rates = asyncio.run(postgres_store.commit_rates(url, 1.0 if context.quick else 3.0))
    context.figures["pg_commit_per_s_vs_single_statement"] = rates.ratio
    looks = asyncio.run(postgres_store.looking_ms(url, 10 if context.quick else 50))
    context.detail["postgres_store"] = {
        "commits": rates._asdict(),
        "wake_up_by_looking_alone": _summary(looks),
    }
