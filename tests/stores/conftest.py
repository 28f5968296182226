"""Fixtures of servers that stores stand on."""

from tests.support.redis import own_redis, redis_server

__all__ = ["own_redis", "redis_server"]
