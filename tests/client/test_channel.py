"""How a client reaches its server, and what it does when that is slow or gone."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import grpc
import pytest

from maitred.client import (
    TLS,
    AsyncClient,
    Client,
    MaitredError,
    Money,
    Retries,
    Unauthenticated,
    Unsupported,
    format_money,
)
from maitred.client._channel import channel_options, channels_of, targets_of
from maitred.client._methods import CALLS
from maitred.server.app.server import Server
from maitred.server.config import Settings
from maitred.server.testing.proxy import Proxy
from maitred.server.testing.servers import running_server


@pytest.mark.parametrize(
    ("addresses", "targets"),
    [
        ("localhost:50051", ["localhost:50051"]),
        ("unix:/run/maitred.sock", ["unix:/run/maitred.sock"]),
        (["dns:///maitred:50051"], ["dns:///maitred:50051"]),
        ("a:1, b.example:2,[::1]:3", ["a:1", "b.example:2", "[::1]:3"]),
        (["10.0.0.1:1", "[::1]:1", "unix:/m"], ["10.0.0.1:1", "[::1]:1", "unix:/m"]),
        ("a:1,dns:///b:2,a:1", ["a:1", "dns:///b:2"]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", ["ipv4:10.0.0.1:1,10.0.0.2:2"]),
    ],
)
def test_each_address_becomes_a_target(addresses: str | list[str], targets: list[str]) -> None:
    """Addresses come as a string with commas or as a sequence, of any kind, each counted once."""
    assert list(targets_of(addresses)) == targets


@pytest.mark.parametrize(
    "addresses",
    [[], "", "a:1,", ["a:1", "b"], "a:1,::1:2", "a:1,b:http", ["a:1", "b:1,c:1"], "a:1,:2"],
)
def test_addresses_that_grpc_would_misread_are_refused(addresses: str | list[str]) -> None:
    """What gRPC would take for something else is refused when the client is made."""
    with pytest.raises(ValueError, match=r"no address|is not HOST:PORT"):
        targets_of(addresses)


def test_only_calls_with_one_answer_are_retried_by_grpc() -> None:
    """A watch knows better than gRPC where it was; all else is retried if the server went away."""
    (config,) = [
        json.loads(str(value))
        for name, value in channel_options(Retries(), None, asks_health=False)
        if name == "grpc.service_config"
    ]
    (retried,) = config["methodConfig"]
    names = {(each["service"], each["method"]) for each in retried["name"]}

    assert names == set(CALLS)
    assert not [method for _, method in names if method.startswith("Watch")]
    assert retried["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]


def test_a_lone_server_is_called_as_ever() -> None:
    """Only several servers cost a health stream each, and only their retries are not gRPC's."""

    def config(addresses: str) -> list[dict[str, object]]:
        return [
            json.loads(str(dict(plan.options)["grpc.service_config"]))
            for plan in channels_of(addresses, Retries(), None)
        ]

    alone, several, named = config("a:1"), config("a:1,b:1"), config("dns:///a:1")

    assert [set(each) for each in alone] == [{"loadBalancingConfig", "methodConfig"}]
    assert [set(each) for each in several] == [{"loadBalancingConfig", "healthCheckConfig"}] * 2
    assert [set(each) for each in named] == [{"healthCheckConfig", *alone[0]}]


def test_keepalive_is_slower_than_servers_allow() -> None:
    """A client that pinged faster would be sent away with "too many pings"."""
    options = dict(channel_options(Retries(), None, asks_health=False))

    assert int(options["grpc.keepalive_time_ms"]) > Settings().min_ping_interval_s * 1000


async def test_a_server_on_a_unix_socket(tmp_path: Path) -> None:
    """A path is an address like any other, for both clients."""
    socket = tmp_path / "maitred.sock"
    async with (
        running_server(listen="", unix_socket=str(socket)) as running,
        AsyncClient(f"unix:{socket}") as client,
    ):
        info = await client.get_server_info()

        assert info.payments_simulated
        assert running.bound_port == 0


async def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    """The token goes with every call."""
    tokens = tmp_path / "tokens"
    tokens.write_text("", "utf-8")
    async with (
        running_server(tokens=str(tokens)) as running,
        AsyncClient(running.address, token="nobody-issued-this") as client,  # noqa: S106 - made up
    ):
        with pytest.raises(Unauthenticated):
            await client.get_server_info()


