"""What a store does besides commits: deletion, erasure, timers, leases.

Timers. `wake_at_ns` of a head is the truth, `armed_ns` an alarm clock with an index. A commit sets
the alarm only where it must ring earlier than it is set; otherwise the old alarm rings first, and
`due` then sets it to the truth without handing the aggregate out. The alarm is therefore never
later than the truth, with one exception: `due` sets the alarm of an aggregate that it hands out to
the end of the lease, and a commit that moves the wake time to before that sets it back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import psycopg

from maitred.server.stores import keeping
from maitred.server.stores.base import (
    Append,
    Conflict,
    CorruptData,
    Index,
    Keep,
    Lease,
    Outcome,
    Ref,
)
from maitred.server.stores.postgres.columns import Bigints, Blobs, Texts
from maitred.server.stores.postgres.decide import COMMITTED, Found, outcome
from maitred.server.stores.postgres.errors import is_lost, is_raced, is_transient
from maitred.server.stores.postgres.reader import fetch
from maitred.server.stores.postgres.sql import SQL
from maitred.server.stores.postgres.writes import Met, Writes
from maitred.server.units import NS

if TYPE_CHECKING:
    from maitred.server.stores.postgres.connection import Connection

T = TypeVar("T")

PIECE_ROWS: Final = 500
"""Rows deleted in one transaction, so that nobody waits long for a lock of it."""

_ATTEMPTS = 12
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.002, 0.1


async def patiently(connection: Connection, work: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again where the server undid it because of another one.

    Raises: CorruptData where it found something in its way each time that is not to be read.
    """
    pause_s = _BACKOFF_FIRST_S
    for left in reversed(range(_ATTEMPTS)):
        try:
            return await work()
        except psycopg.Error as error:
            if is_lost(connection, error) or not (is_transient(error) or is_raced(error)):
                raise
            await connection.execute(b"ROLLBACK")
            if left == 0:
                if is_raced(error):
                    raise CorruptData(f"the log and the head disagree: {error}") from error
                raise
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
        pause_s = min(pause_s * 2, _BACKOFF_MAX_S)
    raise AssertionError("the last attempt answers or raises")


async def bury(
    connection: Connection, lane: int, ref: Ref, base: int, last: Append, keep: Keep
) -> Outcome:
    """Turn a head into a tombstone, and remember that it has something to delete."""
    last = last._replace(ref=ref, base=base, wake_at_ns=None)

    async def attempt() -> Outcome:
        names = {"kinds": Bigints([ref.kind]), "ids": Texts([ref.id])}
        more = {
            "numbers": Bigints([0]),
            "bases": Bigints([base]),
            "requests": Blobs([last.request_id]),
        }
        async with connection.pipeline():
            await connection.execute(b"BEGIN")
            await connection.execute(SQL["lock_heads"], names)
            cursor = connection.cursor(binary=True)
            await cursor.execute(SQL["find"], names | more)
        rows = await cursor.fetchall()
        met = Met(Found._make(rows[0][1:7]), *rows[0][7:]) if rows else None
        against = Conflict(ref, 0, b"") if met is None else outcome(last, met.found)
        if met is None or against is not None:
            await connection.execute(b"ROLLBACK")
            return against or COMMITTED
        writes = Writes(lane)
        index = last.index or Index(created_ns=met.created_ns)
        writes.move(last._replace(index=index), met, tombstone=True)
        forgotten = {"kind": ref.kind, "id": ref.id, "version": base + 1}
        kept = {"kept": keeping.note(keep)}
        async with connection.pipeline():
            for statement, parameters in writes.statements():
                await connection.execute(statement, parameters)
            await connection.execute(SQL["begin_forgetting"], {**forgotten, **kept})
            await connection.execute(b"COMMIT")
        return COMMITTED

    return await patiently(connection, attempt)


