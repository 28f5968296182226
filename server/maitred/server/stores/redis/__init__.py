"""The Redis engine: several servers on one primary, declared weaker. See docs/redis.md."""

from maitred.server.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
