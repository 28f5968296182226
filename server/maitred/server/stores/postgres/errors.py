"""What PostgreSQL's errors mean to a store."""

from __future__ import annotations

import struct

import psycopg

from maitred.server.stores.base import (
    CorruptData,
    OutcomeUnknown,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

MISFITS = (struct.error, OverflowError, TypeError, UnicodeError)
"""What putting a parameter together raises for data that no column holds."""

_AGAIN = frozenset({"40001", "40P01"})
_RACED = frozenset({"22012", "23505"})
_FORGOTTEN = frozenset({"26000", "42P05"})
_GONE = frozenset({"25006", "57P01", "57P02", "57P03", "57P04", "57P05"})
_BUSY = frozenset({"53300", "55P03", "57014"})
_FULL = frozenset({"53100", "53200"})


def code_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty where the server said nothing."""
    return (getattr(error, "sqlstate", None) or "") if isinstance(error, psycopg.Error) else ""


def is_lost(connection: psycopg.AsyncConnection, error: BaseException) -> bool:
    """Tell whether an error ended a connection, so that a COMMIT on its way may have been done.

    A server that ends a session says so before it hangs up, perhaps behind the answer to a COMMIT;
    libpq notices the end only later. What has no SQLSTATE, libpq said, not the server.
    """
    if connection.closed or connection.broken or isinstance(error, OSError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def is_stale(error: BaseException) -> bool:
    """Tell whether the server went away or became a standby: other connections may be gone too."""
    return code_of(error) in _GONE or code_of(error).startswith("08")


def is_transient(error: BaseException) -> bool:
    """Tell whether the server undid the transaction because of another one: run it again."""
    return code_of(error) in _AGAIN


def is_raced(error: BaseException) -> bool:
    """Tell whether a row appeared, or went, between reading and writing: decide anew."""
    return code_of(error) in _RACED


def is_forgotten(error: BaseException) -> bool:
    """Tell whether server and driver disagree about what is prepared on a connection.

    A pooler between them lends connections out; nothing was done, and another one is needed.
    """
    return code_of(error) in _FORGOTTEN


def is_blocked(error: BaseException) -> bool:
    """Tell whether somebody else held a lock for too long."""
    return code_of(error) == "55P03"


def is_misfit(error: BaseException) -> bool:
    """Tell whether the data of one commit is to blame."""
    return isinstance(error, MISFITS) or code_of(error)[:2] in {"22", "23", "54"}


def translate(error: BaseException) -> StoreError:
    """Return the store's error for one that the server answered: certainly not applied."""
    code = code_of(error)
    if isinstance(error, StoreError):
        return error
    made: StoreError
    if code == "40003":
        # Said by databases that span machines, where the outcome is not known to them either.
        made = OutcomeUnknown(f"PostgreSQL: {_text(error)}")
    elif code in _FULL:
        made = StoreFull(f"the database has no room: {_text(error)}")
    elif code in _FORGOTTEN:
        made = StoreUnavailable(f"behind a pooler set prepare=no in the URL: {_text(error)}")
    elif code in {"XX001", "XX002"}:
        made = CorruptData(f"the database is damaged: {_text(error)}")
    elif is_misfit(error):
        made = StoreError(f"refused: {_text(error)}")
    elif code in _GONE | _BUSY | _AGAIN or isinstance(
        error, psycopg.OperationalError | psycopg.InterfaceError | TimeoutError | OSError
    ):
        made = StoreUnavailable(f"PostgreSQL: {_text(error)}")
    else:
        made = StoreError(f"PostgreSQL: {_text(error)}")
    made.__cause__ = error
    return made


def _text(error: BaseException) -> str:
    """Return the first line of an error; details may quote the data."""
    return (str(error) or type(error).__name__).partition("\n")[0]
