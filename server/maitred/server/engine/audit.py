"""Checks that every row of a log is what was written, and that the whole explains the state."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from maitred.server.domain import personal
from maitred.server.engine import eventlog
from maitred.server.errors import SchemaTooNew
from maitred.server.kinds.aggregate import Aggregate
from maitred.server.stores.base import Ref, Store, StoredEvent
from maitred.v1 import admin_pb2

PAGE = 256
MAX_VIOLATIONS = 100


class Violation(NamedTuple):
    """One thing that is wrong with a log."""

    version: int
    kind: admin_pb2.AuditViolationKind.ValueType
    detail: str


class AuditReport(NamedTuple):
    """What a check found."""

    events: int
    violations: tuple[Violation, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


async def verify(store: Store, kind: Aggregate, ref: Ref) -> AuditReport | None:
    """Check the log of one aggregate, row by row; None where there never was one.

    A row is checked against the link that its predecessor stored, so that one changed row is named
    and not all that follow it. A tombstone's log is its last row alone.
    """
    loaded = await store.load(ref)
    if loaded is None:
        return None
    check = _Check(kind, ref)
    if loaded.tombstone:
        return AuditReport(1, ())
    after = 0
    # Asked for by their changes, rows come as they are; asked for all, a missing one would raise.
    everything = tuple(kind.changes.numbers.values())
    while rows := await store.events(ref, after, PAGE, everything):
        for row in rows:
            if row.version > loaded.version:
                # Written since the head was read: not part of this check.
                break
            check.row(row)
        after = rows[-1].version
        if after >= loaded.version:
            break
    try:
        state = kind.parse(loaded.body)
    except DecodeError as error:
        state = None
        check.unreadable(loaded.version, str(error))
    check.end(loaded.version, loaded.chain, state)
    return AuditReport(check.count, tuple(check.violations[:MAX_VIOLATIONS]))


class _Check:
    def __init__(self, kind: Aggregate, ref: Ref) -> None:
        self._kind = kind
        self._chain = eventlog.chain_start(ref)
        self._version = 0
        self._state: Any = None
        self._foldable = True
        self._erased = False
        self.count = 0
        self.violations: list[Violation] = []

    def row(self, row: StoredEvent) -> None:
        self.count += 1
        gap = row.version - self._version - 1
        if gap:
            self._found(
                self._version + 1,
                admin_pb2.AUDIT_VIOLATION_KIND_REMOVED,
                f"{gap} event(s) are missing before version {row.version}",
            )
            self._foldable = False
        event = self._decode(row)
        moved = event is not None and event.version != row.version
        if event is not None and moved:
            self._found(
                row.version,
                admin_pb2.AUDIT_VIOLATION_KIND_REORDERED,
                f"the row says that it is version {event.version}",
            )
        elif not gap and eventlog.chain_next(self._chain, row.facts) != row.chain:
            self._found(
                row.version,
                admin_pb2.AUDIT_VIOLATION_KIND_CHANGED,
                "the bytes do not fit the chain",
            )
        if event is not None:
            self._fold(event)
        self._chain, self._version = row.chain, row.version

    def unreadable(self, version: int, detail: str) -> None:
        self._foldable = False
        self._found(
            version,
            admin_pb2.AUDIT_VIOLATION_KIND_STATE_DIFFERS,
            f"the stored state cannot be read: {detail}",
        )

    def end(self, version: int, chain: bytes, state: Message | None) -> None:
        if self._version < version:
            self._found(
                self._version + 1,
                admin_pb2.AUDIT_VIOLATION_KIND_REMOVED,
                f"the log ends before version {version}",
            )
            return
        if self._chain != chain:
            self._found(
                version,
                admin_pb2.AUDIT_VIOLATION_KIND_CHANGED,
                "the last link is not the one that the state was stored with",
            )
        if state is not None and self._foldable and not self._explains(state):
            self._found(
                version,
                admin_pb2.AUDIT_VIOLATION_KIND_STATE_DIFFERS,
                "folding the log gives another state",
            )

    def _explains(self, state: Message) -> bool:
        if self._erased and self._state is not None:
            # What was erased from the log cannot be folded; the rest must still agree.
            folded, stored = type(state)(), type(state)()
            folded.CopyFrom(self._state)
            stored.CopyFrom(state)
            personal.clear(folded)
            personal.clear(stored)
            return folded == stored
        return bool(self._state == state)

    def _decode(self, row: StoredEvent) -> Any:
        try:
            if not eventlog.personal_fits(row):
                self._found(
                    row.version,
                    admin_pb2.AUDIT_VIOLATION_KIND_PERSONAL_CHANGED,
                    "the personal part does not fit its digest",
                )
                row = row._replace(personal=None)
            event = eventlog.decode(row, self._kind.event)
        except (DecodeError, SchemaTooNew) as error:
            self._found(row.version, admin_pb2.AUDIT_VIOLATION_KIND_CHANGED, str(error))
            self._foldable = False
            return None
        self._erased = self._erased or (row.personal is None and bool(event.personal_digest))
        return event

    def _fold(self, event: Any) -> None:
        if not self._foldable:
            return
        try:
            self._state = self._kind.fold(self._state, event)
        except SchemaTooNew as error:
            self._found(event.version, admin_pb2.AUDIT_VIOLATION_KIND_CHANGED, str(error))
            self._foldable = False

    def _found(
        self, version: int, kind: admin_pb2.AuditViolationKind.ValueType, detail: str
    ) -> None:
        self.violations.append(Violation(version, kind, detail))
