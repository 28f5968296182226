"""The PostgreSQL engine, for any number of servers on one database."""

from maitred.server.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
