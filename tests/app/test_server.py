"""The server as a whole: where it listens, whom it lets in, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs
from tests.app.conftest import Caller, Tokens, read_failure

from maitred.server.app.listening import check_exposure, is_loopback, split_address
from maitred.server.app.server import Server, StartError
from maitred.server.config import Settings, SettingsError
from maitred.server.engine.clock import ManualClock
from maitred.server.testing.servers import running_server
from maitred.v1 import admin_pb2, session_pb2
from maitred.v1.common_pb2 import Role

INFO, WATCH = "AdminService/GetServerInfo", "SessionService/WatchSession"


@contextlib.asynccontextmanager
async def calling(address: str) -> Any:
    """Call a server by address."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield Caller(channel)


async def test_info_tells_what_the_server_is() -> None:
    """GetServerInfo tells store, epoch, payments, the caller's role and the server's own time."""
    clock = ManualClock()
    async with running_server(clock=clock) as server, calling(server.address) as call:
        clock.advance(5)
        info = await call(INFO, admin_pb2.GetServerInfoRequest())

    assert info.store == "memory"
    assert len(bytes.fromhex(info.store_epoch)) == 16
    assert (info.payments, info.payments_simulated) == ("simulated", True)
    assert info.caller_role == Role.ROLE_ADMIN
    assert list(info.tip_percentages) == [10, 15, 20]
    assert info.now.seconds - info.started_at.seconds == 5


