"""What a commit meets: the head it was decided on, its request, its claims, and the outcome."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from maitred.server.stores.base import (
    Append,
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    CorruptData,
    Outcome,
    StoreError,
)
from maitred.server.stores.outcomes import conflict, replay
from maitred.server.stores.sqlite.sql import SQL

COMMITTED = Committed()

REFUSALS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    TypeError,
    UnicodeError,
)
"""What SQLite or its binding raise for the data of one commit; the others are not to blame."""


class RowsDisagree(Exception):  # names what happened, as the errors of `base` do
    """A statement touched another number of rows than there were operations."""


class Found(NamedTuple):
    """A head as a commit finds it, and the event of the commit's request."""

    aggregate: int
    version: int
    commit_id: bytes
    tombstone: int
    wake_at_ns: int | None
    armed_ns: int | None
    labels: str | None
    request_version: int | None
    request_fingerprint: bytes | None


def refusal(error: Exception) -> StoreError:
    """Return the answer to a commit that the database would not take."""
    if isinstance(error, RowsDisagree) or getattr(error, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    ):
        made: StoreError = CorruptData(f"the log and the head of an aggregate disagree: {error}")
    else:
        made = StoreError(f"refused: {error}")
    made.__cause__ = error
    return made


def find(cursor: sqlite3.Cursor, append: Append) -> Found | None:
    """Read the head of an append's aggregate and the event of its request."""
    row = cursor.execute(SQL["find_one"], (*append.ref, append.request_id)).fetchone()
    return None if row is None else Found._make(row)


def other_outcome(cursor: sqlite3.Cursor, append: Append, head: Found | None) -> Outcome:
    """Return the outcome of an append that cannot be written."""
    if head is not None and is_applied(cursor, append, head):
        return COMMITTED
    return replay(append, head) or conflict(append, head) or COMMITTED


def is_applied(cursor: sqlite3.Cursor, append: Append, head: Found) -> bool:
    """Tell whether the log already holds this very commit.

    Only the newest event's commit id is kept. An older one is recognised by everything else,
    the chain above all, which is a digest of the whole log up to it.
    """
    if head.version <= append.base:
        return False
    if head.version == append.base + 1:
        return head.commit_id == append.commit_id
    row = cursor.execute(SQL["same_event"], (head.aggregate, append.base + 1)).fetchone()
    same = (
        append.time_ns,
        append.change,
        append.request_id,
        append.fingerprint,
        append.facts,
        append.chain,
    )
    return bool(row == same)


def claim_taken(cursor: sqlite3.Cursor, commit: Commit, now_ns: int) -> ClaimTaken | None:
    """Return the outcome of a claim that somebody else holds and does not give up."""
    if not commit.claims:
        return None
    given_up = {claim[:3] for claim in commit.releases}
    for claim in commit.claims:
        owner = claim_owner(cursor, claim, now_ns)
        if owner not in (None, claim.owner) and (claim.space, claim.key, owner) not in given_up:
            return ClaimTaken(claim.space, claim.key, str(owner))
    return None


def claim_owner(cursor: sqlite3.Cursor, claim: Claim, now_ns: int) -> str | None:
    """Return who owns a key now; an expired claim counts as free."""
    row = cursor.execute(SQL["read_claim"], (claim.space, claim.key)).fetchone()
    if row is None or (row[1] is not None and row[1] <= now_ns):
        return None
    return str(row[0])
