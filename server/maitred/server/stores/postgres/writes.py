"""Everything that a transaction writes, gathered by table and put into statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from maitred.server.stores.base import Append, Claim, Commit, Index, Ref, Row
from maitred.server.stores.outcomes import decode_labels, encode_labels
from maitred.server.stores.postgres.columns import Bigints, Blobs, Texts
from maitred.server.stores.postgres.decide import Found, Held
from maitred.server.stores.postgres.sql import SQL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Statement = tuple[bytes, dict[str, Any]]


class Met(NamedTuple):
    """A head that a transaction has locked, with what is needed to write it."""

    found: Found
    wake_at_ns: int | None
    armed_ns: int | None
    place: int
    position: int
    created_ns: int
    labels: str | None


class Entry(NamedTuple):
    """An append on its way into the log."""

    ordinal: int
    append: Append
    index: Index | None  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    tombstone: bool = False


class Writes:
    """Gathers commits that may be written; `statements` puts them together."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._total = 0
        self._floor = 0
        self._created: list[Entry] = []
        self._moved: list[Entry] = []
        self._labels_gone: list[tuple[Ref, int, tuple[str, str]]] = []
        self._labels_new: list[tuple[Ref, tuple[str, str]]] = []
        self._claims_gone: list[Claim] = []
        self._claims_set: list[Claim] = []
        self._claims_new: list[Claim] = []
        self._rows: list[tuple[int, Row]] = []
        self._rows_gone: list[tuple[int, str]] = []

    def add(
        self,
        commit: Commit,
        heads: Sequence[Met | None],
        keys: Mapping[tuple[str, str], Held],
    ) -> None:
        """Take a commit in; nothing stands against it."""
        for append, met in zip(commit.appends, heads, strict=True):
            if met is None:
                self._create(append)
            else:
                self.move(append, met)
        claimed = {claim[:2] for claim in commit.claims}
        self._claims_gone += [claim for claim in commit.releases if claim[:2] not in claimed]
        for claim in commit.claims:
            (self._claims_set if claim[:2] in keys else self._claims_new).append(claim)
        # A key or a row that is named twice gets what is named last, as one after the other would.
        rows = {row[:2]: row for row in commit.rows}
        gone = dict.fromkeys(commit.drops)
        for name, row in rows.items():
            if name not in gone:
                self._rows.append((self._next(), row))
        self._rows_gone += gone

    def move(self, append: Append, met: Met, *, tombstone: bool = False) -> None:
        """Take in an append on a head that is locked at its base."""
        self._floor = max(self._floor, met.position)
        self._moved.append(Entry(self._next(), append, append.index, tombstone))
        if append.index is not None:
            old, new = set(decode_labels(met.labels)), set(append.index.labels)
            self._labels_gone += [(append.ref, met.place, label) for label in old - new]
            self._labels_new += [(append.ref, label) for label in new - old]

    def _create(self, append: Append) -> None:
        index = append.index or Index(created_ns=append.time_ns)
        self._created.append(Entry(self._next(), append, index))
        self._labels_new += [(append.ref, label) for label in dict.fromkeys(index.labels)]

    def _next(self) -> int:
        self._total += 1
        return self._total

    def statements(self) -> list[Statement]:
        """Return the statements, in the order of locks; none where there is nothing to write.

        Raises: MISFITS for data that no column holds.
        """
        made: list[Statement] = []
        shared = {"lane": self._lane, "total": self._total}
        if self._total:
            made.append(counted("move_lane", 1, {**shared, "floor": self._floor}))
        entries = self._created + self._moved
        if self._created:
            created = _heads(self._created) | shared
            made.append(counted("create_heads", len(self._created), created))
        if self._moved:
            made.append(counted("move_heads", len(self._moved), _heads(self._moved) | shared))
        if entries:
            made.append(counted("add_events", len(entries), _events(entries) | shared))
        made += self._label_statements()
        made += self._claim_statements()
        if self._rows:
            made.append(counted("write_rows", len(self._rows), _rows(self._rows) | shared))
        if self._rows_gone:
            tables, keys = zip(*self._rows_gone, strict=True)
            made.append((SQL["drop_rows"], {"tables": Bigints(tables), "keys": Texts(keys)}))
        return made

    def _label_statements(self) -> list[Statement]:
        made: list[Statement] = []
        if self._labels_gone:
            gone = {
                "kinds": Bigints([ref.kind for ref, _, _ in self._labels_gone]),
                "names": Texts([label[0] for _, _, label in self._labels_gone]),
                "values": Texts([label[1] for _, _, label in self._labels_gone]),
                "places": Bigints([place for _, place, _ in self._labels_gone]),
            }
            made.append((SQL["drop_labels"], gone))
        if self._labels_new:
            new = label_columns(self._labels_new)
            made.append(counted("add_labels", len(self._labels_new), new))
        return made

    def _claim_statements(self) -> list[Statement]:
        made: list[Statement] = []
        if self._claims_gone:
            gone = _claims(self._claims_gone)
            del gone["expiries"]
            made.append((SQL["drop_claims"], gone))
        for name, claims in (("set_claims", self._claims_set), ("add_claims", self._claims_new)):
            last = {claim[:2]: claim for claim in claims}
            if last:
                made.append(counted(name, len(last), _claims(list(last.values()))))
        return made


