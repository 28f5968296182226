"""A server that loses its store says so, refuses quickly, and needs no restart afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.support.bar import turn
from tests.support.shared import Shared
from tests.support.wire import Failure, Wire, wired

from maitred.server.app.server import Server, StartError
from maitred.server.config import Settings
from maitred.server.engine import sweeper, watchdog
from maitred.server.engine.clock import ManualClock
from maitred.server.payments import duty, simulated
from maitred.server.stores.base import SchemaTooNew, StoreInfo, StoreUnavailable
from maitred.server.stores.memory import MemoryStore
from maitred.v1 import order_pb2, payment_pb2, session_pb2, state_pb2
from maitred.v1.common_pb2 import Money

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CREATE, GET = "SessionService/CreateSession", "SessionService/GetSession"
TURN = "ConversationService/RecordTurn"


class Rig(NamedTuple):
    """A server, its way to the store, and what it keeps beside it."""

    server: Server
    wire: Wire
    store: Shared
    books: Path
    clock: ManualClock


class Silent(Shared):
    """A store behind a network that swallows everything."""

    quiet = False

    async def check(self) -> None:
        """Answer, or never."""
        if self.quiet:
            await asyncio.Event().wait()
        await super().check()


class Outgrown(Shared):
    """A store that a newer server has migrated beyond what this one understands."""

    outgrown = False

    async def check(self) -> None:
        """Answer, unless the schema is too new."""
        if self.outgrown:
            raise SchemaTooNew("this server is too old")
        await super().check()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than in life, so that nobody has to wait."""
    monkeypatch.setattr(watchdog, "EVERY_S", 0.02)
    monkeypatch.setattr(watchdog, "AGAIN_S", 0.02)
    monkeypatch.setattr(watchdog, "ANSWER_S", 0.05)
    monkeypatch.setattr(duty, "RENEW_S", 0.02)
    monkeypatch.setattr(sweeper, "LONGEST_SLEEP_S", 0.02)


@pytest.fixture(params=[Shared])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A server on a store that it does not own."""
    inner = MemoryStore()
    store = request.param(inner, await inner.open())
    clock = ManualClock()
    async with wired(store=store, clock=clock, simulated_dir=str(tmp_path)) as (server, wire):
        yield Rig(server, wire, store, tmp_path, clock)
    await inner.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a thing."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.005)


def watch_health(wire: Wire) -> Any:
    """Watch the server's health as a load balancer does."""
    return wire.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest())


async def test_health_follows_the_store(rig: Rig) -> None:
    """Who watches the health of a server is told when it loses its store and when it is back."""
    health = watch_health(rig.wire)
    told = [(await health.read()).status]
    rig.store.lose()
    told.append((await health.read()).status)
    rig.store.regain()
    told.append((await health.read()).status)
    health.cancel()

    assert told == [SERVING, NOT_SERVING, SERVING]


async def test_calls_are_refused_quickly_and_succeed_again(rig: Rig) -> None:
    """Reads and writes answer UNAVAILABLE at once; nothing of it stays when the store is back."""
    await rig.wire(CREATE, session_pb2.CreateSessionRequest(session_id="s1"))
    health = watch_health(rig.wire)
    await health.read()
    rig.store.lose()
    await health.read()
    began = time.monotonic()
    found = [
        await rig.wire.fails(GET, session_pb2.GetSessionRequest(session_id="s1")),
        await rig.wire.fails(TURN, turn("s1", "hello")),
        await rig.wire.fails(CREATE, session_pb2.CreateSessionRequest(session_id="s2")),
        await rig.wire.fails("SessionService/ListSessions", session_pb2.ListSessionsRequest()),
    ]
    took_s = time.monotonic() - began
    rig.store.regain()
    await health.read()
    health.cancel()
    reply = await rig.wire(TURN, turn("s1", "hello"))

    assert {(each.status, each.reason) for each in found} == {("UNAVAILABLE", "STORE_UNAVAILABLE")}
    assert took_s < 2
    assert reply.event.version == 2