async def test_tcp_and_unix_socket_serve_the_same(tmp_path: Path) -> None:
    """Both addresses lead to one server; the socket is this user's alone, and goes with it."""
    path = tmp_path / "maitred.sock"
    async with running_server(unix_socket=str(path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with calling(f"unix:{path}") as call:
            created = session_pb2.CreateSessionRequest(session_id="s")
            await call("SessionService/CreateSession", created)
        async with calling(server.address) as call:
            request = session_pb2.GetSessionRequest(session_id="s")
            found = await call("SessionService/GetSession", request)
            assert found.session.session_id == "s"

    assert not path.exists()


async def test_a_unix_socket_alone_is_enough(tmp_path: Path) -> None:
    """Without a TCP address the server listens on its socket; a stale one is in nobody's way."""
    path = tmp_path / "maitred.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with running_server(listen="", unix_socket=str(path)) as server:
        assert server.bound_port == 0
        async with calling(server.address) as call:
            await call(INFO, b"")


async def test_a_living_socket_is_not_taken_away(tmp_path: Path) -> None:
    """A second server on the same socket is refused, and so is a path that is no socket."""
    path, plain = tmp_path / "maitred.sock", tmp_path / "plain"
    plain.touch()
    async with running_server(unix_socket=str(path)) as server:
        with pytest.raises(SettingsError, match="another server running"):
            await Server(Settings(listen="", unix_socket=str(path), data="memory://")).start()
        async with calling(server.address) as call:
            await call(INFO, b"")
    with pytest.raises(SettingsError, match="no socket"):
        await Server(Settings(listen="", unix_socket=str(plain), data="memory://")).start()


async def test_a_second_server_on_the_port_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is not shared: a second server says why in one line, and leaves nothing behind."""
    async with running_server() as server:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        second = Server(Settings(listen=server.address, data="memory://"))
        with pytest.raises(SettingsError, match=r"^cannot listen on .* in use; is another"):
            await second.start()

    assert list(tmp_path.iterdir()) == []


async def test_a_second_server_on_the_data_is_refused(tmp_path: Path) -> None:
    """The data is not shared: a second server fails with one line, and lets its port go."""
    data = f"sqlite:{tmp_path / 'm.db'}"
    async with running_server(data=data):
        second = Server(Settings(listen="127.0.0.1:0", data=data))
        with pytest.raises(StartError, match=r"already open in process \d+"):
            await second.start()

    async with running_server(data=data):
        pass


async def test_health_is_served() -> None:
    """Health knows every service."""
    async with running_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        for name in ("", "maitred.v1.OrderService"):
            answer = await check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_stopping_ends_watches_resumably_and_at_once() -> None:
    """A stop says NOT_SERVING, ends every watch with SHUTTING_DOWN, and waits for none of them."""
    async with running_server(grace_s=30.0) as server, calling(server.address) as call:
        await call("SessionService/CreateSession", session_pb2.CreateSessionRequest(session_id="s"))
        watches = [
            call.stream(WATCH, session_pb2.WatchSessionRequest(session_id="s")) for _ in range(50)
        ]
        for each in watches:
            assert (await each.read()).snapshot.version == 1
        health: Any = call.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        status = health(health_pb2.HealthCheckRequest())
        assert (await status.read()).status == health_pb2.HealthCheckResponse.SERVING

        await asyncio.wait_for(server.stop(), 10)

        assert (await status.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await status.read() is grpc.aio.EOF
        for each in watches:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await each.read()
            failure = read_failure(caught.value)
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "SHUTTING_DOWN",
            )
            assert failure.retry_after_s


async def test_a_stopped_server_can_be_stopped_again() -> None:
    """Stopping twice is stopping once."""
    async with running_server() as server:
        await server.stop(0)
        await server.stop(0)


async def test_tokens_decide_who_is_served(tokens: Tokens) -> None:
    """With tokens nobody is served without one; health stays open to probes."""
    async with (
        running_server(tokens=str(tokens.path)) as server,
        calling(server.address) as call,
    ):
        failure = await call.fails(INFO, b"")
        info = await call(INFO, b"", token=tokens.by_role[Role.ROLE_AGENT])

    assert failure.reason == "UNAUTHENTICATED"
    assert info.caller_role == Role.ROLE_AGENT


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_loopback_is_recognised(address: str, loopback: bool) -> None:
    """Only addresses of this machine alone count as local."""
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("address", ["", "x", "x:", ":1", "x:y", "x:70000", "::1:5", "[::1]"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """An address is a host and a port."""
    with pytest.raises(SettingsError, match="HOST:PORT"):
        split_address(address)


def test_listening_beyond_this_machine_needs_tokens_and_tls(tmp_path: Path) -> None:
    """Other machines are let in with tokens only, and tokens travel encrypted unless allowed."""
    with pytest.raises(SettingsError, match="needs tokens"):
        check_exposure(Settings(listen="0.0.0.0:1"))
    with pytest.raises(SettingsError, match="unencrypted"):
        check_exposure(Settings(listen="0.0.0.0:1", tokens="t"))
    check_exposure(Settings(listen="0.0.0.0:1", tokens="t", allow_plaintext=True))
    check_exposure(Settings(listen="0.0.0.0:1", tokens="t", tls_cert="c", tls_key="k"))
    check_exposure(Settings(listen="", unix_socket="s"))


async def test_the_log_says_where_and_what_is_served(log: io.StringIO) -> None:
    """The first lines of the log name address and store, and say when everybody has every right."""
    async with running_server() as server:
        address = server.address

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    serving = next(line for line in lines if line["event"] == "serving")
    assert (serving["listen"], serving["store"]) == (address, "memory")
    assert any("every right" in line["event"] for line in lines)


async def test_a_backup_stays_inside_its_directory(tmp_path: Path) -> None:
    """A backup is written into the backup directory, checked and new, and nowhere else."""
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    data = f"sqlite:{tmp_path / 'm.db'}"
    async with (
        running_server(data=data, backup_dir=str(folder)) as server,
        calling(server.address) as call,
    ):
        await call("SessionService/CreateSession", session_pb2.CreateSessionRequest(session_id="s"))
        for path in ("../x.db", str(tmp_path / "x.db"), "out/x.db", "a/../../x.db", ".", "a\0b"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call.stream(
                    "AdminService/Backup", admin_pb2.BackupRequest(path=path)
                ):
                    pass
            assert read_failure(caught.value).reason == "INVALID_FIELD"
        for path, expected in (("day/one.db", "day/one.db"), ("", "maitred-")):
            request = admin_pb2.BackupRequest(path=path)
            last = [each async for each in call.stream("AdminService/Backup", request)][-1]
            assert Path(last.path).relative_to(folder).as_posix().startswith(expected)
            assert (last.events, last.size_bytes) == (1, Path(last.path).stat().st_size)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call.stream(
                "AdminService/Backup", admin_pb2.BackupRequest(path="day/one.db")
            ):
                pass
        assert read_failure(caught.value).reason == "ALREADY_EXISTS"


async def test_memory_says_that_it_cannot_be_backed_up() -> None:
    """What the store cannot do is UNSUPPORTED."""
    async with running_server() as server, calling(server.address) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.stream("AdminService/Backup", b"").read()

    assert read_failure(caught.value).reason == "UNSUPPORTED"


async def test_sweeping_and_verifying_are_served() -> None:
    """An admin can sweep at once and verify a session's log."""
    clock = ManualClock()
    async with running_server(clock=clock) as server, calling(server.address) as call:
        created = session_pb2.CreateSessionRequest(session_id="s", idle_seconds=60)
        await call("SessionService/CreateSession", created)
        verified = await call(
            "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id="s")
        )
        failure = await call.fails(
            "AdminService/VerifyAudit", admin_pb2.VerifyAuditRequest(session_id="none")
        )
        clock.advance(3600)
        swept = await call("AdminService/SweepExpired", admin_pb2.SweepExpiredRequest())

    assert (verified.valid, verified.events) == (True, 1)
    assert failure.reason == "INVALID_SESSION"
    assert swept.expired in (0, 1)  # the server may have been faster by itself


async def test_half_requests_for_metrics_cost_no_thread() -> None:
    """Whoever keeps requests for metrics to himself takes nothing from others."""
    async with running_server(metrics_listen="127.0.0.1:0") as server:
        threads = threading.active_count()
        half = [await asyncio.open_connection("127.0.0.1", server.metrics_port) for _ in range(50)]
        for _, writer in half:
            writer.write(b"GET /met")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = await reader.read()
        after = threading.active_count()
        for _, each in [*half, (reader, writer)]:
            each.close()

    assert text.startswith(b"HTTP/1.1 200 ")
    assert after <= threads


async def test_metrics_that_others_reach_are_warned_about() -> None:
    """Metrics ask no token: where not only this machine reaches them, the log says so."""
    with capture_logs() as log:
        async with running_server(metrics_listen="0.0.0.0:0"):
            pass

    assert [each for each in log if "metrics" in each["event"] and each["log_level"] == "warning"]


async def test_metrics_are_served() -> None:
    """Prometheus finds calls by method and status, latencies and the process's own numbers."""
    async with running_server(metrics_listen="127.0.0.1:0") as server:
        async with calling(server.address) as call:
            await call(INFO, b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()

    method = 'method="maitred.v1.AdminService/GetServerInfo"'
    assert f'maitred_calls_total{{{method},status="OK"}}' in text
    assert f'maitred_call_seconds_bucket{{le="+Inf",{method}}}' in text
    assert "python_info" in text
    for name in ("watchers", "locks", "cache_size", "commits_in_flight", "lock_waits_total"):
        assert f"maitred_{name} 0.0" in text
    assert "maitred_store_batch_commits_bucket" in text
