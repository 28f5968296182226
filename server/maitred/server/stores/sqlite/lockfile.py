"""One server per database: `flock` on a sidecar file.

Not on the database itself: closing any handle on that file drops the locks that SQLite holds.
"""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

from maitred.server.stores.base import StoreLocked, StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

_HOLDER_BYTES = 200


class LockFile:
    """An exclusive lock that the kernel releases with the process, however it ends.

    The file stays behind: to delete it would let two servers lock two different files.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises: StoreLocked, which names the holder; StoreUnavailable."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot write {self._path}: {os.strerror(error.errno or 0)}"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, _HOLDER_BYTES).decode("utf-8", "replace").strip()
            os.close(fd)
            raise StoreLocked(
                f"{self._database} is already open in {holder or 'another process'}"
            ) from error
        except OSError as error:
            os.close(fd)
            raise StoreUnavailable(
                f"cannot lock {self._path}: {os.strerror(error.errno or 0)}"
            ) from error
        self._fd = fd
        self._sign(fd)

    def _sign(self, fd: int) -> None:
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:
            # The name is for people; a full disk must not keep a server from starting to read.
            return

    def release(self) -> None:
        """Give the lock back; does nothing where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