async def forget_piece(connection: Connection, ref: Ref, version: int, keep: Keep) -> bool:
    """Delete a piece of what a tombstone leaves behind; tell whether something may be left."""
    left = PIECE_ROWS
    name = {"kind": ref.kind, "id": ref.id}
    for statement, parameters in (
        ("forget_events", {**name, "version": version}),
        ("forget_rows", {**name, "kept": Bigints(keep.tables)}),
        (
            "forget_claims",
            {
                "owner": ref.id,
                "before": f"{ref.id} ",
                "behind": f"{ref.id}!",
                "kept": Texts(keep.spaces),
            },
        ),
    ):
        left -= await _changed(connection, statement, {**parameters, "limit": left})
        if left <= 0:
            return True
    await _changed(connection, "end_forgetting", name)
    return False


async def interrupted(connection: Connection) -> list[tuple[Ref, int, Keep]]:
    """Read the tombstones with something to delete, their versions, and what they keep."""
    rows = await fetch(connection, SQL["forgetting"])
    return [
        (Ref(kind, name), version, keeping.read(str(kept))) for kind, name, version, kept in rows
    ]


async def redact(connection: Connection, ref: Ref, versions: Sequence[int]) -> int:
    """Erase the personal parts of events; returns how many had any."""
    parameters = {"kind": ref.kind, "id": ref.id, "versions": Bigints(versions)}
    return await _changed(connection, "redact", parameters)


async def adopt(connection: Connection, secret: bytes) -> None:
    """Take over another store's secret."""
    values = {"name": "secret", "value": secret.hex()}
    await connection.execute(SQL["write_meta"], values)


async def expire_claims(connection: Connection) -> bool:
    """Delete a piece of the claims that have expired; tell whether there may be more."""
    return await _changed(connection, "expire_claims", {"limit": PIECE_ROWS}) >= PIECE_ROWS


async def _changed(connection: Connection, name: str, parameters: dict[str, object]) -> int:
    async def attempt() -> int:
        cursor = await connection.execute(SQL[name], parameters)
        return cursor.rowcount

    return await patiently(connection, attempt)


async def due(connection: Connection, now_ns: int, limit: int, lease_s: float) -> list[Ref]:
    """Take aggregates whose time has come, earliest first."""
    until = now_ns + max(1, int(lease_s * NS))
    taken: list[tuple[int, int, Ref]] = []
    while len(taken) < limit:
        parameters = {"now": now_ns, "until": until, "limit": limit - len(taken)}

        async def attempt(parameters: dict[str, int] = parameters) -> list[tuple[int | None, ...]]:
            return await fetch(connection, SQL["due"], parameters)

        rung = await patiently(connection, attempt)
        if not rung:
            break
        taken += [
            (wake, place, Ref(kind, name))  # type: ignore[arg-type, misc]  # see the statement
            for wake, place, kind, name in rung
            if wake is not None and wake <= now_ns
        ]
    return [ref for _, _, ref in sorted(taken)]


async def lease(connection: Connection, name: str, owner: str, ttl_s: float) -> Lease | None:
    """Take or renew a lease; None while another owner holds it."""
    parameters = {"name": name, "owner": owner, "ttl": int(ttl_s * NS)}

    async def attempt() -> list[tuple[int, ...]]:
        return await fetch(connection, SQL["lease"], parameters)

    rows = await patiently(connection, attempt)
    return Lease(name, owner, *rows[0]) if rows else None


async def confirm(connection: Connection, lanes: Sequence[int]) -> dict[int, None]:
    """Wait until everything that is visible is as durable as what is acknowledged.

    PostgreSQL shows a commit that no standby has, where its wait for one was cut short: by the end
    of its backend, or a crash of the primary. What is committed after it waits for both.
    """
    for lane in lanes:
        await _changed(connection, "confirm", {"lane": lane})
    return {}


async def end_lease(connection: Connection, name: str, owner: str) -> None:
    """Let a lease of one's own end now."""
    await connection.execute(SQL["end_lease"], {"name": name, "owner": owner})
