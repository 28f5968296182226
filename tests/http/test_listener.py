"""The listener: where it listens, what it bears, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.http.conftest import SIGNED, Gate, Peer, Taker, listening, post, refused

from maitred.server.http import MissingExtra, connection, webhooks
from maitred.server.http.listener import HttpBindError, HttpListener
from maitred.server.http.webhooks import Receipt, webhook_app

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def open_sockets() -> int:
    """Count the sockets of this process."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(each.readlink()).startswith("socket:")
    return count


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Allow more open files than the usual 1024: both ends of each connection are here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])  # noqa: S104
async def test_it_listens_where_it_is_told(host: str) -> None:
    """Names, IPv4 and IPv6 hosts work, with a free port where none is asked for."""
    reached = {"0.0.0.0": "127.0.0.1"}.get(host, host)  # noqa: S104
    async with listening(webhook_app(Taker()), host) as listener:
        assert listener.bound_port > 0
        async with await Peer.connect(listener, reached) as peer:
            await peer.send(post())
            assert (await peer.reply()).status == 200


async def test_an_ipv6_url_has_brackets() -> None:
    """The url can be given to a client as it is."""
    async with listening(webhook_app(Taker()), "::1") as listener:
        assert listener.url == f"http://[::1]:{listener.bound_port}"


async def test_a_taken_port_is_one_clear_line() -> None:
    """A second listener on a port does not start, says why, and leaves nothing open."""
    async with listening(webhook_app(Taker())) as first:
        before = open_sockets()
        second = HttpListener(webhook_app(Taker()), "127.0.0.1", first.bound_port)
        with pytest.raises(HttpBindError) as refusal:
            await second.start()

        assert str(refusal.value) == (
            f"cannot serve HTTP on 127.0.0.1:{first.bound_port}: address already in use; "
            "is another server running? stop it or choose another port"
        )
        assert open_sockets() == before
        await second.stop()


@pytest.mark.parametrize(
    ("host", "said"),
    [("192.0.2.1", "no such address"), ("no-such-host.invalid", "the host is not known")],
)
async def test_a_foreign_host_is_one_clear_line(host: str, said: str) -> None:
    """An address that this machine does not have is refused by name."""
    with pytest.raises(HttpBindError, match=f"^cannot serve HTTP on {host}:0: .*{said}"):
        await HttpListener(webhook_app(Taker()), host, 0).start()


async def test_a_port_is_free_again_at_once() -> None:
    """A restart takes the same port, though connections of before linger in the kernel."""
    async with listening(webhook_app(Taker())) as first, await Peer.connect(first) as peer:
        await peer.send(post())
        await peer.reply()
        await first.stop()
        again = HttpListener(webhook_app(Taker()), "127.0.0.1", first.bound_port)
        await again.start()
        await again.stop()

        assert again.bound_port == first.bound_port


async def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the start fails with what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn.config", None)
    monkeypatch.delitem(sys.modules, connection.__name__)

    with pytest.raises(MissingExtra, match=r"needs uvicorn.*pip install 'maitred\[server\]'$"):
        await HttpListener(webhook_app(Taker()), "127.0.0.1", 0).start()


# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", LOOPS)
def test_a_request_under_way_ends_within_the_grace(factory: Any) -> None:
    """Stopping refuses new connections and waits for the answer of the old one, on any loop."""

    async def run() -> None:
        gate = Gate()
        listener = HttpListener(webhook_app(gate), "127.0.0.1", 0)
        await listener.start()
        async with await Peer.connect(listener) as peer, await Peer.connect(listener) as idle:
            await peer.send(post())
            await gate.entered.wait()
            stopping = asyncio.create_task(listener.stop(60))
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await Peer.connect(listener)
            assert not stopping.done()
            gate.opened.set()
            reply = await peer.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await peer.rest() == b""
            await stopping

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


