"""Fixtures of servers that stores stand on."""

from tests.support.redis import redis_server

__all__ = ["redis_server"]
