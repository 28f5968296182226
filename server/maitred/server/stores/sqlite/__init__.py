"""The SQLite engine."""

from maitred.server.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