@pytest.mark.parametrize("factory", LOOPS)
def test_nothing_is_left_after_the_grace(factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What outlasts the grace is cut without an answer; no task, socket or log line is left."""

    async def run() -> None:
        before = open_sockets()
        gate = Gate()
        listener = HttpListener(webhook_app(gate), "127.0.0.1", 0)
        await listener.start()
        async with await Peer.connect(listener) as peer:
            await peer.send(post())
            await gate.entered.wait()
            await listener.stop(0)
            assert gate.cancelled.is_set()
            assert await peer.rest() == b""
        assert open_sockets() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
    assert not caplog.records


async def test_a_second_stop_hastens_the_first() -> None:
    """Less grace later is less grace for both; a stop after that is nothing."""
    gate = Gate()
    async with listening(webhook_app(gate)) as listener, await Peer.connect(listener) as peer:
        await peer.send(post())
        await gate.entered.wait()
        patient = asyncio.create_task(listener.stop(3600))
        await listener.stop(0)
        await patient
        await listener.stop(3600)

    assert gate.cancelled.is_set()


async def test_a_listener_that_never_started_stops() -> None:
    """Stopping what was not started is nothing."""
    await HttpListener(webhook_app(Taker()), "127.0.0.1", 0).stop(1)


async def test_signal_handlers_and_loggers_stay_as_they_were() -> None:
    """The process's signals and uvicorn's own loggers belong to whoever runs the process."""
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

    def look() -> list[object]:
        loggers = map(logging.getLogger, names)
        return [
            *map(signal.getsignal, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
            *((each.level, each.propagate, list(each.handlers)) for each in loggers),
        ]

    before = look()
    async with listening(webhook_app(Taker())):
        assert look() == before
    assert look() == before


SIGNALLED = """
import asyncio, signal
from maitred.server.http.listener import HttpListener

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})

async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    listener = HttpListener(app, "127.0.0.1", 0)
    await listener.start()
    print("started", flush=True)
    await told.wait()
    await listener.stop(1)
    print("stopped", flush=True)

asyncio.run(main())
"""


def test_sigterm_goes_to_the_process() -> None:
    """SIGTERM reaches the process's own handler and nothing else, which then ends in order."""
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "stopped\n"

    assert process.returncode == 0


# --- what it bears -------------------------------------------------------------------------------


async def test_connections_are_kept_and_answers_are_dated() -> None:
    """A proven sender keeps its connection; every answer of the app has a date."""
    async with (
        listening(webhook_app(Taker())) as listener,
        await Peer.connect(listener) as peer,
    ):
        for _ in range(3):
            await peer.send(post())
            reply = await peer.reply()
            assert reply.status == 200
            assert reply.headers["date"].endswith(" GMT")
            assert "connection" not in reply.headers
            assert "server" not in reply.headers


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests that are sent without waiting are taken one after another."""
    taker = Taker()
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        await peer.send(b"".join(post(b"%d" % number) for number in range(50)))
        replies = [await peer.reply() for _ in range(50)]

    assert {reply.status for reply in replies} == {200}
    assert [body for body, _ in taker.got] == [b"%d" % number for number in range(50)]


async def test_rubbish_behind_a_request_does_not_cost_its_answer() -> None:
    """A good request is answered, then the connection ends."""
    gate = Gate()
    async with listening(webhook_app(gate)) as listener, await Peer.connect(listener) as peer:
        await peer.send(post() + b"\x00rubbish\r\n\r\n")
        await gate.entered.wait()
        gate.opened.set()
        reply = await peer.reply()

        assert reply.status == 200
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /x HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Rubbish is a 400 and the end of the connection; it is counted and not logged."""
    taker, count = Taker(), refused("malformed")
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        await peer.send(raw)
        answer = await peer.rest()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert count() == 1
    assert not taker.got
    assert not caplog.records


