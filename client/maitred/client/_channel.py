"""How to reach a server: addresses, TLS, keepalive and gRPC's automatic retries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc

from maitred.client._methods import CALLS
from maitred.client.errors import MaitredError

_KEEPALIVE_S = 30
"""Above the pace of pings that the server allows, 10 s."""
_PING_TIMEOUT_S = 10
_LISTS = ("ipv4:", "ipv6:")
"""Targets in which a comma stands between addresses of one channel."""
_SCHEMES = (*_LISTS, "dns:", "unix:", "unix-abstract:", "vsock:", "xds:")
_MAX_RECEIVE_BYTES = 64 * 1024 * 1024
"""As much as the server sends at most."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How to check the server, and how to show who calls; all PEM, all optional."""

    root_certificates: bytes | None = None
    """Authorities to trust; those of gRPC where unset."""
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None
    server_name: str = ""
    """Name in the server's certificate, where it is not the one in the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Make what gRPC wants."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.root_certificates,
            private_key=self.private_key,
            certificate_chain=self.certificate_chain,
        )


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how fast a call that found no server is made again.

    Safe, since every mutation carries a request id.
    """

    attempts: int = 5
    """In all, the first one included; 1 means none again. gRPC makes at most 5. Of several servers
    each is asked so often, with no wait between one and the next."""
    first_wait: float = 0.1
    """Seconds before the second attempt, or round; each further one waits twice as long."""
    longest_wait: float = 2.0


DEFAULT_RETRIES = Retries()
NO_RETRIES = Retries(attempts=1)


class ChannelPlan(NamedTuple):
    """What to make a channel of."""

    target: str
    options: list[tuple[str, str | int]]


def targets_of(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """List the gRPC target of each address; a string may hold several, with commas between.

    Raises: ValueError.
    """
    listed: Sequence[str] = addresses if not isinstance(addresses, str) else (addresses,)
    if isinstance(addresses, str) and not addresses.startswith(_LISTS):
        listed = addresses.split(",")
    targets = tuple(dict.fromkeys(address.strip() for address in listed))
    if not targets or not all(targets):
        raise ValueError("no address")
    if len(targets) > 1:
        for target in targets:
            _check(target)
    return targets


def _check(target: str) -> None:
    """Refuse what gRPC would misread as another port, a host of commas or a part of an IPv6."""
    if target.startswith(_SCHEMES):
        return
    host, _, port = target.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isdecimal() or (":" in host and not is_bracketed):
        raise ValueError(f"{target!r} is not HOST:PORT")


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """Write a token as metadata.

    Raises: ValueError.
    """
    if not token:
        return ()
    # gRPC would quote it in full while refusing it.
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token holds something that cannot be sent: is a line break in it?")
    return (("authorization", f"Bearer {token}"),)


def closed() -> MaitredError:
    """What a call of a closed client meets; no attempt would help."""
    return MaitredError("the client is closed", status=grpc.StatusCode.FAILED_PRECONDITION)


def silent(seconds: float | None) -> MaitredError:
    """What a stream of which nothing came for so long ends with."""
    return MaitredError(
        f"nothing came for {seconds or 0.0:g} s", status=grpc.StatusCode.UNAVAILABLE
    )


def channels_of(
    addresses: str | Sequence[str], retries: Retries, tls: TLS | None
) -> list[ChannelPlan]:
    """Plan one channel for each address, in which TLS expects the name in that address.

    Raises: ValueError.
    """
    targets = targets_of(addresses)
    are_several = len(targets) > 1
    # Of several, a channel does not retry: its calls are made again at another server.
    return [
        ChannelPlan(
            target,
            channel_options(
                NO_RETRIES if are_several else retries,
                tls,
                asks_health=are_several or target.startswith("dns:"),
            ),
        )
        for target in targets
    ]


def channel_options(
    retries: Retries, tls: TLS | None, *, asks_health: bool
) -> list[tuple[str, str | int]]:
    """List the options of a channel."""
    # All addresses of a name are used; with one it makes no difference.
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if asks_health:
        # A server that says NOT_SERVING counts as down. The stream also keeps the pings going, so
        # that a dead server is noticed before it is called.
        config["healthCheckConfig"] = {"serviceName": ""}
    if retries.attempts > 1:
        config["methodConfig"] = [
            {
                # Not the streams: a watch connects anew by itself, and knows from where.
                "name": [{"service": service, "method": method} for service, method in CALLS],
                "retryPolicy": {
                    "maxAttempts": retries.attempts,
                    "initialBackoff": f"{retries.first_wait:g}s",
                    "maxBackoff": f"{retries.longest_wait:g}s",
                    "backoffMultiplier": 2,
                    # CANCELLED comes of a server that begins to drain; who cancels retries nothing.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", _KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_S * 1000),
        # Without it a dead connection lives for a minute, whatever the keepalive timeout says.
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_S * 1000),
        ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
        # A server that restarts is found again at once, not after the default of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
