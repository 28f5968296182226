"""The contract of claims: one owner for each key, decided with the commit."""

from __future__ import annotations

import asyncio
import time

from maitred.server.kinds.tables import Table
from maitred.server.stores.base import (
    Claim,
    ClaimTaken,
    Commit,
    Committed,
    Conflict,
    RowFilter,
    Store,
)
from maitred.server.testing.contract_base import ContractBase
from maitred.server.testing.samples import new_append, new_claim, new_ref, new_row, put


class ClaimContract(ContractBase):
    """What happens to the claims of a commit."""

    async def test_a_claim_names_its_owner(self, store: Store) -> None:
        """A taken claim is an outcome that says who has it, and nothing of the commit stays."""
        claim, ref = new_claim(owner="first"), new_ref()
        await put(store, Commit((new_append(new_ref(), 0),), claims=(claim,)))
        row = new_row(Table.ORDERS, ref)
        rival = Commit((new_append(ref, 0),), claims=(claim._replace(owner="second"),), rows=(row,))

        assert await put(store, rival) == ClaimTaken(claim.space, claim.key, "first")
        assert await store.load(ref) is None
        assert await store.claim(claim.space, claim.key) == claim
        assert await store.list_rows(Table.ORDERS, RowFilter(keys=(row.key,)), None, 5) == []

    async def test_a_refused_commit_leaves_its_request_id_free(self, store: Store) -> None:
        """The request id is stored with the event or not at all."""
        claim, ref = new_claim(owner="first"), new_ref()
        await put(store, Commit((new_append(new_ref(), 0),), claims=(claim,)))
        append = new_append(ref, 0)
        await put(store, Commit((append,), claims=(claim._replace(owner="second"),)))
        stale = new_append(ref, 3, request_id=append.request_id)
        assert await put(store, Commit((stale,))) == Conflict(ref, 0, b"")

        assert await store.event_by_request(ref, append.request_id or b"") is None
        assert await put(store, Commit((append,))) == Committed()

    async def test_one_owner_may_claim_again(self, store: Store) -> None:
        """A claim of one's own is renewed."""
        claim, ref = new_claim(), new_ref()
        await put(store, Commit((new_append(ref, 0),), claims=(claim,)))
        later = claim._replace(expires_ns=time.time_ns() + 10**12)

        assert await put(store, Commit((new_append(ref, 1),), claims=(later,))) == Committed()
        assert await store.claim(claim.space, claim.key) == later

    async def test_an_expired_claim_is_free(self, store: Store) -> None:
        """Past its time, by the store's clock, a key reads as free and can be taken."""
        old = new_claim(owner="first", expires_ns=time.time_ns() - 10**9)
        await put(store, Commit((new_append(new_ref(), 0),), claims=(old,)))
        assert await store.claim(old.space, old.key) is None
        mine = Claim(old.space, old.key, "second")

        assert await put(store, Commit((new_append(new_ref(), 0),), claims=(mine,))) == Committed()
        assert await store.claim(old.space, old.key) == mine

    async def test_expired_claims_go(self, store: Store) -> None:
        """What has expired is deleted by and by, and not only passed over."""
        old = [new_claim(expires_ns=time.time_ns() - 10**9) for _ in range(5)]
        await put(store, Commit((new_append(new_ref(), 0),), claims=tuple(old)))
        gone = {claim[:2] for claim in old}

        async with asyncio.timeout(60):
            while any(claim[:2] in gone for claim in await store.list_claims(None, 1000)):
                await put(store, Commit((new_append(new_ref(), 0),), claims=(new_claim(),)))
                await asyncio.sleep(0.05)

    async def test_a_release_needs_the_owner(self, store: Store) -> None:
        """Only the owner's release frees a key."""
        claim, ref = new_claim(owner="first"), new_ref()
        await put(store, Commit((new_append(ref, 0),), claims=(claim,)))
        await put(store, Commit((new_append(ref, 1),), releases=(claim._replace(owner="second"),)))
        assert await store.claim(claim.space, claim.key) == claim
        await put(store, Commit((new_append(ref, 2),), releases=(claim,)))

        assert await store.claim(claim.space, claim.key) is None

    async def test_a_key_changes_hands_in_one_commit(self, store: Store) -> None:
        """A release frees the key for a claim of the same commit."""
        claim, ref = new_claim(owner="first"), new_ref()
        await put(store, Commit((new_append(ref, 0),), claims=(claim,)))
        after = claim._replace(owner="second")
        commit = Commit((new_append(ref, 1),), claims=(after,), releases=(claim,))

        assert await put(store, commit) == Committed()
        assert await store.claim(claim.space, claim.key) == after

    async def test_claims_in_different_spaces_do_not_meet(self, store: Store) -> None:
        """The same key in two spaces is two keys."""
        one = new_claim(space="channel", owner="first")
        two = one._replace(space="provider", owner="second")
        await put(store, Commit((new_append(new_ref(), 0),), claims=(one,)))

        assert await put(store, Commit((new_append(new_ref(), 0),), claims=(two,))) == Committed()
