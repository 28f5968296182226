"""Authentication: bearer tokens from a file that contains digests, never the tokens themselves.

A line of the file is one token as JSON: name, role, digest, and where they apply session_id and
expires_at. Names are unique: they tell callers apart, and a request id is answered within one name.
The file is read again when it changes or on SIGHUP. A file that goes or becomes wrong leaves the
tokens of before in force for a few seconds, in which an editor or a mount may put a new one in its
place; after that nobody is let in until it can be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from maitred.server.config import SettingsError
from maitred.server.domain import names
from maitred.server.engine.call import Actor
from maitred.server.errors import Unauthenticated
from maitred.v1.common_pb2 import Binding, Role

_log = structlog.get_logger(__name__)

LOCAL: Final = Actor(name="local", role=Role.ROLE_ADMIN)
"""Whoever reaches a server without tokens: somebody on this machine, with every right."""

ROLES: Final = {
    name.removeprefix("ROLE_").lower(): Role.Value(name)
    for name in Role.keys()  # noqa: SIM118  an enum's wrapper is not iterable
    if name != "ROLE_UNSPECIFIED"
}

DIGEST_BYTES: Final = 32
_PREFIX: Final = "mtd_"
_LOOK_EVERY_S: Final = 1.0
GRACE_S: Final = 5.0
"""How long tokens outlive their file: longer than a replacement takes, too short to rely on."""

_ID_CHARS: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIELDS: Final = frozenset({"name", "role", "digest", "session_id", "expires_at"})

Authorization = Sequence[str | bytes]
"""Every value that a call carries under `authorization`; a transport passes on all of them."""


class Grant(NamedTuple):
    """What a token allows, and until when in seconds since 1970."""

    actor: Actor
    expires_at_s: float | None = None


def _is_id(text: str) -> bool:
    """Whether a session may be called so, by the contract's rule and the domain's."""
    printable = text.isprintable() and " " not in text
    return printable and len(text) <= _ID_CHARS and names.is_visible(text)


def digest(token: str) -> bytes:
    """Digest a token. A plain hash is enough: tokens are 256 random bits."""
    return hashlib.blake2b(token.encode(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class TokenLine:
    """One line of the token file."""

    name: str
    role: Role.ValueType
    digest: bytes
    session_id: str = ""
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not _NAME.fullmatch(self.name) or self.name == "maitred":
            raise ValueError(f"name {self.name!r} is not letters, digits and . _ @ -")
        if (self.role == Role.ROLE_VIEWER) != bool(self.session_id):
            raise ValueError("a viewer is bound to a session_id, and nobody else is")
        if self.session_id and not _is_id(self.session_id):
            raise ValueError(f"session_id {self.session_id!r} is not the id of a session")
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError("digest is not 64 hexadecimal digits")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at has no time zone")

    @classmethod
    def parse(cls, text: str) -> TokenLine:
        """Read a line. Raises: ValueError."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("is not a JSON object")  # noqa: TRY004  of a line, not of an argument
        if unknown := sorted(set(found) - _FIELDS):
            raise ValueError(f"unknown field {unknown[0]}")
        try:
            expires = found.get("expires_at")
            return cls(
                name=str(found["name"]),
                role=ROLES[str(found["role"]).lower()],
                digest=bytes.fromhex(found["digest"]),
                session_id=str(found.get("session_id", "")),
                expires_at=None if expires is None else datetime.fromisoformat(expires),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]!r} is missing or unknown") from None
        except TypeError:
            raise ValueError("a field has the wrong type") from None

    @property
    def actor(self) -> Actor:
        """Who calls with this token."""
        binding = Binding.BINDING_SESSION if self.session_id else Binding.BINDING_UNSPECIFIED
        return Actor(self.name, self.role, binding, self.session_id)

    def __str__(self) -> str:
        """Write the line."""
        out: dict[str, Any] = {
            "name": self.name,
            "role": Role.Name(self.role).removeprefix("ROLE_").lower(),
            "digest": self.digest.hex(),
        }
        if self.session_id:
            out["session_id"] = self.session_id
        if self.expires_at is not None:
            out["expires_at"] = self.expires_at.isoformat()
        return json.dumps(out)


