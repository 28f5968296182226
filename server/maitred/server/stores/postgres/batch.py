"""A batch of commits as one transaction: locked, decided, written.

A batch holds no two commits of one aggregate, of one key or of one row. One of plain appends (a
single update each, nothing else) is one statement; what that could not write is decided again, with
`lock_heads`, `append` and COMMIT in one round trip. Any other batch takes two: what it meets is
read under locks and decided here, then everything is written. The order of locks is the same
everywhere, so that servers wait for one another in a line: heads by ref, keys by name, the lane,
then what is new, each in its own order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maitred.server.stores.base import Append, Commit
from maitred.server.stores.postgres.columns import Bigints, Blobs, Texts
from maitred.server.stores.postgres.decide import COMMITTED, Answer, Found, Held, decide, outcome
from maitred.server.stores.postgres.sql import SQL
from maitred.server.stores.postgres.writes import Met, Writes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from maitred.server.stores.postgres.connection import Connection

Parameters = dict[str, Any]


class Attempt:
    """One try to apply a batch; `committing` from when the outcome may escape us."""

    def __init__(self, connection: Connection, lane: int) -> None:
        self._connection = connection
        self._lane = lane
        self.committing = False

    async def run(self, commits: Sequence[Commit], *, surely: bool) -> Sequence[Answer | None]:
        """Apply commits in one transaction; unless `surely`, None for what is not decided.

        Raises: whatever the driver raises; the transaction is then undone, or lost with its
        connection.
        """
        if all(_is_plain(commit) for commit in commits):
            appends = [commit.appends[0] for commit in commits]
            return await (self._run_plain(appends) if surely else self._run_at_once(appends))
        return await self._run_any(commits)

    async def _run_at_once(self, appends: list[Append]) -> list[Answer | None]:
        """Write what nothing stands against; what seems to stand against the rest is not sure."""
        cursor = self._connection.cursor(binary=True)
        self.committing = True
        await cursor.execute(SQL["append"], plain_columns(appends, self._lane))
        found = await _found(cursor)
        return [
            COMMITTED if outcome(append, found.get(number)) is None else None
            for number, append in enumerate(appends)
        ]

    async def _run_plain(self, appends: list[Append]) -> list[Answer]:
        columns = plain_columns(appends, self._lane)
        connection = self._connection
        cursor = connection.cursor(binary=True)
        self.committing = True
        async with connection.pipeline():
            await connection.execute(b"BEGIN")
            await connection.execute(
                SQL["lock_heads"], {"kinds": columns["kinds"], "ids": columns["ids"]}
            )
            await cursor.execute(SQL["append"], columns)
            await connection.execute(b"COMMIT")
        found = await _found(cursor)
        return [
            outcome(append, found.get(number)) or COMMITTED for number, append in enumerate(appends)
        ]

    async def _run_any(self, commits: Sequence[Commit]) -> list[Answer]:
        heads, keys = await self._meet(commits)
        answers: list[Answer | None] = []
        writes = Writes(self._lane)
        place = 0
        for commit in commits:
            met = heads[place : place + len(commit.appends)]
            place += len(met)
            answer = decide(commit, [head and head.found for head in met], keys)
            answers.append(answer)
            if answer is None:
                writes.add(commit, met, keys)
        statements = writes.statements()
        self.committing = bool(statements)
        connection = self._connection
        async with connection.pipeline():
            for statement, parameters in statements:
                await connection.execute(statement, parameters)
            await connection.execute(b"COMMIT")
        return [COMMITTED if answer is None else answer for answer in answers]

    async def _meet(
        self, commits: Sequence[Commit]
    ) -> tuple[list[Met | None], dict[tuple[str, str], Held]]:
        """Begin, and lock what is there of everything that the commits name."""
        appends = [append for commit in commits for append in commit.appends]
        names = sorted(
            {claim[:2] for commit in commits for claim in (*commit.claims, *commit.releases)}
        )
        columns: Parameters = {
            "numbers": Bigints(range(len(appends))),
            "kinds": Bigints([append.ref.kind for append in appends]),
            "ids": Texts([append.ref.id for append in appends]),
            "bases": Bigints([append.base for append in appends]),
            "requests": Blobs([append.request_id for append in appends]),
        }
        spaces = Texts([name[0] for name in names])
        connection = self._connection
        heads = connection.cursor(binary=True)
        keys = connection.cursor(binary=True)
        async with connection.pipeline():
            await connection.execute(b"BEGIN")
            if appends:
                await connection.execute(
                    SQL["lock_heads"], {"kinds": columns["kinds"], "ids": columns["ids"]}
                )
                await heads.execute(SQL["find"], columns)
            if names:
                await keys.execute(
                    SQL["lock_claims"], {"spaces": spaces, "keys": Texts([n[1] for n in names])}
                )
        met: list[Met | None] = [None] * len(appends)
        for row in await heads.fetchall() if appends else ():
            met[row[0]] = Met(Found._make(row[1:7]), *row[7:])
        rows = await keys.fetchall() if names else ()
        return met, {(row[0], row[1]): Held(row[2], row[3]) for row in rows}


async def _found(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> dict[int, Found]:
    return {row[0]: Found._make(row[1:7]) for row in await cursor.fetchall()}


def _is_plain(commit: Commit) -> bool:
    (appends, claims, releases, rows, drops) = commit
    if len(appends) != 1 or claims or releases or rows or drops:
        return False
    return appends[0].base > 0 and appends[0].index is None


def plain_columns(appends: list[Append], lane: int) -> Parameters:
    """Return the parameters of the statement `append`."""
    (refs, bases, commits, requests, fingerprints, times, changes, *rest) = zip(
        *appends, strict=True
    )
    (facts, personals, chains, bodies, _, wakes) = rest
    return {
        "lane": lane,
        "numbers": Bigints(range(len(appends))),
        "kinds": Bigints([ref[0] for ref in refs]),
        "ids": Texts([ref[1] for ref in refs]),
        "bases": Bigints(bases),
        "commits": Blobs(commits),
        "requests": Blobs(requests),
        "fingerprints": Blobs(fingerprints),
        "times": Bigints(times),
        "changes": Bigints(changes),
        "facts": Blobs(facts),
        "personals": Blobs(personals),
        "chains": Blobs(chains),
        "bodies": Blobs(bodies),
        "wakes": Bigints(wakes),
    }
