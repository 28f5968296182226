"""Which of several servers to call, and which to try next when it does not respond.

gRPC itself spreads calls over the addresses of one name, and says at once which server is down or
not serving. It cannot mix names in one channel, nor choose by session: so there is a channel for
each address, and this.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from collections.abc import Sequence

import grpc
from google.protobuf.message import Message

from maitred.client._channel import Retries
from maitred.client._status import reason_name
from maitred.client.errors import MaitredError
from maitred.v1 import common_pb2

_FIRST_S = 0.1
_LONGEST_S = 5.0
_OF_THE_SERVER = frozenset(
    {
        "",
        reason_name(common_pb2.ERROR_REASON_SHUTTING_DOWN),
        reason_name(common_pb2.ERROR_REASON_STORE_UNAVAILABLE),
    }
)
"""Reasons of UNAVAILABLE that another server may not have; a payment provider is down for all."""
_NOT_TAKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""gRPC cancels calls that reach a server in the moment when it begins to drain."""


class Server:
    """One address, and whether it is worth asking."""

    def __init__(self, position: int, address: str) -> None:
        self.position = position
        self._hash = hashlib.blake2b(address.encode() + b"\0", digest_size=8)
        self._failures = 0
        self._avoided_until = 0.0

    def weight(self, key: bytes) -> bytes:
        """Rank this server for a key: the same in every client that calls it by this address."""
        weight = self._hash.copy()
        weight.update(key)
        return weight.digest()

    def is_avoided(self, now: float) -> bool:
        """Whether it failed lately."""
        return self._failures > 0 and now < self._avoided_until

    def ask(self, limit: float | None) -> None:
        """Take note that it is asked, for at most `limit` seconds.

        One that failed is tried by one call at a time: others avoid it until that has an answer.
        """
        if self._failures:
            self._avoided_until = time.monotonic() + (_LONGEST_S if limit is None else limit)

    def answered(self) -> None:
        """Take note of an answer, of whatever kind."""
        self._failures = 0

    def failed(self, error: MaitredError) -> bool:
        """Take note of an error; tell whether another server may do better."""
        if _is_retried(error):
            is_its_own = error.reason in _OF_THE_SERVER
        else:
            # An answer that does not come in time may be late, or the server may hang.
            is_its_own = error.status is grpc.StatusCode.DEADLINE_EXCEEDED and not error.reason
        if not is_its_own:
            self.answered()
            return False
        longest = min(_LONGEST_S, _FIRST_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._avoided_until = time.monotonic() + _jittered(longest)
        return True

    def judged(self, error: MaitredError) -> MaitredError:
        """Take note of what a stream ended with, and answer what to raise."""
        if self.failed(error):
            # It spoke of itself. A watch need not wait for it: it resumes at another server.
            error.retry_after = None
        return error


class Servers:
    """All servers of a client, and the order in which a request asks them.

    Requests of one session go to the same server while it answers, since that one has the session
    in memory; all others go round. Threads may share it: what a race can spoil is one choice.
    """

    def __init__(self, addresses: Sequence[str], retries: Retries) -> None:
        self._servers = [Server(position, address) for position, address in enumerate(addresses)]
        self.retries = retries
        self._turns = itertools.count(random.randrange(len(addresses)))  # noqa: S311 - jitter is no secret

    def ranked(self, request: Message) -> list[Server]:
        """List the servers, the first to ask first; those that failed lately come last."""
        session_id: str = getattr(request, "session_id", "")
        if session_id:
            key = session_id.encode()
            ranked = sorted(self._servers, key=lambda server: server.weight(key))
        else:
            turn = next(self._turns) % len(self._servers)
            ranked = self._servers[turn:] + self._servers[:turn]
        now = time.monotonic()
        # The sort is stable: among those that are left the order stays.
        ranked.sort(key=lambda server: server.is_avoided(now))
        return ranked


class Attempts:
    """The attempts of one call: each server once, then a wait, and from the start.

    Safe, since every mutation carries a request id. Use: `take`, ask, then `failed` or `answered`.
    """

    def __init__(self, servers: Servers, request: Message, timeout: float | None) -> None:
        self._servers = servers
        self._request = request
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._left_over = servers.ranked(request)
        self._server = self._left_over[0]
        self._rounds = 0
        self._doubt: MaitredError | None = None

    @property
    def timeout(self) -> float | None:
        """Seconds that are left; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def take(self) -> Server:
        """Choose the server of the next attempt."""
        self._server = self._left_over.pop(0)
        self._server.ask(self.timeout)
        return self._server

    def answered(self) -> None:
        """End the attempts with an answer."""
        self._server.answered()

    def failed(self, error: MaitredError) -> float:
        """Tell how many seconds to wait before the next attempt.

        Raises: MaitredError where there is none: the one given, unless an earlier one left open
        whether the command happened.
        """
        may_go_elsewhere = self._server.failed(error)
        if not _is_retried(error):
            raise error
        if error.outcome_unknown:
            self._doubt = error
        retries = self._servers.retries
        if may_go_elsewhere and self._left_over and retries.attempts > 1:
            return 0.0
        self._rounds += 1
        longest = min(retries.longest_wait, retries.first_wait * 2.0 ** (self._rounds - 1))
        wait, left = _jittered(longest), self.timeout
        if self._rounds >= retries.attempts or (left is not None and wait >= left):
            raise self._doubt or error
        self._left_over = self._servers.ranked(self._request)
        return wait


def _is_retried(error: MaitredError) -> bool:
    return error.status in _NOT_TAKEN


def _jittered(longest: float) -> float:
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret
