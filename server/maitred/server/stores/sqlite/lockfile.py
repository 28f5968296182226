"""One server per database: `flock` on a sidecar file, and on the database itself.

The sidecar names the holder, and stands while the database is replaced. The file itself is locked
too, because it may be reached by another path, where another sidecar would be found: only its inode
is the same everywhere. Closing any handle on a file drops the locks that SQLite holds on it, so
that one handle is opened before SQLite's and closed after them, and never a second one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import sys
from pathlib import Path
from typing import Final

from maitred.server.stores.base import StoreError, StoreLocked, StoreUnavailable

_SIDECAR_BYTES: Final = 1000
_RUNS: Final = re.compile(r"^runs((?: [0-9a-f]{32}| -)+)$", re.MULTILINE)

_held: set[tuple[int, int]] = set()
"""The databases that this process has locked, by device and inode."""


def sidecar(database: Path) -> Path:
    """Return the file beside a database by which it is locked."""
    return database.with_name(database.name + ".lock")


class LockFile:
    """An exclusive lock that the kernel releases with the process, however it ends.

    The sidecar stays behind: to delete it would let two servers lock two different files. It also
    keeps the runs that the database may be found at; see `identity.py`.
    """

    def __init__(self, database: Path) -> None:
        """Prepare; `database` is its real path, without symbolic links."""
        self._database = database
        self._path = sidecar(database)
        self._fd: int | None = None
        self._inode_fd: int | None = None
        self._inode: tuple[int, int] | None = None
        self._made = False

    def acquire(self) -> None:
        """Take the lock, making the file where there is none.

        Raises: StoreLocked, which names the holder; StoreUnavailable; StoreError where the file has
        several names.
        """
        self._fd = self._open_sidecar(os.O_RDWR | os.O_CREAT)
        try:
            self._lock(self._fd, fcntl.LOCK_EX)
            self._lock_inode(fcntl.LOCK_EX, create=True)
        except BaseException:
            self.release()
            raise
        self._sign()

    def acquire_shared(self) -> None:
        """Keep servers away while one only reads; makes no file.

        Raises: StoreLocked, which names the holder; StoreUnavailable.
        """
        try:
            # Where there is none there was never a server, or the medium was copied without it.
            if self._path.exists():
                self._fd = self._open_sidecar(os.O_RDONLY)
                self._lock(self._fd, fcntl.LOCK_SH)
            self._lock_inode(fcntl.LOCK_SH, create=False)
        except BaseException:
            self.release()
            raise

    def runs(self) -> tuple[str, ...]:
        """Read which runs the database may be found at; empty where that is not known."""
        if self._fd is None:
            return ()
        text = os.pread(self._fd, _SIDECAR_BYTES, 0).decode("utf-8", "replace")
        found = _RUNS.search(text)
        return tuple(found[1].split()) if found else ()

    def write_runs(self, *runs: str) -> None:
        """Keep which runs the database may be found at; durable on return. Raises: OSError."""
        assert self._fd is not None
        text = f"{self._holder()}runs {' '.join(runs)}\n".encode()
        # Never shorter for a moment: what is torn reads as nothing known.
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))
        os.fsync(self._fd)

    def _open_sidecar(self, flags: int) -> int:
        try:
            return os.open(self._path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            verb = "write" if flags & os.O_RDWR else "read"
            raise StoreUnavailable(
                f"cannot {verb} {self._path}: {os.strerror(error.errno or 0)}"
            ) from error

    def _lock(self, fd: int, mode: int) -> None:
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.pread(fd, _SIDECAR_BYTES, 0).decode("utf-8", "replace")
            holder = text.partition("\n")[0].strip()
            raise StoreLocked(
                f"{self._database} is already open in {holder or 'another process'}"
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"cannot lock {self._path}: {os.strerror(error.errno or 0)}"
            ) from error

    def _lock_inode(self, mode: int, *, create: bool) -> None:
        """Lock the database itself, by whatever path it was reached."""
        try:
            found = self._database.stat()
        except FileNotFoundError:
            if not create:
                raise StoreUnavailable(f"there is no database {self._database}") from None
            found = self._make()
        if found.st_nlink > 1:
            raise StoreError(
                f"{self._database} has {found.st_nlink} names (hard links): SQLite would keep a log"
                " for each and lose what is in the other; remove all but one"
            )
        inode = (found.st_dev, found.st_ino)
        exclusive = mode == fcntl.LOCK_EX
        if inode in _held:
            # Not even opened: closing that handle would drop the locks of the one who has it.
            raise StoreLocked(f"{self._database} is already open in process {os.getpid()}")
        try:
            fd = os.open(self._database, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot read {self._database}: {os.strerror(error.errno or 0)}"
            ) from error
        self._inode_fd = fd
        if sys.platform == "linux":
            # Elsewhere such a lock and SQLite's own would stand in each other's way.
            try:
                fcntl.flock(fd, mode | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreLocked(
                    f"{self._database} is already open, under another name, in"
                    f" {_flock_holder(inode[1])}"
                ) from error
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
        if exclusive:
            _held.add(inode)
            self._inode = inode

    def _make(self) -> os.stat_result:
        """Make an empty database, so that there is something to lock."""
        try:
            fd = os.open(self._database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot write {self._database}: {os.strerror(error.errno or 0)}"
            ) from error
        self._made = True
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _sign(self) -> None:
        try:
            # The runs stay until they are written anew.
            runs = self.runs()
            text = self._holder() + (f"runs {' '.join(runs)}\n" if runs else "")
            assert self._fd is not None
            os.pwrite(self._fd, text.encode(), 0)
            os.ftruncate(self._fd, len(text.encode()))
        except OSError:
            # The name is for people; a full disk must not keep a server from starting to read.
            return

    @staticmethod
    def _holder() -> str:
        return f"process {os.getpid()} on {socket.gethostname()}\n"

    def release(self, *, failed: bool = False) -> None:
        """Give the lock back; does nothing where it is not held.

        A file that was made for a start that `failed` goes again, if nothing came into it.
        """
        made = failed and self._made and self._inode_fd is not None
        if made and self._database.stat().st_size == 0:
            self._database.unlink(missing_ok=True)
        self._made = False
        if self._inode is not None:
            _held.discard(self._inode)
            self._inode = None
        for fd in (self._inode_fd, self._fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._inode_fd = None


def _flock_holder(inode: int) -> str:
    """Name who has locked a file, as far as the kernel tells."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return "another process"
    for fields in map(str.split, lines):
        # "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; those who wait have an arrow in it.
        if fields[1:2] == ["FLOCK"] and fields[5].rpartition(":")[2] == str(inode):
            return f"process {fields[4]}"
    return "another process"
