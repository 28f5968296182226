"""Makes databases of many sessions, with the domain, the log and the schema of the server itself.

Each session is a head and its first event, as CreateSession leaves them, with a valid chain; only
the way into the file is shorter. They are kept for the next run, under a name that changes with
the schema and the contract.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import progress, say
from maitred.server.domain import sessions
from maitred.server.domain.evolve import EVENT_SCHEMA
from maitred.server.engine import eventlog
from maitred.server.engine.clock import ManualClock, RandomIds, SystemClock
from maitred.server.kinds import all_kinds
from maitred.server.kinds.session import SESSION, session_ref
from maitred.server.stores.base import Append
from maitred.server.stores.sqlite import schema
from maitred.server.stores.sqlite.batch import append_event
from maitred.server.stores.sqlite.sql import SQL, load_migrations
from maitred.v1 import event_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import ROLE_AGENT, Money

IDLE_S = 31_622_400
"""A year: nothing may expire while it is measured, nor while the file waits for another run."""

TABLES = 40
_CHUNK = 10_000
_NS = 1_000_000_000


def name_of(index: int) -> str:
    """Name a session: scattered, so that neighbours in time are none in the index of names."""
    digest = hashlib.blake2b(index.to_bytes(8, "big"), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def database(cache: Path, count: int) -> Path:
    """Return a database of so many sessions, made now unless it was made before."""
    path = cache / f"sessions-{count}-{_fingerprint()}.db"
    if not path.exists():
        for old in cache.glob(f"sessions-{count}-*"):
            old.unlink()
        say(f"making a database of {count} sessions")
        unfinished = path.with_suffix(".part")
        _make(unfinished, count)
        unfinished.rename(path)
    return path


def _fingerprint() -> str:
    seen = hashlib.blake2b(digest_size=6)
    for migration in load_migrations():
        seen.update(migration.script.encode())
    for module in (event_pb2, state_pb2):
        seen.update(module.DESCRIPTOR.serialized_pb)
    seen.update(f"{EVENT_SCHEMA} 1".encode())
    return seen.hexdigest()


def _make(path: Path, count: int) -> None:
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        schema.prepare(connection, path.name, None)
        # A crash only costs the file, which is not in its place yet.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        show = progress("sessions")
        rows = _appends(count)
        cursor = connection.cursor()
        for start in range(0, count, _CHUNK):
            connection.execute("BEGIN")
            for _ in range(min(_CHUNK, count - start)):
                _insert(cursor, next(rows))
            connection.execute("COMMIT")
            show(min(count, start + _CHUNK), count)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _insert(cursor: sqlite3.Cursor, append: Append) -> None:
    index = append.index
    assert index is not None
    labels = f'[["table", "{index.labels[0][1]}"]]'
    cursor.execute(
        SQL["create_head"],
        (
            *append.ref,
            append.commit_id,
            append.time_ns,
            append.wake_at_ns,
            append.wake_at_ns,
            index.created_ns,
            index.status,
            index.customer_id,
            index.attention,
            labels,
            append.chain,
            append.body,
        ),
    )
    aggregate: Any = cursor.lastrowid
    cursor.execute(SQL["add_label"], (SESSION, *index.labels[0], aggregate))
    append_event(cursor, aggregate, append)


def _appends(count: int) -> Iterator[Append]:
    """Decide and evolve as the engine does, a millisecond apart."""
    kind = all_kinds()[SESSION]
    defaults = sessions.Defaults("default", 100_000, "USD", IDLE_S)
    clock = ManualClock(SystemClock().now_ns() - count * 1_000_000)
    ids = RandomIds(clock)
    change = eventlog.change_number("session_created")
    for index in range(count):
        clock.advance(0.001)
        now_ns = clock.now_ns()
        name = name_of(index)
        ref = session_ref(name)
        request = session_pb2.CreateSessionRequest(
            session_id=name,
            customer_id=f"guest-{index // 3}",
            labels={"table": str(index % TABLES)},
            opening_balance=Money(minor_units=100_000, currency="USD"),
        )
        event = sessions.create(None, request, name, defaults)
        event.version = 1
        event.time.FromNanoseconds(now_ns)
        event.actor = "local"
        event.actor_role = ROLE_AGENT
        event.schema = EVENT_SCHEMA
        event.expires_at.seconds = -(-now_ns // _NS) + IDLE_S
        state = kind.evolve(None, event)
        encoded = eventlog.encode(event, ids)
        yield Append(
            ref=ref,
            base=0,
            commit_id=os.urandom(16),
            request_id=os.urandom(16),
            fingerprint=os.urandom(16),
            time_ns=now_ns,
            change=change,
            facts=encoded.facts,
            personal=encoded.personal,
            chain=eventlog.chain_next(eventlog.chain_start(ref), encoded.facts),
            body=state.SerializeToString(),
            index=kind.index_of(state),
            wake_at_ns=kind.wake_at_ns(state),
        )
