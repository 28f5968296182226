"""Webhooks: what is handed over, what each receipt becomes, and what strangers get."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
from structlog.testing import capture_logs
from tests.http.conftest import PATH, SIGNED, Gate, Peer, Taker, counted, listening, post

from maitred.server.http import MissingExtra
from maitred.server.http.webhooks import Receipt, webhook_app
from maitred.server.telemetry import metrics

MAX = 1024


@pytest.fixture
async def taker() -> Taker:
    """What the webhooks are handed to."""
    return Taker()


@pytest.fixture
async def peer(taker: Taker) -> AsyncIterator[Peer]:
    """A connection to a webhook app that takes at most 1024 bytes."""
    app = webhook_app(taker, max_bytes=MAX)
    async with listening(app) as listener, await Peer.connect(listener) as peer:
        yield peer


@pytest.mark.parametrize(
    ("receipt", "status"),
    [
        (Receipt.ACCEPTED, 200),
        (Receipt.DUPLICATE, 200),
        (Receipt.IGNORED, 200),
        (Receipt.REJECTED, 400),
        (Receipt.UNAVAILABLE, 503),
    ],
)
async def test_each_receipt_has_its_status(receipt: Receipt, status: int) -> None:
    """A receipt decides the status and is counted; only UNAVAILABLE asks for another try."""
    count, timed = counted(receipt.name), sum(metrics.WEBHOOK_SECONDS.counts)
    async with (
        listening(webhook_app(Taker(receipt))) as listener,
        httpx.AsyncClient(base_url=listener.url) as client,
    ):
        response = await client.post(PATH, content=b"{}", headers={"Stripe-Signature": "s"})

    assert response.status_code == status
    assert len(response.content) < 32
    assert ("retry-after" in response.headers) == (status == 503)
    assert count() == 1
    assert sum(metrics.WEBHOOK_SECONDS.counts) == timed + 1


async def test_the_raw_bytes_are_handed_over(taker: Taker, peer: Peer) -> None:
    """Body and signature arrive exactly as sent, whatever the bytes are."""
    body = b'{"a" : 1}\r\n\x00\xff\xfe'
    await peer.send(post(body, headers="stripe-SIGNATURE: t=1,v1=\xe9\r\n").replace(b"\xc3", b""))

    assert (await peer.reply()).status == 200
    assert taker.got == [(body, "t=1,v1=\xa9")]


async def test_a_chunked_body_is_put_together(taker: Taker, peer: Peer) -> None:
    """A body without a length arrives whole, also in many parts."""
    await peer.send(f"POST {PATH} HTTP/1.1\r\nHost: h\r\n{SIGNED}")
    await peer.send("Transfer-Encoding: chunked\r\n\r\n")
    for part in (b"one ", b"two ", b"three"):
        await peer.send(b"%x\r\n%b\r\n" % (len(part), part))
    await peer.send("0\r\n\r\n")

    assert (await peer.reply()).status == 200
    assert [body for body, _ in taker.got] == [b"one two three"]


async def test_a_body_of_the_full_size_is_taken(taker: Taker, peer: Peer) -> None:
    """The cap is the largest size that passes."""
    await peer.send(post(b"x" * MAX))

    assert (await peer.reply()).status == 200
    assert len(taker.got[0][0]) == MAX


@pytest.mark.parametrize("length", [str(MAX + 1), "9" * 19])
async def test_a_declared_length_beyond_the_cap_is_refused_unread(
    taker: Taker, peer: Peer, length: str
) -> None:
    """413 comes before a byte of the body was read or asked for, and the connection ends."""
    count = counted("TOO_LARGE")
    expect = "Expect: 100-continue\r\n"
    await peer.send(
        f"POST {PATH} HTTP/1.1\r\nHost: h\r\n{SIGNED}{expect}Content-Length: {length}\r\n\r\n"
    )

    assert (await peer.reply()).status == 413
    assert await peer.rest() == b""
    assert not taker.got
    assert count() == 1


async def test_a_stream_beyond_the_cap_is_refused_before_its_end(taker: Taker, peer: Peer) -> None:
    """413 comes as soon as the cap is passed, however long the sender means to go on."""
    await peer.send(f"POST {PATH} HTTP/1.1\r\nHost: h\r\n{SIGNED}")
    await peer.send("Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(3):
        await peer.send(b"200\r\n" + b"x" * 0x200 + b"\r\n")

    assert (await peer.reply()).status == 413
    assert await peer.rest() == b""
    assert not taker.got


async def test_a_slow_body_times_out(taker: Taker) -> None:
    """Who does not send the body in time gets 408, and the connection ends."""
    count = counted("TIMED_OUT")
    app = webhook_app(taker, timeout_s=0.05)
    async with listening(app) as listener, await Peer.connect(listener) as peer:
        await peer.send(post(b"whole")[:-1])
        reply, rest = await peer.reply(), await peer.rest()

    assert (reply.status, rest) == (408, b"")
    assert not taker.got
    assert count() == 1


async def test_an_unsigned_request_is_refused_unread(taker: Taker, peer: Peer) -> None:
    """Without a signature header nothing is handed over."""
    count = counted("UNSIGNED")
    await peer.send(post(headers=""))

    assert (await peer.reply()).status == 400
    assert await peer.rest() == b""
    assert not taker.got
    assert count() == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_post_is_a_webhook(taker: Taker, peer: Peer, method: str) -> None:
    """Any other method is 405 and names the right one."""
    await peer.send(f"{method} {PATH} HTTP/1.1\r\nHost: h\r\n{SIGNED}\r\n")
    answer = await peer.rest()

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"allow: POST\r\n" in answer
    assert not taker.got


@pytest.mark.parametrize("path", ["/", f"{PATH}/", f"{PATH}/x", "/webhooks", f"/{PATH}", "/%00"])
async def test_other_paths_do_not_exist(taker: Taker, peer: Peer, path: str) -> None:
    """Any other path is 404, and the connection ends."""
    await peer.send(post(path=path))

    assert (await peer.reply()).status == 404
    assert await peer.rest() == b""
    assert not taker.got


@pytest.mark.parametrize("path", [f"{PATH}?a=b", f"http://h{PATH}", "/webhooks/%73tripe"])
async def test_the_path_may_be_written_in_other_ways(taker: Taker, peer: Peer, path: str) -> None:
    """A query, an absolute form and an escaped letter lead to the same place."""
    await peer.send(post(path=path))

    assert (await peer.reply()).status == 200
    assert len(taker.got) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("sk_live_secret"), TimeoutError(), asyncio.CancelledError(), KeyError()]
)
async def test_an_unforeseen_failure_is_logged_and_tried_again(error: BaseException) -> None:
    """Whatever `receive` raises is a 503 that says nothing, and a log line with an id."""
    count = counted("FAILED")

    async def fail(body: bytes, signature: str) -> Receipt:
        raise error

    with capture_logs() as log:
        async with listening(webhook_app(fail)) as listener, await Peer.connect(listener) as peer:
            await peer.send(post())
            reply = await peer.reply()

    assert reply.status == 503
    assert reply.body == b"unavailable\n"
    assert int(reply.headers["retry-after"]) > 0
    assert [line["event"] for line in log] == ["webhook failed"]
    assert len(bytes.fromhex(log[0]["incident_id"])) == 8
    assert log[0]["exc_info"] is error
    assert count() == 1


async def test_what_is_not_taken_in_time_is_tried_again() -> None:
    """A `receive` that hangs is cancelled, and the sender told to come again."""
    gate = Gate()
    app = webhook_app(gate, timeout_s=0.05)
    with capture_logs() as log:
        async with listening(app) as listener, await Peer.connect(listener) as peer:
            await peer.send(post())
            reply = await peer.reply()

    assert reply.status == 503
    assert gate.cancelled.is_set()
    assert [line["event"] for line in log] == ["webhook not taken in time"]


async def test_a_sender_that_goes_away_before_the_end_leaves_nothing(taker: Taker) -> None:
    """Half a body is handed to nobody, and is no failure."""
    before = metrics.WEBHOOKS.labels("ABANDONED").value
    with capture_logs() as log:
        async with listening(webhook_app(taker)) as listener:
            async with await Peer.connect(listener) as peer:
                await peer.send(post(b"whole", headers=f"{SIGNED}Expect: 100-continue\r\n")[:-1])
                assert (await peer.reply()).status == 100  # the body is being read
            while metrics.WEBHOOKS.labels("ABANDONED").value == before:
                await asyncio.sleep(0)

    assert not taker.got
    assert not log


async def test_work_goes_on_when_the_sender_has_gone() -> None:
    """A webhook that was handed over is finished, though nobody waits for the answer."""
    gate, count = Gate(), counted("ACCEPTED")
    async with listening(webhook_app(gate)) as listener:
        async with await Peer.connect(listener) as peer:
            await peer.send(post())
            await gate.entered.wait()
        gate.opened.set()
        await gate.left.wait()
        await listener.stop(10)

    assert not gate.cancelled.is_set()
    assert count() == 1


async def test_another_provider_has_its_own_path_and_header() -> None:
    """Path and header are the caller's choice."""
    taker = Taker()
    app = webhook_app(taker, path="/hooks", signature_header="X-Signature")
    async with listening(app) as listener, await Peer.connect(listener) as peer:
        await peer.send(post(path="/hooks", headers="x-signature: s\r\n"))
        reply = await peer.reply()

    assert reply.status == 200
    assert taker.got == [(b"{}", "s")]


async def test_a_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error names the package and what to install."""
    monkeypatch.setitem(sys.modules, "starlette.routing", None)

    with pytest.raises(MissingExtra, match=r"needs starlette.*pip install 'maitred\[stripe\]'$"):
        webhook_app(Taker())


def test_nothing_of_the_extra_is_imported_early() -> None:
    """Who only imports the package pays nothing for HTTP and needs no extra."""
    code = (
        "import sys, maitred.server.http.listener, maitred.server.http.webhooks;"
        "print({'starlette', 'uvicorn', 'httptools'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"
