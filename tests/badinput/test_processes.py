"""What keeps a server from starting is one line; where it cannot write, it goes on reading."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from tests.support.bar import new_guest, session, turn
from tests.support.wire import Failure, Wire, wired

from maitred.server.stores.sqlite.connection import APPLICATION_ID
from maitred.v1 import session_pb2

START_S = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="mtd-") as name:
        yield Path(name)


def environment() -> dict[str, str]:
    """Answer the environment of a person, without what the tests set for themselves."""
    return {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}


def command(data: Path | str, *options: str) -> list[str]:
    """Write the command that serves some data, on no port unless the options name one."""
    return [
        sys.executable,
        *("-m", "maitred.server", "serve", "--listen", "127.0.0.1:0"),
        *("--data", f"sqlite:{data}", "--log-level", "warning", "--grace-s", "0"),
        *options,
    ]


async def start_fails(data: Path | str, *options: str) -> str:
    """Start a server that cannot, and answer the one line that it says."""
    process = await asyncio.create_subprocess_exec(
        *command(data, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(START_S):
            _, said = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    lines = said.decode().splitlines()

    assert process.returncode not in {0, None}
    assert len(lines) == 1, lines
    assert lines[0].startswith("maitred: ")
    assert "Traceback" not in lines[0]
    return lines[0]


@asynccontextmanager
async def serving(data: Path, socket: Path, *options: str) -> AsyncIterator[Wire]:
    """Run `maitred serve` on a socket, until it answers."""
    process = await asyncio.create_subprocess_exec(
        *command(data, "--unix-socket", str(socket), *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        ) as channel:
            async with asyncio.timeout(START_S):
                await channel.channel_ready()
            yield Wire(channel)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(START_S):
            status = await process.wait()
    assert status == 0


async def test_a_second_server_on_the_same_file(folder: Path) -> None:
    """The one that comes second names the file and who has it; the first one goes on."""
    data = folder / "maitred.db"
    async with serving(data, folder / "s") as wire:
        line = await start_fails(data)
        guest = await new_guest(wire)

        assert "maitred.db is already open in process" in line
        assert (await session(wire, guest)).version == 1
    async with serving(data, folder / "s") as wire:
        assert (await session(wire, guest)).version == 1


@pytest.mark.parametrize("path", ["/proc/maitred.db", "/dev/null/maitred.db", "/dev/null"])
async def test_a_path_that_cannot_be_written(path: str) -> None:
    """The line names the path."""
    line = await start_fails(path)

    assert path in line


async def test_a_folder_is_no_database(folder: Path) -> None:
    """The line names the path."""
    assert str(folder) in await start_fails(folder)


async def test_a_newer_schema(folder: Path) -> None:
    """Data of a newer server is left alone, byte for byte."""
    data = folder / "maitred.db"
    async with serving(data, folder / "s") as wire:
        await new_guest(wire)
    raw = sqlite3.connect(data)
    raw.execute("PRAGMA user_version = 9999")
    raw.close()
    before = data.read_bytes()
    line = await start_fails(data)

    assert "schema 9999" in line
    assert "newer" in line
    assert data.read_bytes() == before


async def test_a_file_of_another_program(folder: Path) -> None:
    """A database that is not maitred's, or none at all, is refused and not touched."""
    other = folder / "other.db"
    raw = sqlite3.connect(other)
    raw.execute(f"PRAGMA application_id = {APPLICATION_ID + 1}")
    raw.execute("CREATE TABLE mine (x)")
    raw.close()
    text = folder / "letter.txt"
    text.write_text("Dear maitred,\n" * 1000)
    before = other.read_bytes(), text.read_bytes()

    assert "other.db" in await start_fails(other)
    assert "letter.txt" in await start_fails(text)
    assert (other.read_bytes(), text.read_bytes()) == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--no-such-option", "1"), "no-such-option"),
        (("--idle-seconds", "soon"), "idle"),
        (("--idle-seconds", "-5"), "idle"),
        (("--listen", "nowhere"), "listen"),
        (("--tokens", "/no/such/tokens"), "/no/such/tokens"),
        (("--config", "/no/such/file.toml"), "/no/such/file.toml"),
    ],
)
async def test_a_setting_that_is_wrong(folder: Path, options: tuple[str, ...], word: str) -> None:
    """A flag that nobody knows, or a value that cannot be, is named."""
    process = await asyncio.create_subprocess_exec(
        *command(folder / "maitred.db", *options), stderr=subprocess.PIPE, env=environment()
    )
    async with asyncio.timeout(START_S):
        _, said = await process.communicate()

    assert process.returncode == 2
    assert word in said.decode().splitlines()[-1]
    assert "Traceback" not in said.decode()


async def test_a_port_that_is_taken(folder: Path) -> None:
    """Two servers never share a port."""
    async with wired() as (server, _wire):
        line = await start_fails(folder / "maitred.db", "--listen", server.address)

    assert server.address in line


async def fill_up(wire: Wire, guest: str) -> tuple[int, Failure]:
    """Write until there is no room; answers the last version and the refusal."""
    for at in range(5000):
        reply = await wire.outcome(
            "ConversationService/RecordTurn", turn(guest, "x" * 16_000, request_id=str(at))
        )
        if isinstance(reply, Failure):
            return at + 1, reply
    raise AssertionError("there was room for everything")


async def test_a_database_at_its_bound(folder: Path) -> None:
    """Beyond store_max_bytes writes are refused and reads go on; a higher bound gives room."""
    data = folder / "maitred.db"
    async with wired(
        data=f"sqlite:{data}", store_max_bytes=2_000_000, simulated_dir=str(folder)
    ) as (_server, wire):
        guest = await new_guest(wire)
        version, refused = await fill_up(wire, guest)
        again = await wire.fails(
            "ConversationService/RecordTurn", turn(guest, "x" * 16_000, request_id="again")
        )
        replayed = await wire(
            "ConversationService/RecordTurn", turn(guest, "x" * 16_000, request_id="0")
        )
        found = await session(wire, guest)

        assert {(each.status, each.reason) for each in (refused, again)} == {
            ("RESOURCE_EXHAUSTED", "STORE_FULL")
        }
        assert found.version == version
        assert replayed.replayed
    async with wired(data=f"sqlite:{data}", simulated_dir=str(folder)) as (_server, wire):
        reply = await wire(
            "ConversationService/RecordTurn", turn(guest, "x" * 16_000, request_id="again")
        )

        assert reply.event.version == version + 1
        assert not reply.replayed


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    disk = folder / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("no mount on this machine")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield disk
    finally:
        subprocess.run([umount, str(disk)], check=True)


async def test_a_disk_that_is_full(folder: Path, small_disk: Path) -> None:
    """While the disk is full reads go on; when there is room again writes do, without a restart."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 2_000_000)
    options = ("--simulated-dir", str(folder))
    async with serving(small_disk / "maitred.db", folder / "s", *options) as wire:
        guest = await new_guest(wire)
        version, refused = await fill_up(wire, guest)
        found = await session(wire, guest)
        listed = await wire(
            "SessionService/ListEvents", session_pb2.ListEventsRequest(session_id=guest)
        )
        ballast.unlink()
        request = turn(guest, "x" * 16_000, request_id="again")
        reply = await wire.outcome("ConversationService/RecordTurn", request)

        assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
        assert found.version == version
        assert listed.events
        assert not isinstance(reply, Failure), reply
        assert reply.event.version == version + 1