def read_tokens(path: Path) -> dict[bytes, Grant]:
    """Read a token file. Raises: SettingsError, which names the line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise SettingsError(f"token file {path} does not exist; maitred token makes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read token file {path}: {error}") from None
    grants: dict[bytes, Grant] = {}
    named: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            line = TokenLine.parse(text)
        except ValueError as error:
            raise SettingsError(f"token file {path}, line {number}: {error}") from None
        first = named.setdefault(line.name, number)
        if first != number:
            raise SettingsError(
                f"token file {path}, line {number}: the name {line.name} stands in line {first} "
                "already; each token needs a name of its own"
            )
        expires = None if line.expires_at is None else line.expires_at.timestamp()
        grants[line.digest] = Grant(line.actor, expires)
    return grants


def add_token(
    path: Path,
    name: str,
    role: Role.ValueType,
    session_id: str = "",
    expires_at: datetime | None = None,
) -> str:
    """Make a token, append its digest to the file and return it; it is shown nowhere again.

    Raises: SettingsError.
    """
    token = _PREFIX + secrets.token_urlsafe(32)
    try:
        line = TokenLine(name, role, digest(token), session_id, expires_at)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _refuse_taken(path, os.pread(fd, os.fstat(fd).st_size, 0), name)
            size = os.fstat(fd).st_size
            unfinished = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            os.write(fd, f"{chr(10) if unfinished else ''}{line}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise SettingsError(f"cannot write token file {path}: {error.strerror}") from None
    return token


def _refuse_taken(path: Path, data: bytes, name: str) -> None:
    """Look whether a name is free.

    Raises: SettingsError.
    """
    for text in data.decode("utf-8", "replace").splitlines():
        # A line that is wrong in itself is told when the file is loaded.
        with contextlib.suppress(ValueError):
            if TokenLine.parse(text).name == name:
                raise SettingsError(
                    f"token file {path} has a token named {name} already: choose another name, "
                    "or remove that line first"
                )


class Authenticator:
    """Says who makes a call."""

    def __init__(
        self,
        path: Path | None,
        *,
        now_s: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file at once; without one, every caller is local.

        Raises: SettingsError.
        """
        self._path = path
        self._now_s = now_s
        self._monotonic = monotonic
        self._seen: tuple[int, ...] = ()
        self._grants: Mapping[bytes, Grant] = {}
        self._look_at = 0.0
        self._broken_at: float | None = None
        self._told = ""
        self.listeners: list[Callable[[], None]] = []
        """Called whenever `closed` has changed."""
        self.closed = False
        """Whether nobody is let in, because the tokens cannot be read."""
        if path is not None:
            self._seen = _stamp(path)
            self._grants = read_tokens(path)
            self._look_at = monotonic() + _LOOK_EVERY_S
            if path.stat().st_mode & 0o077:
                _log.warning("token file is readable by others; chmod 600 it", path=str(path))

    @property
    def is_open(self) -> bool:
        """Whether callers need no token."""
        return self._path is None

    def authenticate(self, authorization: Authorization) -> Actor:
        """Find the actor of a call.

        Raises: Unauthenticated.
        """
        if self._path is None:
            return LOCAL
        if self._monotonic() >= self._look_at:
            self.reload_if_changed()
        if not authorization:
            raise Unauthenticated("no token: send metadata `authorization: Bearer TOKEN`")
        if len(authorization) > 1:
            # A proxy may have looked at the other one.
            raise Unauthenticated("`authorization` stands twice in the metadata")
        return self._actor(authorization[0])

    def _actor(self, header: str | bytes) -> Actor:
        text = header if isinstance(header, str) else header.decode("utf-8", "replace")
        scheme, _, token = text.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("`authorization` is not of the form `Bearer TOKEN`")
        if self.closed:
            raise Unauthenticated(
                "the server cannot read its tokens; nobody is let in until it can"
            )
        # Looked up by digest: how long that takes tells nothing about the tokens there are.
        grant = self._grants.get(digest(token.strip()))
        if grant is None:
            raise Unauthenticated("the token is not known")
        if grant.expires_at_s is not None and grant.expires_at_s <= self._now_s():
            raise Unauthenticated("the token has expired")
        return grant.actor

    def reload_if_changed(self) -> None:
        """Read the file again if it is another one than last time, or could not be read then."""
        assert self._path is not None
        self._look_at = self._monotonic() + _LOOK_EVERY_S
        stamp = _stamp(self._path)
        if stamp != self._seen or self._broken_at is not None:
            self._seen = stamp
            self.reload()

    def reload(self) -> None:
        """Read the file again; what is wrong with it goes to the log."""
        if self._path is None:
            return
        try:
            self._grants = read_tokens(self._path)
        except SettingsError as error:
            self._is_broken(str(error))
            return
        self._broken_at, self._told = None, ""
        _log.info("tokens reloaded", count=len(self._grants))
        self._set_closed(closed=False)

    def _is_broken(self, problem: str) -> None:
        now = self._monotonic()
        if self._broken_at is None:
            self._broken_at = now
        if problem != self._told:
            self._told = problem
            _log.error("tokens cannot be read", problem=problem, nobody_let_in_after_s=GRACE_S)
        if now - self._broken_at >= GRACE_S:
            self._set_closed(closed=True)

    def _set_closed(self, *, closed: bool) -> None:
        if closed == self.closed:
            return
        self.closed = closed
        if closed:
            _log.error("nobody is let in: the tokens cannot be read", problem=self._told)
        for listener in self.listeners:
            listener()


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def parse_expiry(text: str) -> datetime:
    """Read an expiry: `30d`, `12h`, `90m` from now, or a time in ISO 8601.

    Raises: ValueError.
    """
    if match := re.fullmatch(r"(\d{1,6})([dhm])", text):
        seconds = int(match[1]) * {"d": 86400, "h": 3600, "m": 60}[match[2]]
        return datetime.fromtimestamp(time.time() + seconds, UTC)
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
