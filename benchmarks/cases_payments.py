"""What payments cost the guests who order: webhooks as they come, a burst of them, a restart."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from benchmarks import bulk_payments, guests
from benchmarks.context import CALLERS, ROUNDS, Context
from benchmarks.fakestripe import WEBHOOK_PATH, Stripe, kind_of, renamed, webhook_address
from benchmarks.guests import Guests, lines_of
from benchmarks.load import Caller, Post, Posted, Posting, Report
from benchmarks.measure import BenchmarkError, median, median_ratio, progress, say
from benchmarks.servers import Maitred
from maitred.server.kinds.tables import Table
from maitred.server.payments.inbox import PENDING
from maitred.server.payments.throttle import BURST as ALLOWANCE_S

WEBHOOKS_PER_S = 100.0
WEBHOOK_CONNECTIONS = 32
"""More than are ever busy while the server keeps up."""

BURST = 2000
BURST_CONNECTIONS = 500
"""So many webhooks of a burst are under way at any time; of more than 512 the server refuses some.
The more there are, the harder it is on those who order."""

LEAD_S = 0.3
"""Callers are at their pace when the first webhook comes."""

SETTLED_S = 120.0
OPEN_PAYMENTS = 10_000
LOOKUPS_PER_S = 20.0
"""What the server may ask of each endpoint of the provider, by its defaults."""

LOOKUPS_S = 5.0
"""How long lookups are counted."""


class Site(NamedTuple):
    """A server whose payments the stand-in of Stripe takes, and guests who order there."""

    context: Context
    stripe: Stripe
    maitred: Maitred
    people: Guests
    webhooks: str
    sessions: list[str]
    ordering: list[Caller]

    def order(self, duration_s: float) -> Report:
        """Let everybody order for a while."""
        return self.context.generator.unary(
            self.maitred.target, self.ordering, duration_s=duration_s
        )

    def post(self, posts: list[Post], connections: int, rate_per_s: float = 0.0) -> Report:
        """Let everybody order until messages that arrive meanwhile are acknowledged."""
        posting = Posting(self.webhooks, WEBHOOK_PATH, posts, connections, rate_per_s, LEAD_S)
        return self.context.generator.unary(self.maitred.target, self.ordering, posting=posting)

    def open_payments(self, count: int) -> list[str]:
        """Let so many others order and ask for a link at once; return their sessions."""
        names = self.people.create(count)
        callers = [
            Caller([guests.add_item(name), guests.create_payment(name)], calls=2) for name in names
        ]
        self.context.generator.unary(self.maitred.target, callers)
        return names

    def unfinished(self) -> int:
        """Count the notices that are not worked off; the server does not tell."""
        with closing(sqlite3.connect(f"file:{self.maitred.data}?mode=ro", uri=True)) as reading:
            found = reading.execute(
                "SELECT count(*) FROM projections WHERE tab = ? AND status = ?",
                (Table.INBOX, PENDING),
            )
            return int(found.fetchone()[0])


def run(context: Context) -> None:
    """Measure webhooks at a rate, in a burst, and a start with many open payments."""
    folder = context.folder("payments")
    with ExitStack() as stack:
        stripe = stack.enter_context(Stripe(folder))
        webhooks = webhook_address()
        maitred = stack.enter_context(
            Maitred(folder / "bench.db", folder / "maitred.log", *stripe.options(webhooks))
        )
        people = stack.enter_context(closing(Guests(maitred.target)))
        people.put_menu()
        sessions = people.create(CALLERS)
        ordering = [Caller(guests.order_cycle(each)) for each in sessions]
        site = Site(context, stripe, maitred, people, webhooks, sessions, ordering)
        site.order(1.0)
        _at_a_rate(site)
        _in_a_burst(site)
        people.check_tabs("payments", sessions, [lines_of(caller.at) for caller in ordering])
    _with_open_payments(context, folder)


# --- webhooks at a rate --------------------------------------------------------------------------


def _at_a_rate(site: Site) -> None:
    say(f"{WEBHOOKS_PER_S:.0f} webhooks a second while {CALLERS} callers order")
    context = site.context
    paying = site.open_payments(60 if context.quick else 200)
    payments = [site.people.payment(name).payment_id for name in paying]
    begun = site.maitred.cpu_s
    alone = site.order(2.0 if context.quick else 5.0)
    alone_cpu_s = site.maitred.cpu_s - begun
    for payment_id in payments:
        site.stripe.pay(payment_id)
    posts = site.stripe.drain()
    begun = site.maitred.cpu_s
    report = site.post(posts, WEBHOOK_CONNECTIONS, WEBHOOKS_PER_S)
    used_cpu_s = site.maitred.cpu_s - begun
    settled = site.people.settled()
    posted = _acknowledged(report, {"accepted": len(posts)})
    waited_s = _wait_for(lambda: site.people.settled() == len(paying) and not site.unfinished())
    sources = Counter(site.people.check_settled_once(name) for name in paying)
    add, add_alone = report.names["AddItem"], alone.names["AddItem"]
    context.figures["webhook_p50_ms"] = posted.p50_us / 1000
    context.detail["webhooks"] = {
        "sent": dict(Counter(kind_of(post) for post in posts)),
        "payments": len(paying),
        "settled_at_the_last_acknowledgement": settled,
        "all_settled_after_s": posted.elapsed_s + waited_s,
        "settled_by": dict(sources),
        "elapsed_s": posted.elapsed_s,
        "p50_ms": posted.p50_us / 1000,
        "p90_ms": posted.p90_us / 1000,
        "p99_ms": posted.p99_us / 1000,
        "calls_per_s": posted.calls_per_s,
        "calls_per_s_without": alone.calls / alone.elapsed_s,
        "add_item_p50_ms": add.p50_us / 1000,
        "add_item_p99_ms": add.p99_us / 1000,
        "add_item_p50_ms_without": add_alone.p50_us / 1000,
        "add_item_p99_ms_without": add_alone.p99_us / 1000,
        "cpu_us_per_call": used_cpu_s / report.calls * 1e6,
        "cpu_us_per_call_without": alone_cpu_s / alone.calls * 1e6,
    }


# --- a burst of one fact -------------------------------------------------------------------------


def _same_id(post: Post) -> list[Post]:
    """Repeat one message."""
    return [post] * BURST


def _own_ids(post: Post) -> list[Post]:
    """Tell the fact in messages that have ids of their own."""
    return renamed(post, BURST)


_BURSTS: dict[str, tuple[Callable[[Post], list[Post]], dict[str, int]]] = {
    "same_id": (_same_id, {"accepted": 1, "duplicate": BURST - 1}),
    "own_ids": (_own_ids, {"accepted": BURST}),
}
"""How the messages are made, and what the answers must be."""


def _in_a_burst(site: Site) -> None:
    say(f"{BURST} webhooks of one fact in a burst while {CALLERS} callers order")
    context = site.context
    rounds = 3 if context.quick else ROUNDS
    paying = iter(site.open_payments(rounds * len(_BURSTS)))
    alone: list[float] = []
    bursts: dict[str, list[Posted]] = {name: [] for name in _BURSTS}
    show = progress("rounds")
    for number in range(rounds):
        names = ["", *_BURSTS]
        # There and back, as the other rounds are.
        for name in names[:: -1 if number % 2 else 1]:
            if name:
                bursts[name].append(_burst(site, next(paying), name))
            else:
                report = site.order(1.5)
                alone.append(report.calls / report.elapsed_s)
        show(number + 1, rounds)
    rates = {name: [each.calls_per_s for each in made] for name, made in bursts.items()}
    ratios = {name: median_ratio(each, alone) for name, each in rates.items()}
    context.figures["webhook_burst_add_item_ratio"] = min(ratios.values())
    context.detail["webhook_burst"] = {
        "connections": BURST_CONNECTIONS,
        "calls_per_s_without": alone,
        **{
            name: {
                "ratio": ratios[name],
                "calls_per_s": rates[name],
                "elapsed_s": [each.elapsed_s for each in made],
                "p50_ms": [each.p50_us / 1000 for each in made],
                "p99_ms": [each.p99_us / 1000 for each in made],
            }
            for name, made in bursts.items()
        },
    }


def _burst(site: Site, session_id: str, name: str) -> Posted:
    """Let one guest pay, tell of it far too often, and see that it counted once."""
    site.stripe.pay(site.people.payment(session_id).payment_id)
    told = [post for post in site.stripe.drain() if kind_of(post) == "checkout.session.completed"]
    made, answers = _BURSTS[name]
    posted = _acknowledged(site.post(made(told[0]), BURST_CONNECTIONS), answers)
    _wait_for(lambda: not site.unfinished())
    site.people.check_settled_once(session_id)
    return posted


# --- a start with open payments ------------------------------------------------------------------


def _with_open_payments(context: Context, folder: Path) -> None:
    say(f"starts with {OPEN_PAYMENTS} open payments, and with none")
    links = folder / "links.jsonl"
    paths = {"open": folder / "open.db", "empty": folder / "empty.db"}
    bulk_payments.make(paths["open"], links, OPEN_PAYMENTS)
    starts: dict[str, list[float]] = {name: [] for name in paths}
    rounds = 3 if context.quick else ROUNDS
    with Stripe(folder, links) as stripe:
        # Neither start is a file's first: that one also makes the tables.
        with _server(paths["empty"], stripe, folder):
            pass
        for number in range(rounds):
            for name in list(paths)[:: -1 if number % 2 else 1]:
                server = _server(paths[name], stripe, folder)
                starts[name].append(server.start())
                server.stop()
        with _server(paths["open"], stripe, folder) as server:
            lookups = _count_lookups(context, stripe, server)
    context.figures |= {
        "reconcile_start_s": median(starts["open"]),
        "empty_start_s": median(starts["empty"]),
    }
    context.detail["open_payments"] = {"count": OPEN_PAYMENTS, "start_s": starts, **lookups}


def _server(path: Path, stripe: Stripe, folder: Path) -> Maitred:
    return Maitred(path, folder / "maitred.log", *stripe.options(webhook_address()))


def _count_lookups(context: Context, stripe: Stripe, server: Maitred) -> dict[str, float]:
    """Count what the server asks of Stripe in its first seconds, while one caller reads.

    Raises: BenchmarkError, where it is nothing or more than the server's rate.
    """
    before, begun = stripe.lookups(), time.monotonic()
    caller = Caller([guests.get_session("guest-0")])
    report = context.generator.unary(server.target, [caller], duration_s=LOOKUPS_S, connections=1)
    asked, elapsed_s = stripe.lookups() - before, time.monotonic() - begun
    if not 0 < asked <= LOOKUPS_PER_S * (elapsed_s + ALLOWANCE_S):
        raise BenchmarkError(f"{asked} lookups in {elapsed_s:.1f} s: not between 0 and the rate")
    read = report.names["GetSession"]
    return {
        "lookups_per_s": asked / elapsed_s,
        "get_session_p50_ms": read.p50_us / 1000,
        "get_session_p99_ms": read.p99_us / 1000,
    }


# --- waiting and judging -------------------------------------------------------------------------


def _acknowledged(report: Report, answers: dict[str, int]) -> Posted:
    """Take what came of messages. Raises: BenchmarkError, where the answers are others."""
    assert report.posted is not None
    if report.posted.answers != answers:
        raise BenchmarkError(f"webhooks were answered {report.posted.answers}, not {answers}")
    return report.posted


def _wait_for(holds: Callable[[], bool]) -> float:
    """Wait until all is settled; return how long that took. Raises: BenchmarkError."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > SETTLED_S:
            raise BenchmarkError(f"payments are not settled after {SETTLED_S:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - begun
