"""Store errors. Drivers' exceptions are visible only as `__cause__`."""

from __future__ import annotations

__all__ = [
    "CorruptData",
    "OutcomeUnknown",
    "SchemaTooNew",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreUnavailable",
]


class StoreError(Exception):
    """The store could not do it."""


class StoreFull(StoreError):
    """No room, or the queue is at its bound: certainly not applied; reads go on."""


class StoreUnavailable(StoreError):
    """The engine cannot be reached or is closed: certainly not applied."""


class OutcomeUnknown(StoreError):
    """The engine failed while committing: applied or not. Submit the same commit again."""


class SchemaTooNew(StoreError):
    """The data was written by a newer maitred than this one."""


class StoreLocked(StoreError):
    """Another process has the data open; the message names it."""


class CorruptData(StoreError):
    """Stored bytes are not what was written. Never read as absent."""