async def test_a_timeout_leaves_the_outcome_unknown(server: Server) -> None:
    """Who hears nothing in time does not know what happened, and is told so."""
    async with Proxy(server.address) as proxy, AsyncClient(proxy.address) as client:
        await client.get_server_info()
        proxy.drop_replies = True
        with pytest.raises(MaitredError) as caught:
            await client.with_timeout(0.2).create_session()

    assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.outcome_unknown


async def test_a_closed_client_says_so(server: Server) -> None:
    """After closing, a call fails instead of opening a new connection."""
    client = AsyncClient(server.address)
    await client.aclose()
    with pytest.raises(MaitredError, match="closed"):
        await client.get_server_info()
    blocking = Client(server.address)
    blocking.close()
    with pytest.raises(MaitredError, match="closed"):
        blocking.get_server_info()


async def test_closing_ends_what_runs(server: Server) -> None:
    """Whoever waits for an answer or an item when the client is closed is told so."""
    async with Proxy(server.address) as proxy:
        client = AsyncClient(proxy.address)
        guest = await client.create_session()
        watch = guest.watch()
        await anext(watch)
        item = asyncio.ensure_future(anext(watch))
        proxy.drop_replies = True
        answer = asyncio.create_task(guest.refresh())
        while proxy.swallowed == 0:
            await asyncio.sleep(0.01)
        await client.aclose()
        ended = await asyncio.gather(item, answer, return_exceptions=True)

    assert [str(each) for each in ended] == ["FAILED_PRECONDITION: the client is closed"] * 2


async def test_an_abandoned_watch_ends(server: Server, client: AsyncClient) -> None:
    """A watch that nobody holds any more is not kept open."""
    guest = await client.create_session()
    async for _ in guest.watch():
        break
    blocking = Client(server.address)

    def glance() -> None:
        for _ in blocking.session(guest.session_id).watch():
            break

    await asyncio.to_thread(glance)
    while server.engine.hub.watchers:
        gc.collect()
        await asyncio.sleep(0.01)
    blocking.close()

    assert server.engine.hub.watchers == 0


async def test_a_backup_tells_how_far_it_is(tmp_path: Path, client: AsyncClient) -> None:
    """Progress streams; the last message names the copy. An engine without backups refuses."""
    with pytest.raises(Unsupported):
        [progress async for progress in client.backup()]
    async with (
        running_server(
            data=f"sqlite:{tmp_path / 'm.db'}", backup_dir=str(tmp_path / "backups")
        ) as running,
        AsyncClient(running.address) as durable,
    ):
        await durable.create_session()
        told = [progress async for progress in durable.backup()]

    assert Path(told[-1].path).is_file()
    assert told[-1].events == 1


async def test_the_environment_names_the_server(server: Server) -> None:
    """MAITRED_ADDRESS is what the command line uses, too."""
    async with AsyncClient.from_environment({"MAITRED_ADDRESS": server.address}) as client:
        info = await client.get_server_info()

    assert info.payments_simulated


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(1250, "USD", "12.50 USD"), (-5, "EUR", "-0.05 EUR"), (700, "JPY", "700 JPY"),
     (1500, "KWD", "1.500 KWD"), (10**12, "USD", "10000000000.00 USD")],
)  # fmt: skip
def test_money_is_written_exactly(minor: int, currency: str, text: str) -> None:
    """Amounts for people have the decimals of their currency."""
    assert format_money(Money(minor_units=minor, currency=currency)) == text


@pytest.mark.parametrize("token", ["mtd_secret\n", "mtd_secret\x00", "mtd_sécret"])
async def test_a_token_that_cannot_be_sent_is_not_repeated(token: str) -> None:
    """Metadata that gRPC would quote is refused by the client first, without a word of it."""
    for make in (AsyncClient, Client):
        with pytest.raises(ValueError, match="cannot be sent") as caught:
            make("127.0.0.1:1", token=token)
        assert "mtd_" not in str(caught.value)


def test_a_private_key_is_not_in_the_repr() -> None:
    """What holds a key may be logged."""
    assert "hidden" not in repr(TLS(private_key=b"hidden"))
