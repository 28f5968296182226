"""Listening addresses, and who can connect to them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
import stat
from pathlib import Path
from typing import Final

import grpc

from maitred.server.config import Settings, SettingsError

FILES_KEPT: Final = 192
"""Files that no connection may take: the store's, a backup's, the logs', the provider's sockets."""

MOST_CONNECTIONS: Final = 10_000


def raise_file_limit() -> None:
    """Let this process open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A hard limit that the kernel does not take, as on macOS, leaves the soft one.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_allowed(settings: Settings) -> int:
    """Answer how many connections gRPC may hold, so that files are left for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 10 * MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft
    left = files - FILES_KEPT
    # Each HTTP listener takes a quarter at most.
    left -= files // 4 * (bool(settings.webhook_listen) + bool(settings.metrics_listen))
    return max(16, min(settings.max_connections or MOST_CONNECTIONS, left))


def channel_options(settings: Settings) -> list[tuple[str, int]]:
    """Say to gRPC what must not be left to its defaults."""
    keepalive_timeout_ms = round(settings.keepalive_timeout_s * 1000)
    return [
        # Else a second server on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
        # Else a burst of more than about a thousand new streams is cancelled.
        ("grpc.server.max_pending_requests", settings.max_pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_pending_calls),
        ("grpc.keepalive_time_ms", round(settings.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # This one, and not the timeout above, decides when a dead peer is given up.
        ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            round(settings.min_ping_interval_s * 1000),
        ),
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        # Beyond it gRPC refuses in native code, which costs others little, also where streams are
        # opened and reset as fast as they can be.
        ("grpc.max_concurrent_streams", settings.max_connection_streams),
        # Counted when they are accepted, before a word was said.
        ("grpc.max_allowed_incoming_connections", connections_allowed(settings)),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout_s * 1000)),
        ("grpc.http2.settings_timeout", round(settings.handshake_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", round(settings.connection_idle_s * 1000)),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
    ]


def split_address(address: str, setting: str = "listen") -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets.

    Raises: SettingsError.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (
        not colon
        or not bare
        or not port.isdecimal()
        or int(port) > 65535
        or (":" in host) == (bare == host)
    ):
        raise SettingsError(f"{setting}: {address!r} is not HOST:PORT")
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    host, _port = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse settings that would let in whoever comes, or send tokens in the clear.

    Raises: SettingsError.
    """
    if not settings.listen or is_loopback(settings.listen):
        return
    if not settings.tokens:
        raise SettingsError(
            f"{settings.listen} is reached from other machines, which needs tokens: "
            "make one with maitred token and set --tokens, or listen on 127.0.0.1"
        )
    if not settings.tls_cert and not settings.allow_plaintext:
        raise SettingsError(
            f"tokens would travel unencrypted to {settings.listen}: set --tls-cert and --tls-key, "
            "or --allow-plaintext where something else encrypts"
        )


def bind_tcp(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None
) -> int:
    """Take a TCP address; answers the port.

    Raises: SettingsError where it cannot be had.
    """
    host, port = split_address(address)
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise SettingsError(f"cannot listen on {address}: {_why(host, port)}")
    return bound


def _why(host: str, port: int) -> str:
    """Ask the system what gRPC does not tell."""
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
                probe.listen(1)
    except OSError as error:
        hint = "; is another server running?" if "in use" in str(error) else ""
        return f"{(error.strerror or str(error)).lower()}{hint}"
    return "it was taken a moment ago"


def bind_unix(server: grpc.aio.Server, path: Path) -> None:
    """Take a UNIX socket that only this user can open.

    gRPC would silently take a living server's socket away, so that is looked at first.
    Raises: SettingsError.
    """
    _clear_stale(path)
    before = os.umask(0o177)
    try:
        bound = server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        bound = 0
    finally:
        os.umask(before)
    if not bound:
        raise SettingsError(f"cannot listen on {path}: is its directory there and writable?")


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(f"cannot listen on {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"cannot listen on {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            raise SettingsError(f"cannot listen on {path}: {error.strerror}") from None
    raise SettingsError(
        f"cannot listen on {path}: address already in use; is another server running?"
    )
