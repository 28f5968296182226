"""A watch delivers every version once, in order, resumes anywhere and always tells the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, TypeVar, cast

import grpc
import pytest

from maitred.server.app.server import Server
from maitred.server.engine.ring import RING
from maitred.server.testing.servers import running_server
from maitred.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    state_pb2,
)

M = TypeVar("M")
Watch = grpc.aio.UnaryStreamCall[session_pb2.WatchSessionRequest, session_pb2.WatchSessionResponse]


async def read(call: grpc.aio.UnaryStreamCall[Any, M]) -> M:
    """Take the next message of a stream that must not have ended."""
    message = await call.read()
    assert message is not grpc.aio.EOF
    return cast("M", message)


class Guest:
    """One session and the stubs to work on it."""

    def __init__(self, channel: grpc.aio.Channel, session_id: str) -> None:
        self.id = session_id
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.conversations = conversation_pb2_grpc.ConversationServiceStub(channel)

    async def turn(self, text: str = "hello") -> int:
        """Record a turn and answer its version."""
        request = conversation_pb2.RecordTurnRequest(session_id=self.id)
        request.messages.add(role=state_pb2.MESSAGE_ROLE_USER, text=text)
        reply = await self.conversations.RecordTurn(request)
        return reply.event.version

    def watch(self, **fields: Any) -> Watch:
        """Open a watch."""
        return self.sessions.WatchSession(
            session_pb2.WatchSessionRequest(session_id=self.id, **fields)
        )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A real server whose heartbeats do not disturb."""
    async with running_server(heartbeat_s=3600.0) as server:
        yield server


@pytest.fixture
async def guest(server: Server) -> AsyncIterator[Guest]:
    """A guest with a new session."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.bound_port}") as channel:
        guest = Guest(channel, "s1")
        await guest.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id="s1"))
        yield guest


async def versions(call: Watch, upto: int) -> list[int]:
    """Read events up to a version."""
    seen: list[int] = []
    while not seen or seen[-1] < upto:
        message = await read(call)
        seen.extend(event.version for event in message.events.events)
    call.cancel()
    return seen


async def test_first_message_is_the_session_and_then_every_event_follows(guest: Guest) -> None:
    """Without resuming, a watch begins with a snapshot and goes on without a gap."""
    watch = guest.watch()
    first = await read(watch)
    for _ in range(5):
        await guest.turn()

    assert first.snapshot.version == first.version == 1
    assert await versions(watch, 6) == [2, 3, 4, 5, 6]


async def test_events_carry_their_text_to_agents(guest: Guest) -> None:
    """An agent's watch shows the message text that is kept apart from the facts."""
    watch = guest.watch()
    await read(watch)
    await guest.turn("two Negronis")
    message = await read(watch)
    watch.cancel()

    assert message.events.events[0].turn_recorded.messages[0].text == "two Negronis"


@pytest.mark.parametrize("after", [0, 1, 7, 10])
async def test_watch_resumes_after_a_version(guest: Guest, after: int) -> None:
    """`after_version` continues right behind that version, from the beginning of the log on."""
    for _ in range(9):
        await guest.turn()
    watch = guest.watch(after_version=after)
    last = await guest.turn()

    assert await versions(watch, last) == list(range(after + 1, last + 1))


async def test_watch_further_behind_than_the_ring_reads_the_log(guest: Guest) -> None:
    """A watcher that slept through more than the hub remembers misses nothing."""
    watch = guest.watch()
    await read(watch)
    last = 1
    for _ in range(RING + 50):
        last = await guest.turn()
    live = await versions(watch, last)
    late = await versions(guest.watch(after_version=1), last)

    assert live == late == list(range(2, last + 1))


async def test_watchers_cut_at_random_points_see_every_version_once(guest: Guest) -> None:
    """Resuming with the last token neither repeats nor skips, wherever the watch was cut."""
    chance = random.Random(11)
    total = 120

    async def write() -> None:
        for _ in range(total):
            await guest.turn()

    async def follow() -> list[int]:
        seen: list[int] = []
        token = b""
        while not seen or seen[-1] < total + 1:
            call = guest.watch(resume_token=token) if token else guest.watch()
            budget = chance.randrange(1, 12)
            async for message in call:
                token = message.resume_token
                seen.extend(event.version for event in message.events.events)
                if message.HasField("snapshot"):
                    seen.append(message.version)
                budget -= 1
                if budget == 0 or seen[-1] == total + 1:
                    break
            call.cancel()
        return seen

    writing = asyncio.create_task(write())
    seen = await asyncio.gather(*(follow() for _ in range(5)))
    await writing

    for one in seen:
        assert one == list(range(one[0], total + 2))


