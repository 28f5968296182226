"""What a commit meets, and what comes of it: replay, then version, then claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from maitred.server.stores.base import (
    Append,
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    Outcome,
    StoreError,
)
from maitred.server.stores.outcomes import conflict, replay

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = Outcome | StoreError

COMMITTED = Committed()


class Found(NamedTuple):
    """A head as a commit finds it under its lock, and what the log holds of the commit."""

    version: int
    commit_id: bytes
    tombstone: bool
    request_version: int | None
    request_fingerprint: bytes | None
    mine: bytes | None
    """The commit id of the event that has the version after the append's base."""


class Held(NamedTuple):
    """A key that has a row, under its lock."""

    owner: str
    expired: bool


def outcome(append: Append, head: Found | None) -> Outcome | None:
    """Return what came of an append before its claims are looked at; None if it may be written."""
    if is_applied(append, head):
        return COMMITTED
    return replay(append, head) or conflict(append, head)


def is_applied(append: Append, head: Found | None) -> bool:
    """Tell whether the log already holds this very commit."""
    return head is not None and head.mine == append.commit_id


def decide(
    commit: Commit, heads: list[Found | None], keys: Mapping[tuple[str, str], Held]
) -> Outcome | None:
    """Return the outcome of a commit of any shape; None if it is to be written."""
    pairs = list(zip(commit.appends, heads, strict=True))
    if any(is_applied(append, head) for append, head in pairs):
        return COMMITTED
    for append, head in pairs:
        if replayed := replay(append, head):
            return replayed
    for append, head in pairs:
        if conflicting := conflict(append, head):
            return conflicting
    given_up = {claim[:3] for claim in commit.releases}
    for claim in commit.claims:
        if taken := _taken(claim, keys.get(claim[:2]), given_up):
            return taken
    return None


def _taken(
    claim: Claim, held: Held | None, given_up: set[tuple[str, str, str]]
) -> ClaimTaken | None:
    if held is None or held.expired or held.owner == claim.owner:
        return None
    if (claim.space, claim.key, held.owner) in given_up:
        return None
    return ClaimTaken(claim.space, claim.key, held.owner)
