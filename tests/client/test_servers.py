"""Which server is asked, and what a failed attempt leads to: the rules, without a network."""

from __future__ import annotations

import time
from collections import Counter

import grpc
import pytest

from maitred.client import MaitredError, Retries, ShuttingDown, StoreUnavailable, StripeUnavailable
from maitred.client._servers import Attempts, Servers
from maitred.v1.admin_pb2 import GetServerInfoRequest
from maitred.v1.session_pb2 import GetSessionRequest

ADDRESSES = ("a:1", "b:1", "c:1")
REFUSED = "connection refused"


def unavailable() -> MaitredError:
    """What gRPC says of a server that is down."""
    return MaitredError(REFUSED, status=grpc.StatusCode.UNAVAILABLE)


def attempts_of(servers: Servers, session_id: str, timeout: float | None = None) -> Attempts:
    """Begin a call about a session."""
    return Attempts(servers, GetSessionRequest(session_id=session_id), timeout)


@pytest.fixture
def servers() -> Servers:
    """Three servers, with quick retries."""
    return Servers(ADDRESSES, Retries(attempts=2, first_wait=0.01, longest_wait=0.01))


def test_sessions_keep_to_a_server_and_are_spread(servers: Servers) -> None:
    """Every client sends a session to the same server, and each gets about its share of them."""
    others = Servers(ADDRESSES, Retries())
    sessions = [GetSessionRequest(session_id=f"s{each}") for each in range(300)]
    first = [servers.ranked(each)[0].position for each in sessions]
    again = [others.ranked(each)[0].position for each in sessions]

    assert first == again
    assert min(Counter(first).values()) > 70


def test_a_server_more_moves_only_its_share(servers: Servers) -> None:
    """Who joins or leaves changes the choice for its own sessions, and for no others."""
    more = Servers((*ADDRESSES, "d:1"), Retries())
    sessions = [GetSessionRequest(session_id=f"s{each}") for each in range(300)]
    moved = {
        more.ranked(each)[0].position
        for each in sessions
        if more.ranked(each)[0].position != servers.ranked(each)[0].position
    }

    assert moved == {3}


def test_calls_of_no_session_go_round(servers: Servers) -> None:
    """Without a session every server has its turn."""
    turns = [servers.ranked(GetServerInfoRequest())[0].position for _ in range(9)]

    assert Counter(turns) == {0: 3, 1: 3, 2: 3}


def test_each_server_is_asked_before_a_wait(servers: Servers) -> None:
    """A failed call goes to the others at once, and round again after a wait; then it fails."""
    attempts = attempts_of(servers, "s1")
    asked, waits = [], []
    for _ in range(5):
        asked.append(attempts.take().position)
        waits.append(attempts.failed(unavailable()) > 0)
    asked.append(attempts.take().position)
    with pytest.raises(MaitredError, match=REFUSED):
        attempts.failed(unavailable())

    assert sorted(asked[:3]) == sorted(asked[3:]) == [0, 1, 2]
    assert waits == [False, False, True, False, False]


def test_a_single_attempt_stays_single() -> None:
    """Who wants no retries gets none, not even elsewhere."""
    attempts = attempts_of(Servers(ADDRESSES, Retries(attempts=1)), "s1")
    attempts.take()
    with pytest.raises(MaitredError, match=REFUSED):
        attempts.failed(unavailable())


def test_a_failed_server_is_avoided_and_tried_by_one_call(servers: Servers) -> None:
    """While it is avoided others come first; when it is due, one call tries it for all."""
    call = GetSessionRequest(session_id="s1")
    best = servers.ranked(call)[0]
    best.failed(unavailable())
    avoided = servers.ranked(call)
    while best.is_avoided(time.monotonic()):
        pass
    due = servers.ranked(call)[0]
    due.ask(10.0)
    meanwhile = servers.ranked(call)[0]
    best.answered()

    assert avoided[-1] is best
    assert due is best
    assert meanwhile is not best
    assert servers.ranked(call)[0] is best


def test_servers_that_all_failed_are_all_asked(servers: Servers) -> None:
    """When nobody is known to answer, everybody is tried."""
    call = GetSessionRequest(session_id="s1")
    for server in servers.ranked(call):
        server.failed(unavailable())

    assert len(servers.ranked(call)) == 3


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (unavailable(), True),
        (MaitredError("reset", status=grpc.StatusCode.CANCELLED), True),
        (ShuttingDown("going down"), True),
        (StoreUnavailable("no store"), True),
        (StripeUnavailable("no provider"), False),
    ],
)
def test_only_what_a_server_lacks_is_sought_elsewhere(
    servers: Servers, error: MaitredError, elsewhere: bool
) -> None:
    """A payment provider that is down is down for all: the call waits, and nobody is avoided."""
    attempts = attempts_of(servers, "s1")
    asked = attempts.take()

    assert (attempts.failed(error) == 0.0) is elsewhere
    assert asked.is_avoided(time.monotonic()) is elsewhere


def test_an_answer_of_any_kind_is_final(servers: Servers) -> None:
    """A refusal is no failure of the server's."""
    attempts = attempts_of(servers, "s1")
    asked = attempts.take()
    refusal = MaitredError("no", status=grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(MaitredError) as caught:
        attempts.failed(refusal)

    assert caught.value is refusal
    assert not asked.is_avoided(time.monotonic())


def test_no_answer_in_time_is_held_against_the_server(servers: Servers) -> None:
    """The call is over, and the next one goes elsewhere."""
    attempts = attempts_of(servers, "s1")
    asked = attempts.take()
    with pytest.raises(MaitredError):
        attempts.failed(MaitredError("late", status=grpc.StatusCode.DEADLINE_EXCEEDED))

    assert attempts_of(servers, "s1").take() is not asked


def test_a_wait_that_outlasts_the_deadline_is_not_begun() -> None:
    """The error of the last attempt says more than a deadline that passed in waiting."""
    servers = Servers(ADDRESSES, Retries(first_wait=60.0, longest_wait=60.0))
    attempts = attempts_of(servers, "s1", timeout=5.0)
    for _ in range(2):
        attempts.take()
        attempts.failed(unavailable())
    attempts.take()
    with pytest.raises(MaitredError, match=REFUSED):
        attempts.failed(unavailable())


def test_a_doubt_is_never_talked_away(servers: Servers) -> None:
    """Where one attempt may have done it, "certainly nothing was changed" is not the last word."""
    attempts = attempts_of(servers, "s1")
    for error in (unavailable(), *[StoreUnavailable("no store")] * 4):
        attempts.take()
        attempts.failed(error)
    attempts.take()
    with pytest.raises(MaitredError) as caught:
        attempts.failed(StoreUnavailable("no store"))

    assert caught.value.outcome_unknown


def test_what_a_stream_was_told_to_wait_is_not_waited_elsewhere(servers: Servers) -> None:
    """A server that goes down asks for time of its own; the provider's time holds everywhere."""
    server = attempts_of(servers, "s1").take()

    assert server.judged(ShuttingDown("going down", retry_after=1.0)).retry_after is None
    assert server.judged(StripeUnavailable("no provider", retry_after=1.0)).retry_after == 1.0
