"""The rows of the table, what they should reach, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Figures = Mapping[str, float]

TWO_SERVERS_NEED = 4
"""Processors: two servers, and as much again for the database and the load."""


class Row(NamedTuple):
    """One row: the keys it shows and the condition on them."""

    keys: tuple[str, ...]
    what: str
    reach: str
    holds: Callable[[Figures], bool | None]
    """None where the machine does not let it be judged."""


ROWS = (
    Row(
        ("add_item_cpu_vs_echo",),
        "CPU of an echo ÷ CPU of a durable AddItem",
        "≥ 0.60",
        lambda f: f["add_item_cpu_vs_echo"] >= 0.60,
    ),
    Row(
        ("add_item_vs_echo",),
        "AddItem calls/s ÷ echo calls/s",
        "≥ 0.70",
        lambda f: f["add_item_vs_echo"] >= 0.70,
    ),
    Row(
        ("get_session_cpu_vs_echo",),
        "CPU of an echo ÷ CPU of a hot GetSession",
        "≥ 0.85",
        lambda f: f["get_session_cpu_vs_echo"] >= 0.85,
    ),
    Row(
        ("add_item_vs_naive",),
        "AddItem calls/s ÷ those of commit-per-call aiosqlite",
        "≥ 2.5",
        lambda f: f["add_item_vs_naive"] >= 2.5,
    ),
    Row(
        ("add_item_p50_ms", "echo_p50_ms", "fsync_p50_ms"),
        "one caller",
        "add_item ≤ echo + fsync + 0.5",
        lambda f: f["add_item_p50_ms"] <= f["echo_p50_ms"] + f["fsync_p50_ms"] + 0.5,
    ),
    Row(
        ("watchers_connected", "watcher_kib", "fanout_vs_bare_stream"),
        "watchers of one session in one burst; KiB each; deliveries/s ÷ a bare stream's",
        "10000; ≤ 40; ≥ 0.8",
        lambda f: (
            f["watchers_connected"] >= 10_000
            and f["watcher_kib"] <= 40
            and f["fanout_vs_bare_stream"] >= 0.8
        ),
    ),
    Row(
        ("cost_at_turn_5000_vs_10",),
        "CPU of a turn with an order, late ÷ early in a session's life",
        "≤ 1.2",
        lambda f: f["cost_at_turn_5000_vs_10"] <= 1.2,
    ),
    Row(
        ("cost_at_1m_sessions_vs_1k",),
        "cold GetSession and a page of ListSessions, 1 M stored ÷ 1 k stored",
        "≤ 1.5",
        lambda f: f["cost_at_1m_sessions_vs_1k"] <= 1.5,
    ),
    Row(
        ("start_s",),
        "process start to SERVING, 1 M sessions on disk",
        "≤ 1.0",
        lambda f: f["start_s"] <= 1.0,
    ),
    Row(
        ("bytes_per_turn",),
        "database growth of a turn with a message of 200 characters",
        "≤ 800",
        lambda f: f["bytes_per_turn"] <= 800,
    ),
    Row(
        ("webhook_p50_ms",),
        "acknowledgement of a webhook, 100 a second, while 64 callers order",
        "≤ 25",
        lambda f: f["webhook_p50_ms"] <= 25,
    ),
    Row(
        ("webhook_burst_add_item_ratio",),
        "AddItem calls/s during a burst of 2 000 webhooks ÷ without it",
        "≥ 0.5",
        lambda f: f["webhook_burst_add_item_ratio"] >= 0.5,
    ),
    Row(
        ("reconcile_start_s", "empty_start_s"),
        "process start to SERVING, 10 000 open payments; none",
        "≤ empty_start_s + 0.5",
        lambda f: f["reconcile_start_s"] <= f["empty_start_s"] + 0.5,
    ),
    Row(
        ("pg_add_item_vs_echo",),
        "AddItem calls/s on PostgreSQL ÷ echo calls/s",
        "≥ 0.60",
        lambda f: f["pg_add_item_vs_echo"] >= 0.60,
    ),
    Row(
        ("pg_two_servers_vs_one", "processors"),
        "AddItem calls/s on PostgreSQL, two servers ÷ one",
        f"≥ 1.5 from {TWO_SERVERS_NEED} processors",
        lambda f: (
            f["pg_two_servers_vs_one"] >= 1.5 if f["processors"] >= TWO_SERVERS_NEED else None
        ),
    ),
    Row(
        ("pg_commit_per_s_vs_single_statement",),
        "commits/s in batches ÷ a transaction each on 20 connections",
        "≥ 3",
        lambda f: f["pg_commit_per_s_vs_single_statement"] >= 3,
    ),
    Row(
        ("pg_cross_server_watch_p50_ms",),
        "acknowledged by one server until a watcher at another has it",
        "≤ 100",
        lambda f: f["pg_cross_server_watch_p50_ms"] <= 100,
    ),
    Row(
        ("redis_add_item_vs_echo",),
        "AddItem calls/s on Redis ÷ echo calls/s",
        "≥ 0.60",
        lambda f: f["redis_add_item_vs_echo"] >= 0.60,
    ),
)


def verdicts(figures: Figures) -> dict[str, bool]:
    """Say for each key that was measured, and can be judged, whether its row reaches it."""
    return {
        key: held
        for row in ROWS
        if all(key in figures for key in row.keys) and (held := row.holds(figures)) is not None
        for key in row.keys
    }


def show(figures: Figures, generator: str) -> None:
    """Print the table."""
    lines = [
        (
            "\n".join(row.keys),
            "\n".join(_number(figures.get(key)) for key in row.keys),
            row.reach,
            _mark(row, figures),
            row.what,
        )
        for row in ROWS
        if any(key in figures for key in row.keys)
    ]
    title = f"maitred benchmarks (load from {generator})"
    try:
        _show_rich(title, lines)
    except ImportError:
        _show_plain(title, lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3f}"


def _mark(row: Row, figures: Figures) -> str:
    if any(key not in figures for key in row.keys):
        return "?"
    held = row.holds(figures)
    if held is None:
        return "-"
    return "yes" if held else "NO"


_WIDTH = 120
_HEAD = ("key", "value", "reach", "met", "what")


def _show_rich(title: str, lines: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in _HEAD:
        table.add_column(
            name,
            justify="right" if name == "value" else "left",
            no_wrap=name in ("key", "value", "met"),
        )
    for line in lines:
        table.add_row(*line, style="red" if line[3] == "NO" else None)
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)


def _show_plain(title: str, lines: Sequence[tuple[str, ...]]) -> None:
    print(title)
    for names, values, reach, met, what in lines:
        for key, value in zip(names.split("\n"), values.split("\n"), strict=True):
            print(f"{key:35} {value:>10}   {met:3}   {reach:30} {what}")