async def test_resuming_ahead_of_the_log_is_refused(guest: Guest) -> None:
    """A version that does not exist is OUT_OF_RANGE and not an endless wait."""
    call = guest.watch(after_version=99)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(call)
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_token_of_another_history_is_refused(guest: Guest) -> None:
    """A token from before a restore does not silently mean something else."""
    call = guest.watch(resume_token=b"x" * 16 + b"\x01")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(call)
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_latest_mode_shows_the_newest_state(guest: Guest) -> None:
    """In mode LATEST versions in between may be left out, the newest never."""
    watch = guest.watch(mode=session_pb2.WATCH_MODE_LATEST)
    await read(watch)
    last = 1
    for _ in range(20):
        last = await guest.turn()
    message = await read(watch)
    while message.version < last:
        message = await read(watch)
    watch.cancel()

    assert message.snapshot.conversation.turn_count == 20


async def test_deleted_session_ends_its_watches(guest: Guest) -> None:
    """The deletion is the last event, and a final message says that nothing follows."""
    watch = guest.watch()
    await read(watch)
    await guest.sessions.DeleteSession(
        session_pb2.DeleteSessionRequest(session_id="s1", reason="asked for")
    )
    deletion, end = await read(watch), await read(watch)

    assert deletion.events.events[-1].HasField("session_deleted")
    assert end.end.deleted
    assert await watch.read() is grpc.aio.EOF


async def test_stopping_server_ends_watches_with_a_resumable_status(
    server: Server, guest: Guest
) -> None:
    """A graceful stop tells watchers to resume elsewhere."""
    watch = guest.watch()
    await read(watch)
    stopping = asyncio.create_task(server.stop(5))

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read(watch)
    await stopping
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_quiet_watch_is_alive() -> None:
    """A watch that has nothing to say sends heartbeats."""
    async with (
        running_server(heartbeat_s=0.05) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.bound_port}") as channel,
    ):
        guest = Guest(channel, "s1")
        await guest.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id="s1"))
        watch = guest.watch()
        await read(watch)
        heartbeat = await read(watch)
        watch.cancel()

    assert heartbeat.HasField("heartbeat")
    assert heartbeat.version == 1


async def test_many_watchers_all_see_the_end(guest: Guest) -> None:
    """Five hundred watchers of one session opened in one burst all see every version."""
    watches = [guest.watch() for _ in range(500)]
    await asyncio.gather(*(read(watch) for watch in watches))
    for _ in range(10):
        await guest.turn()
    seen = await asyncio.gather(*(versions(watch, 11) for watch in watches))

    assert all(one == list(range(2, 12)) for one in seen)


async def test_events_of_all_sessions_are_streamed_and_resumed(guest: Guest) -> None:
    """WatchEvents sees every event from the beginning, in order within each session."""
    for name in ("s2", "s3"):
        await guest.sessions.CreateSession(session_pb2.CreateSessionRequest(session_id=name))
    await guest.turn()
    feed = guest.sessions.WatchEvents(session_pb2.WatchEventsRequest(from_beginning=True))
    seen: list[tuple[str, int]] = []
    token = b""
    while len(seen) < 4:
        message = await read(feed)
        token = message.resume_token
        seen += [(each.session_id, each.event.version) for each in message.events]
    feed.cancel()
    await guest.turn()
    resumed = guest.sessions.WatchEvents(session_pb2.WatchEventsRequest(resume_token=token))
    message = await read(resumed)
    resumed.cancel()

    assert sorted(seen) == [("s1", 1), ("s1", 2), ("s2", 1), ("s3", 1)]
    assert [(each.session_id, each.event.version) for each in message.events] == [("s1", 3)]


async def test_events_can_be_filtered_by_change(guest: Guest) -> None:
    """A board that shows closed sessions hears of nothing else."""
    feed = guest.sessions.WatchEvents(
        session_pb2.WatchEventsRequest(from_beginning=True, changes=["session_closed"])
    )
    await guest.turn()
    await guest.sessions.CloseSession(session_pb2.CloseSessionRequest(session_id="s1"))
    message = await read(feed)
    while not message.events:
        message = await read(feed)
    feed.cancel()

    assert [each.event.WhichOneof("change") for each in message.events] == ["session_closed"]