def counted(name: str, count: int, parameters: dict[str, Any]) -> Statement:
    """Return a statement that fails its transaction unless it touches so many rows."""
    return _COUNTED[name], {**parameters, "count": count}


_COUNTED = {
    name: b"WITH touched AS (%b) SELECT 1 / CASE WHEN count(*) = %%(count)s::bigint"
    b" THEN 1 ELSE 0 END FROM touched" % statement
    for name, statement in SQL.items()
    if statement.endswith(b"RETURNING 1")
}


def label_columns(labels: Sequence[tuple[Ref, tuple[str, str]]]) -> dict[str, Any]:
    """Return labels as the columns of `add_labels`."""
    return {
        "kinds": Bigints([ref.kind for ref, _ in labels]),
        "ids": Texts([ref.id for ref, _ in labels]),
        "names": Texts([label[0] for _, label in labels]),
        "values": Texts([label[1] for _, label in labels]),
    }


def _heads(entries: list[Entry]) -> dict[str, Any]:
    unchanged = Index(created_ns=0)
    indexes = [entry.index or unchanged for entry in entries]
    return {
        **_names(entries),
        "bases": Bigints([entry.append.base for entry in entries]),
        "commits": Blobs([entry.append.commit_id for entry in entries]),
        "times": Bigints([entry.append.time_ns for entry in entries]),
        "wakes": Bigints([entry.append.wake_at_ns for entry in entries]),
        "indexed": Bigints([entry.index is not None for entry in entries]),
        "createds": Bigints([index.created_ns for index in indexes]),
        "statuses": Bigints([index.status for index in indexes]),
        "customers": Texts([index.owner for index in indexes]),
        "attentions": Bigints([index.flag for index in indexes]),
        "labels": Texts([encode_labels(index.labels) for index in indexes]),
        "chains": Blobs([entry.append.chain for entry in entries]),
        "bodies": Blobs([entry.append.body for entry in entries]),
        "tombstones": Bigints([entry.tombstone for entry in entries]),
    }


def _events(entries: list[Entry]) -> dict[str, Any]:
    appends = [entry.append for entry in entries]
    return {
        **_names(entries),
        "bases": Bigints([append.base for append in appends]),
        "times": Bigints([append.time_ns for append in appends]),
        "changes": Bigints([append.change for append in appends]),
        "commits": Blobs([append.commit_id for append in appends]),
        "requests": Blobs([append.request_id for append in appends]),
        "fingerprints": Blobs([append.fingerprint for append in appends]),
        "facts": Blobs([append.facts for append in appends]),
        "personals": Blobs([append.personal for append in appends]),
        "chains": Blobs([append.chain for append in appends]),
    }


def _names(entries: list[Entry]) -> dict[str, Any]:
    return {
        "ordinals": Bigints([entry.ordinal for entry in entries]),
        "kinds": Bigints([entry.append.ref.kind for entry in entries]),
        "ids": Texts([entry.append.ref.id for entry in entries]),
    }


def _claims(claims: list[Claim]) -> dict[str, Any]:
    return {
        "spaces": Texts([claim.space for claim in claims]),
        "keys": Texts([claim.key for claim in claims]),
        "owners": Texts([claim.owner for claim in claims]),
        "expiries": Bigints([claim.expires_ns for claim in claims]),
    }


def _rows(rows: list[tuple[int, Row]]) -> dict[str, Any]:
    return {
        "ordinals": Bigints([ordinal for ordinal, _ in rows]),
        "tables": Bigints([row.table for _, row in rows]),
        "keys": Texts([row.key for _, row in rows]),
        "kinds": Bigints([row.ref.kind for _, row in rows]),
        "ids": Texts([row.ref.id for _, row in rows]),
        "createds": Bigints([row.created_ns for _, row in rows]),
        "statuses": Bigints([row.status for _, row in rows]),
        "flags": Bigints([row.flag for _, row in rows]),
        "bodies": Blobs([row.body for _, row in rows]),
    }