async def test_a_broken_chunk_is_refused() -> None:
    """A body that is no body is a 400, and is handed to nobody."""
    taker = Taker()
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        head = post().replace(b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n")
        await peer.send(head.removesuffix(b"{}") + b"zz\r\n")
        answer = await peer.rest()

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not taker.got


CHUNKED = post().replace(b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n")[:-2]
BEYOND = b"x" * (connection.MAX_HEAD_BYTES + 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /" + BEYOND + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: " + BEYOND + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"a: b\r\n" * 4000 + b"\r\n",
        CHUNKED + b"0\r\n" + b"a: b\r\n" * 400_000,
    ],
    ids=["target", "header", "headers", "trailers"],
)
async def test_a_long_head_is_refused(raw: bytes) -> None:
    """Request line, headers and trailers are bounded together."""
    taker, count = Taker(), refused("head_too_large")
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        await peer.send(raw)
        answer = await peer.rest()

    # A peer that is still sending when the connection ends may not get to read why.
    assert answer.startswith(b"HTTP/1.1 431 ") or (not answer and len(raw) > 100_000)
    assert count() == 1
    assert not taker.got


@pytest.mark.parametrize(
    "head",
    [b"POST /", b"POST / HTTP/1.1\r\nA: ", CHUNKED + b"1;", CHUNKED + b"0\r\nA: "],
    ids=["target", "header", "extension", "trailer"],
)
async def test_what_never_ends_is_cut(head: bytes) -> None:
    """Whatever is no body and makes no progress ends the connection, however it goes on."""
    taker, count = Taker(), refused("head_too_large")
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        await peer.send(head)
        while not count():
            await peer.send(BEYOND)
        await peer.rest()

    assert count() == 1
    assert not taker.got


async def test_many_small_chunks_are_no_head() -> None:
    """The bound is on what makes no progress, not on a body in many parts."""
    taker = Taker()
    async with listening(webhook_app(taker)) as listener, await Peer.connect(listener) as peer:
        await peer.send(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        reply = await peer.reply()

    assert reply.status == 200
    assert taker.got[0][0] == b"x" * 20_000


@pytest.mark.parametrize("said", [b"", b"\r\n", b"POST /webh", post()[:-20]])
async def test_a_connection_that_says_too_little_is_closed(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a connection and never ends a head does not hold it."""
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    count = refused("slow_head")
    async with listening(webhook_app(Taker())) as listener, await Peer.connect(listener) as peer:
        await peer.send(said)
        answer = await peer.rest()

    assert answer == b""
    assert count() == 1


@pytest.mark.parametrize("said", [b"\r\n", b"POST /webh"])
async def test_a_kept_connection_that_says_too_little_is_closed(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does who has had an answer before."""
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    async with listening(webhook_app(Taker())) as listener, await Peer.connect(listener) as peer:
        await peer.send(post())
        assert (await peer.reply()).status == 200
        await peer.send(said)

        assert await peer.rest() == b""


async def test_a_slow_answer_is_not_a_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a head does not run while a request is being answered."""
    monkeypatch.setattr(connection, "HEAD_S", 0.01)
    gate, loop = Gate(), asyncio.get_running_loop()
    async with listening(webhook_app(gate)) as listener, await Peer.connect(listener) as peer:
        await peer.send(post() + b"POST /webh")
        await gate.entered.wait()
        loop.call_later(0.05, gate.opened.set)

        assert (await peer.reply()).status == 200


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection ends when nothing more comes."""
    monkeypatch.setattr(connection, "KEEP_ALIVE_S", 0)
    async with listening(webhook_app(Taker())) as listener, await Peer.connect(listener) as peer:
        await peer.send(post())
        reply = await peer.reply()

        assert reply.status == 200
        assert await peer.rest() == b""


async def test_a_peer_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that nobody reads hold the connection for a while only."""
    monkeypatch.setattr(connection, "WRITE_S", 0.05)
    count, ended = refused("slow_reader"), asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        while not count():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        ended.set()

    async with listening(endless) as listener:
        with socket.create_connection(("127.0.0.1", listener.bound_port)) as peer:
            peer.sendall(post())
            await ended.wait()

    assert count() == 1


async def test_too_many_requests_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a request gets 503 at once; one under way is not disturbed."""
    monkeypatch.setattr(connection, "MAX_REQUESTS", 1)
    gate, count = Gate(), refused("request")
    async with (
        listening(webhook_app(gate)) as listener,
        await Peer.connect(listener) as first,
        await Peer.connect(listener) as second,
    ):
        await first.send(post())
        await gate.entered.wait()
        await second.send(post())
        busy = await second.reply()
        gate.opened.set()

        assert busy.status == 503
        assert int(busy.headers["retry-after"]) > 0
        assert count() == 1
        assert (await first.reply()).status == 200


async def test_too_many_connections_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are bounded, so that strangers can't use up the process's files."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 1)
    async with listening(webhook_app(Taker())) as listener, await Peer.connect(listener) as first:
        await first.send(post())
        assert (await first.reply()).status == 200
        async with await Peer.connect(listener) as second:
            assert await second.rest() == b""
        await first.send(post())

        assert (await first.reply()).status == 200


async def test_half_heads_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, whoever has kept its head to itself for longest makes room."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    count = refused("crowded_out")
    async with listening(webhook_app(Taker())) as listener, AsyncExitStack() as stack:
        half = [await stack.enter_async_context(await Peer.connect(listener)) for _ in range(3)]
        for peer in half:
            await peer.send("POST /webh")
        for place in range(6):
            async with await Peer.connect(listener) as genuine:
                await genuine.send(post())
                assert (await genuine.reply()).status == 200
            if place < 3:
                half.append(await stack.enter_async_context(await Peer.connect(listener)))

        assert await half[0].rest() == b""
        assert count() >= 1


async def test_half_bodies_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bodies that do not come, so many are waited for; then the oldest is given up."""
    monkeypatch.setattr(webhooks, "MAX_READING", 2)
    async with listening(webhook_app(Taker())) as listener, AsyncExitStack() as stack:
        half = [await stack.enter_async_context(await Peer.connect(listener)) for _ in range(3)]
        for peer in half:
            await peer.send(post(b"whole", headers=f"{SIGNED}Expect: 100-continue\r\n")[:-1])
            assert (await peer.reply()).status == 100

        assert (await half[0].reply()).status == 408
        async with await Peer.connect(listener) as genuine:
            await genuine.send(post())
            assert (await genuine.reply()).status == 200


@pytest.mark.parametrize("factory", LOOPS)
def test_five_hundred_at_once(factory: Any) -> None:
    """A burst is taken whole: five hundred requests are under way together, and all answered."""
    burst = 500

    async def run() -> None:
        got: list[bytes] = []
        all_here = asyncio.Event()

        async def take(body: bytes, signature: str) -> Receipt:
            got.append(body)
            if len(got) == burst:
                all_here.set()
            await all_here.wait()
            return Receipt.ACCEPTED

        async def one(listener: HttpListener, number: int) -> int:
            async with await Peer.connect(listener) as peer:
                await peer.send(post(b"%d" % number))
                return (await peer.reply()).status

        async with listening(webhook_app(take, timeout_s=60)) as listener:
            statuses = await asyncio.gather(*(one(listener, n) for n in range(burst)))
        assert statuses == [200] * burst
        assert sorted(map(int, got)) == list(range(burst))

    with many_files(), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


async def test_answers_do_not_wait_for_the_peers_acknowledgement() -> None:
    """Connections are without Nagle's algorithm, else each answer takes 40 ms on asyncio's loop."""
    seen: list[int] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        protocol = receive.__self__
        raw = protocol.transport.get_extra_info("socket")
        seen.append(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with listening(look) as listener, await Peer.connect(listener) as peer:
        await peer.send(post())
        await peer.reply()

    assert seen == [1]


async def test_the_environment_does_not_configure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that uvicorn's command line would read mean nothing here."""
    monkeypatch.setitem(os.environ, "WEB_CONCURRENCY", "many")
    monkeypatch.setitem(os.environ, "FORWARDED_ALLOW_IPS", "*")
    async with listening(webhook_app(Taker())) as listener, await Peer.connect(listener) as peer:
        await peer.send(post(headers="Stripe-Signature: s\r\nX-Forwarded-Proto: gopher\r\n"))

        assert (await peer.reply()).status == 200
