"""Small commits for tests; every value that is not named is random but right."""

from __future__ import annotations

import asyncio
import os
import time

from maitred.server.kinds.session import SESSION
from maitred.server.stores.base import (
    Append,
    Claim,
    Commit,
    Index,
    Kind,
    Outcome,
    Ref,
    Row,
    Store,
    StoreError,
)


def new_ref(kind: Kind = SESSION, prefix: str = "ref") -> Ref:
    """Return a ref that nothing has used."""
    return Ref(kind, f"{prefix}-{os.urandom(8).hex()}")


def new_append(ref: Ref, base: int, **values: object) -> Append:
    """Return an append; a first one carries an index."""
    append = Append(
        ref=ref,
        base=base,
        commit_id=os.urandom(16),
        request_id=os.urandom(16),
        fingerprint=os.urandom(16),
        time_ns=time.time_ns(),
        change=1,
        facts=os.urandom(200),
        personal=os.urandom(100),
        chain=os.urandom(32),
        body=os.urandom(300),
        index=Index(created_ns=time.time_ns()) if base == 0 else None,
        wake_at_ns=None,
    )
    return append._replace(**values)  # type: ignore[arg-type]  # the test names the fields


def new_commit(ref: Ref, base: int, **values: object) -> Commit:
    """Return a commit of one append."""
    return Commit((new_append(ref, base, **values),))


def new_row(table: int, ref: Ref, **values: object) -> Row:
    """Return a projection row."""
    row = Row(table, os.urandom(8).hex(), ref, time.time_ns(), os.urandom(20))
    return row._replace(**values)  # type: ignore[arg-type]  # the test names the fields


def new_claim(space: str = "channel", owner: str = "me", expires_ns: int | None = None) -> Claim:
    """Return a claim on a key that nothing has used."""
    return Claim(space, os.urandom(8).hex(), owner, expires_ns)


def start(store: Store, commit: Commit) -> asyncio.Future[Outcome | StoreError]:
    """Submit a commit; the future holds whatever `done` was called with."""
    answer: asyncio.Future[Outcome | StoreError] = asyncio.get_running_loop().create_future()
    store.submit(commit, answer.set_result)
    return answer


async def put(store: Store, commit: Commit) -> Outcome | StoreError:
    """Submit a commit and wait for its answer."""
    return await start(store, commit)
