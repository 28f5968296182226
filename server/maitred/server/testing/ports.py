"""Ports for servers that are started again."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Find a port below those that outgoing connections get, so that it is free after a restart."""
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
