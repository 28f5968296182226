"""Whether rows of the log are what was written: a damaged disk must not be served as the truth.

Each row says its version in its hashed bytes, vouches for its personal part by a digest, and is
bound to the row before it by the chain. What a caller or a watcher reads from the store is checked
so far as the rows of a page allow; `audit.verify` checks a whole log.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from google.protobuf.message import DecodeError

from maitred.server.engine import eventlog
from maitred.server.stores.base import CorruptData, Ref, StoredEvent
from maitred.v1.event_pb2 import Event

log = structlog.get_logger(__name__)


def require_sound(rows: Sequence[StoredEvent]) -> None:
    """Refuse rows that are not what was written. Raises: CorruptData, and logs where."""
    before: dict[Ref, StoredEvent] = {}
    for row in rows:
        wrong = _wrong(row, before.get(row.ref))
        if wrong:
            log.error(
                "damaged_data",
                kind=row.ref.kind,
                id=row.ref.id,
                version=row.version,
                why=wrong,
            )
            raise CorruptData(f"the log of {row.ref.id!r} is damaged at version {row.version}")
        before[row.ref] = row


def _wrong(row: StoredEvent, near: StoredEvent | None) -> str:
    try:
        if Event.FromString(row.facts).version != row.version:
            return "the row says that it is another version"
        if not eventlog.personal_fits(row):
            return "the personal part does not fit its digest"
    except DecodeError as error:
        return str(error)
    if row.version == 1:
        return "" if _follows(eventlog.chain_start(row.ref), row) else "it does not fit the chain"
    if near is not None and near.version == row.version - 1 and not _follows(near.chain, row):
        return "it does not fit the chain"
    if near is not None and near.version == row.version + 1 and not _follows(row.chain, near):
        return "the row after it does not fit the chain"
    return ""


def _follows(chain: bytes, row: StoredEvent) -> bool:
    return eventlog.chain_next(chain, row.facts) == row.chain
