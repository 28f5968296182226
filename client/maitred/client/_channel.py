"""How to reach a server: addresses, TLS, keepalive and the retries that gRPC does by itself."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from maitred.client._methods import CALLS
from maitred.client.errors import MaitredError

_KEEPALIVE_S = 30
"""Above the pace of pings that the server allows, 10 s."""
_PING_TIMEOUT_S = 10
_MAX_RECEIVE_BYTES = 64 * 1024 * 1024
"""As much as the server sends at most."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How to check the server, and how to show who calls; all PEM, all optional."""

    root_certificates: bytes | None = None
    """Authorities to trust; those of gRPC where unset."""
    private_key: bytes | None = None
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
    """In all, the first one included; 1 means none again. gRPC makes at most 5."""
    first_wait: float = 0.1
    """Seconds before the second attempt; each further one waits twice as long."""
    longest_wait: float = 2.0


DEFAULT_RETRIES = Retries()


def target_of(addresses: str | Sequence[str]) -> str:
    """Make one gRPC target of one or several addresses."""
    listed = [addresses] if isinstance(addresses, str) else list(addresses)
    if not listed:
        raise ValueError("no address")
    if len(listed) == 1:
        return listed[0]
    versions = {ipaddress.ip_address(_host(address)).version for address in listed}
    if len(versions) > 1:
        raise ValueError("several addresses are all IPv4 or all IPv6")
    return f"ipv{versions.pop()}:" + ",".join(listed)


def closed() -> MaitredError:
    """What a call of a closed client meets; no attempt would help."""
    return MaitredError("the client is closed", status=grpc.StatusCode.FAILED_PRECONDITION)


def _host(address: str) -> str:
    host, colon, _port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]")


def channel_options(retries: Retries, tls: TLS | None) -> list[tuple[str, str | int]]:
    """List the options of a channel."""
    # Several addresses are all used; with one it makes no difference.
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
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
                    "retryableStatusCodes": ["UNAVAILABLE"],
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
