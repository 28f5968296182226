"""The simulated provider's books: its record of payments, a small SQLite file of its own.

They stand for what a real provider keeps at its own place. Any process may write them, so that a
person can pay while the server runs, and killing the server changes nothing here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from maitred.server.domain.snapshots import (
    DisputeState,
    ProviderDispute,
    ProviderRefund,
    ProviderSnapshot,
    ProviderStatus,
    RefundState,
)

URL_PREFIX = "https://simulated.invalid/pay/"
"""A name that never resolves (RFC 2606), so that the link cannot be mistaken for a real one."""

BUSY_S = 10.0
"""Longest that one process waits for another to finish its transaction."""

NS = 1_000_000_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS payment (
  id TEXT PRIMARY KEY, key TEXT UNIQUE NOT NULL, parameters BLOB NOT NULL, payment_id TEXT NOT NULL,
  amount INTEGER NOT NULL, currency TEXT NOT NULL, expires_ns INTEGER NOT NULL,
  status TEXT NOT NULL, outcome TEXT NOT NULL, due_ns INTEGER NOT NULL,
  reason TEXT NOT NULL DEFAULT '', disputed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS payment_reference ON payment (payment_id);
CREATE TABLE IF NOT EXISTS refund (
  id TEXT PRIMARY KEY, key TEXT UNIQUE NOT NULL, payment TEXT NOT NULL, refund_id TEXT NOT NULL,
  amount INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS refund_payment ON refund (payment);
CREATE TABLE IF NOT EXISTS notice (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, payment TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS poisoned (key TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
PRAGMA user_version = 1;
"""

_AMEND = {
    "amount": "UPDATE payment SET amount = ? WHERE id = ?",
    "currency": "UPDATE payment SET currency = ? WHERE id = ?",
    "disputed": "UPDATE payment SET disputed = ? WHERE id = ?",
}


def _link(db: sqlite3.Connection, name: str) -> str:
    """Make the link of a payment; its fragment says where the books are, for `maitred pay`."""
    file = db.execute("PRAGMA database_list").fetchone()["file"]
    return f"{URL_PREFIX}{name}#{quote(str(Path(file).absolute().parent))}"


def directory_of(url: str) -> Path | None:
    """Read from a link where its books are; None where it does not say."""
    fragment = url.partition("#")[2]
    return Path(unquote(fragment)) if url.startswith(URL_PREFIX) and fragment else None


_DISPUTES = (None, DisputeState.OPEN, DisputeState.WON, DisputeState.LOST)
"""What the numbers in the column `disputed` stand for."""


class Refused(Exception):
    """The simulated provider does not do that; says why."""


