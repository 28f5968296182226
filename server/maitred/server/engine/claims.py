"""Keys of claims by which people could be found: keyed digests, never the text itself.

A claim outlives what it was made for, so neither a channel's address nor a caller's id may stand in
it. The digest is keyed with the secret of the data: all servers of a store find the same key, and
nobody finds out an address by trying all of them on a stolen table.

The owner is the session's id, or the id and, behind a space, what the claim needs to remember:
`Store.forget` deletes both with the session.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

import structlog

from maitred.server.engine.clock import Clock
from maitred.server.stores.base import (
    Claim,
    ClaimTaken,
    Commit,
    Outcome,
    OutcomeUnknown,
    Store,
    StoreError,
    StoreFull,
)
from maitred.server.units import NS

INBOUND: Final = "message"
"""Chat messages that were taken; owned by session and version of the turn."""

CREATION: Final = "creation"
"""Request ids of sessions that the server named; owned by the session."""

DIGESTED: Final = (INBOUND, CREATION)
"""Spaces whose keys are digests."""

_DIGEST_BYTES: Final = 16
_PAGE: Final = 200
_RESUBMIT_S: Final = 0.2

_CLEAR: Final = {"inbound": INBOUND, "request": CREATION}
"""Spaces in which earlier versions kept such keys as they are, and where they belong now."""

log = structlog.get_logger(__name__)


def digest(secret: bytes, space: str, key: str) -> str:
    """Return the key under which a claim is stored."""
    return hashlib.blake2b(
        key.encode(), digest_size=_DIGEST_BYTES, key=secret, person=space.encode()
    ).hexdigest()


class ClaimKeys:
    """Makes the keys of claims, once the secret of the data is known."""

    def __init__(self, clock: Clock, inbound_seconds: int) -> None:
        self._clock = clock
        self._inbound_seconds = inbound_seconds
        self._secret = b""

    async def start(self, store: Store, secret: bytes) -> None:
        """Take the secret, and bring the claims of earlier versions up to date.

        Raises: StoreError.
        """
        self._secret = secret
        await conceal_all(store, secret, self.inbound_expires_ns())

    def key(self, space: str, key: str) -> str:
        """Return the key of a claim as it is stored."""
        return digest(self._secret, space, key)

    def inbound_expires_ns(self) -> int:
        """When a chat message that is taken now will be forgotten."""
        return self._clock.now_ns() + self._inbound_seconds * NS


def owner(session_id: str, what: object) -> str:
    """Return the owner of a claim that remembers something beside its session."""
    return f"{session_id} {what}"


def parse_owner(owner: str) -> tuple[str, str]:
    """Part what `owner` put together; ids hold no space."""
    session_id, _, what = owner.rpartition(" ")
    return session_id, what


def conceal(claim: Claim, secret: bytes, inbound_expires_ns: int) -> Claim:
    """Return a claim as it is kept today; one that is so already comes back unchanged."""
    space = _CLEAR.get(claim.space)
    if space is None:
        return claim
    key = digest(secret, space, claim.key)
    if space != INBOUND:
        return claim._replace(space=space, key=key)
    session_id, _, version = claim.owner.rpartition("/")
    return Claim(space, key, owner(session_id, version), inbound_expires_ns)


async def conceal_all(store: Store, secret: bytes, inbound_expires_ns: int) -> int:
    """Bring claims that an earlier version kept in clear text up to date; returns how many.

    In pieces: what is interrupted goes on with the next start, as it does where the disk is full.
    Raises: StoreError.
    """
    count = 0

    async def one(claim: Claim) -> None:
        new = conceal(claim, secret, inbound_expires_ns)
        outcome = await submit(store, Commit((), claims=(new,), releases=(claim,)))
        if isinstance(outcome, ClaimTaken):
            # A newer claim of the same key stands already; only the clear text has to go.
            await submit(store, Commit((), releases=(claim,)))

    try:
        for space in _CLEAR:
            while found := await _in_space(store, space):
                await asyncio.gather(*map(one, found))
                count += len(found)
    except StoreFull as error:
        log.warning("claims_not_concealed", error=str(error))
    if count:
        log.info("claims_concealed", count=count)
    return count


async def _in_space(store: Store, space: str) -> list[Claim]:
    page = await store.list_claims((space, ""), _PAGE)
    return [claim for claim in page if claim.space == space]


async def submit(store: Store, commit: Commit) -> Outcome:
    """Submit a commit until it is known what became of it. Raises: StoreError."""
    while True:
        answer: asyncio.Future[Outcome | StoreError]
        answer = asyncio.get_running_loop().create_future()
        store.submit(commit, answer.set_result)
        outcome = await answer
        if isinstance(outcome, OutcomeUnknown):
            await asyncio.sleep(_RESUBMIT_S)
        elif isinstance(outcome, StoreError):
            raise outcome
        else:
            return outcome