async def test_background_work_goes_on_by_itself(rig: Rig) -> None:
    """Expiry, and a payment that was made meanwhile, are seen to once the store is back."""
    await rig.wire(CREATE, session_pb2.CreateSessionRequest(session_id="idle"))
    await rig.wire(CREATE, session_pb2.CreateSessionRequest(session_id="paying"))
    price = Money(minor_units=500, currency="USD")
    item = order_pb2.AddItemRequest(session_id="paying", item="Special", open_price=price)
    await rig.wire("OrderService/AddItem", item)
    asked = payment_pb2.CreatePaymentRequest(session_id="paying")
    opened = await rig.wire("PaymentService/CreatePayment", asked)
    health = watch_health(rig.wire)
    await health.read()
    rig.store.lose()
    await health.read()
    simulated.pay(rig.books, opened.payment.url, clock=rig.clock)
    rig.clock.advance(3601)
    rig.store.regain()
    engine = rig.server.engine

    async def seen_to() -> bool:
        if engine.watchdog.failure is not None:
            return False
        idle, paying = (await engine.session("idle")).state, (await engine.session("paying")).state
        return bool(
            idle.status == state_pb2.SESSION_STATUS_EXPIRED
            and paying.latest_payment.status == state_pb2.PAYMENT_STATUS_SUCCEEDED
        )

    await until(seen_to)
    health.cancel()


@pytest.mark.parametrize("rig", [Silent], indirect=True)
async def test_store_that_never_answers_is_lost_as_well(rig: Rig) -> None:
    """A connection that is open and silent counts as none."""
    health = watch_health(rig.wire)
    await health.read()
    assert isinstance(rig.store, Silent)
    rig.store.quiet = True
    lost = (await health.read()).status
    rig.store.quiet = False
    back = (await health.read()).status
    health.cancel()

    assert (lost, back) == (NOT_SERVING, SERVING)


@pytest.mark.parametrize("rig", [Outgrown], indirect=True)
async def test_server_that_has_become_too_old_serves_no_more(rig: Rig) -> None:
    """A schema that a newer server has brought turns this one away, with a reason of its own."""
    health = watch_health(rig.wire)
    await health.read()
    assert isinstance(rig.store, Outgrown)
    rig.store.outgrown = True
    lost = (await health.read()).status
    refused = await rig.wire.outcome(TURN, turn("s1", "hello"))
    health.cancel()

    assert lost == NOT_SERVING
    assert isinstance(refused, Failure)
    assert refused.reason == "SCHEMA_TOO_NEW"


async def test_watch_ends_where_it_can_be_resumed_elsewhere(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch waits for a while, then ends with UNAVAILABLE; it resumes from its token."""
    monkeypatch.setattr("maitred.server.engine.hub.PATIENCE_S", 0.05)
    await rig.wire(CREATE, session_pb2.CreateSessionRequest(session_id="s1"))
    request = session_pb2.WatchSessionRequest(session_id="s1")
    watch = rig.wire.call("SessionService/WatchSession", request)
    token = (await watch.read()).resume_token
    rig.store.lose()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await watch.read()
    rig.store.regain()
    await until(lambda: _is_back(rig))
    await rig.wire(TURN, turn("s1", "hello"))
    request.resume_token = token
    resumed = rig.wire.call("SessionService/WatchSession", request)
    message = await resumed.read()
    resumed.cancel()

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [event.version for event in message.events.events] == [2]


async def _is_back(rig: Rig) -> bool:
    return rig.server.engine.watchdog.failure is None


class Unfit(MemoryStore):
    """A store that cannot be opened, for a reason that takes two lines."""

    async def open(self) -> StoreInfo:
        """Refuse."""
        raise StoreUnavailable(
            "the clock of this machine is 2.500 s behind the\n database's, and 1 s are allowed"
        )


async def test_clock_that_differs_is_one_line_for_people() -> None:
    """A store that refuses to open is why the server does not start, said in one line."""
    server = Server(Settings(listen="127.0.0.1:0", data="memory://"), store=Unfit())
    with pytest.raises(StartError) as refused:
        await server.start()

    assert str(refused.value) == (
        "the clock of this machine is 2.500 s behind the database's, and 1 s are allowed"
    )