class Books:
    """Payments and refunds as the simulated provider keeps them. Blocking: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; it and the file are made when they are first needed."""
        self.directory = directory
        self._path = directory / "simulated-payments.sqlite"

    def create(
        self, parameters: bytes, key: str, now_ns: int, outcome: str, delay_s: float
    ) -> ProviderSnapshot:
        """Make a payment, or answer the one that the key made. Raises: Refused."""
        asked = json.loads(parameters)
        with self._transaction(now_ns) as db:
            known = db.execute("SELECT * FROM payment WHERE key = ?", (key,)).fetchone()
            if known is not None:
                if known["parameters"] != parameters:
                    raise Refused("the key was used with other parameters")
                return _snapshot(db, known)
            if asked["expires_at"] * NS <= now_ns:
                raise Refused("expires_at is in the past")
            name = f"sim_{hashlib.sha256(key.encode()).hexdigest()[:24]}"
            db.execute(
                "INSERT INTO payment (id, key, parameters, payment_id, amount, currency,"
                " expires_ns, status, outcome, due_ns) VALUES (?, ?, ?, ?, ?, ?, ?, 'open', ?, ?)",
                (
                    name,
                    key,
                    parameters,
                    asked["metadata"]["payment_id"],
                    asked["amount"],
                    asked["currency"],
                    asked["expires_at"] * NS,
                    outcome,
                    now_ns + round(delay_s * NS),
                ),
            )
            _tick(db, now_ns)
            return _snapshot(db, _row(db, name))

    def read(self, name: str, now_ns: int) -> ProviderSnapshot:
        """Read a payment by its id or its link. Raises: Refused."""
        with self._transaction(now_ns) as db:
            return _snapshot(db, _row(db, name))

    def find(self, payment_id: str, now_ns: int) -> ProviderSnapshot | None:
        """Read the payment that was made for one of maitred's."""
        with self._transaction(now_ns) as db:
            row = db.execute(
                "SELECT * FROM payment WHERE payment_id = ? ORDER BY rowid", (payment_id,)
            ).fetchone()
            return None if row is None else _snapshot(db, row)

    def open_payments(self, now_ns: int) -> list[ProviderSnapshot]:
        """List what can still be paid, oldest first."""
        return self._in_status(ProviderStatus.OPEN, now_ns)

    def paid(self, now_ns: int) -> list[ProviderSnapshot]:
        """List what was paid, oldest first."""
        return self._in_status(ProviderStatus.PAID, now_ns)

    def move(
        self,
        name: str,
        now_ns: int,
        frm: tuple[ProviderStatus, ...],
        to: ProviderStatus,
        reason: str = "",
    ) -> ProviderSnapshot:
        """Change the status of a payment and give notice. Raises: Refused."""
        with self._transaction(now_ns) as db:
            row = _row(db, name)
            if row["status"] not in frm:
                raise Refused(f"the payment is {row['status']}")
            _set(db, row["id"], to, reason)
            return _snapshot(db, _row(db, name))

    def amend(self, name: str, column: str, value: int | str, now_ns: int) -> None:
        """Change what else a payment says (amount, currency, disputed), with a notice."""
        with self._transaction(now_ns) as db:
            row = _row(db, name)
            db.execute(_AMEND[column], (value, row["id"]))
            _notice(db, row["id"])

    def dispute(self, name: str, state: DisputeState, now_ns: int) -> None:
        """Begin a dispute of a payment, or decide it, with a notice."""
        self.amend(name, "disputed", _DISPUTES.index(state), now_ns)

    def refund(
        self, name: str, refund_id: str, amount: int, key: str, state: RefundState, now_ns: int
    ) -> ProviderRefund:
        """Give a part back, or answer the refund that the key made. Raises: Refused."""
        with self._transaction(now_ns) as db:
            known = db.execute("SELECT * FROM refund WHERE key = ?", (key,)).fetchone()
            if known is not None:
                return _refund(known)
            row = _row(db, name)
            spent = sum(
                refund.minor_units
                for refund in _snapshot(db, row).refunds
                if refund.state is not RefundState.FAILED
            )
            if row["status"] != ProviderStatus.PAID or spent + amount > row["amount"]:
                raise Refused("more than was paid and not yet refunded")
            made = f"simre_{hashlib.sha256(key.encode()).hexdigest()[:24]}"
            db.execute(
                "INSERT INTO refund (id, key, payment, refund_id, amount, state)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (made, key, row["id"], refund_id, amount, state),
            )
            _notice(db, row["id"])
            return _refund(db.execute("SELECT * FROM refund WHERE id = ?", (made,)).fetchone())

    def settle_refunds(self, name: str, state: RefundState, reason: str, now_ns: int) -> None:
        """Let every refund of a payment go through, or fail."""
        with self._transaction(now_ns) as db:
            row = _row(db, name)
            db.execute(
                "UPDATE refund SET state = ?, reason = ? WHERE payment = ?",
                (state, reason, row["id"]),
            )
            _notice(db, row["id"])

    def poison(self, key: str, now_ns: int) -> None:
        """Answer this key with the same fault for ever, as providers that keep answers do."""
        with self._transaction(now_ns) as db:
            db.execute("INSERT OR IGNORE INTO poisoned VALUES (?)", (key,))

    def is_poisoned(self, key: str, now_ns: int) -> bool:
        """Whether a fault was kept for the key."""
        with self._transaction(now_ns) as db:
            found = db.execute("SELECT 1 FROM poisoned WHERE key = ?", (key,)).fetchone()
            return found is not None

    def count(self, name: str, now_ns: int) -> int:
        """Count a call; returns how many came before it, also from other processes."""
        with self._transaction(now_ns) as db:
            row = db.execute(
                "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE"
                " SET value = value + 1 RETURNING value",
                (name,),
            ).fetchone()
            return int(row["value"]) - 1

    def counted(self, name: str, now_ns: int) -> int:
        """Read how often something was counted."""
        with self._transaction(now_ns) as db:
            row = db.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
            return 0 if row is None else int(row["value"])

    def notices(self, now_ns: int) -> list[tuple[int, str]]:
        """Read the notices that were not yet delivered: number and payment, oldest first."""
        with self._transaction(now_ns) as db:
            rows = db.execute(
                "SELECT seq, payment FROM notice WHERE seq > coalesce("
                "(SELECT value FROM counter WHERE name = 'delivered'), 0) ORDER BY seq"
            ).fetchall()
            return [(row["seq"], row["payment"]) for row in rows]

    def delivered(self, seq: int, now_ns: int) -> None:
        """Note that everything up to `seq` was delivered."""
        with self._transaction(now_ns) as db:
            db.execute(
                "INSERT INTO counter VALUES ('delivered', ?) ON CONFLICT (name) DO UPDATE"
                " SET value = max(value, excluded.value)",
                (seq,),
            )

    def _in_status(self, status: ProviderStatus, now_ns: int) -> list[ProviderSnapshot]:
        with self._transaction(now_ns) as db:
            rows = db.execute("SELECT * FROM payment WHERE status = ? ORDER BY rowid", (status,))
            return [_snapshot(db, row) for row in rows.fetchall()]

    @contextmanager
    def _transaction(self, now_ns: int) -> Iterator[sqlite3.Connection]:
        """Run one transaction on a connection of its own: nothing outlives a killed process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                db.executescript(_SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            try:
                _tick(db, now_ns)
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _tick(db: sqlite3.Connection, now_ns: int) -> None:
    """Let simulated guests act and links die, in the order in which their times came."""
    rows = db.execute(
        "SELECT id, outcome, expires_ns, due_ns FROM payment WHERE status = 'open'"
        " AND (expires_ns <= ?1 OR (outcome <> 'manual' AND due_ns <= ?1))",
        (now_ns,),
    ).fetchall()
    for row in rows:
        acts = row["outcome"] != "manual" and row["due_ns"] < row["expires_ns"]
        if not acts:
            _set(db, row["id"], ProviderStatus.EXPIRED, "")
        elif row["outcome"] == "pay":
            _set(db, row["id"], ProviderStatus.PAID, "")
        else:
            _set(db, row["id"], ProviderStatus.FAILED, "card_declined")


def _set(db: sqlite3.Connection, name: str, status: ProviderStatus, reason: str) -> None:
    db.execute("UPDATE payment SET status = ?, reason = ? WHERE id = ?", (status, reason, name))
    _notice(db, name)


def _notice(db: sqlite3.Connection, name: str) -> None:
    db.execute("INSERT INTO notice (payment) VALUES (?)", (name,))


def _row(db: sqlite3.Connection, name: str) -> Any:
    found = db.execute(
        "SELECT * FROM payment WHERE id = ?", (name.removeprefix(URL_PREFIX).partition("#")[0],)
    ).fetchone()
    if found is None:
        raise Refused(f"there is no simulated payment {name!r}")
    return found


def _snapshot(db: sqlite3.Connection, row: Any) -> ProviderSnapshot:
    refunds = db.execute("SELECT * FROM refund WHERE payment = ? ORDER BY rowid", (row["id"],))
    status = ProviderStatus(row["status"])
    dispute = _DISPUTES[row["disputed"]]
    return ProviderSnapshot(
        status=status,
        provider_payment_id=row["id"],
        minor_units=row["amount"],
        currency=row["currency"],
        url=_link(db, row["id"]) if status is ProviderStatus.OPEN else "",
        expires_at_ns=row["expires_ns"],
        reason=row["reason"],
        disputes=() if dispute is None else (ProviderDispute(f"{row['id']}_dispute", dispute),),
        refunds=tuple(_refund(refund) for refund in refunds.fetchall()),
        payment_id=row["payment_id"],
    )


def _refund(row: Any) -> ProviderRefund:
    return ProviderRefund(
        provider_refund_id=row["id"],
        state=RefundState(row["state"]),
        minor_units=row["amount"],
        refund_id=row["refund_id"],
        reason=row["reason"],
    )
