"""How commands reach a running server."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from maitred.server.config import SettingsError

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")

DEFAULT_ADDRESS = "127.0.0.1:50051"

M = TypeVar("M", bound=Message)


class Connection:
    """A channel and what every call on it carries."""

    def __init__(self, channel: grpc.aio.Channel, address: str, token: str) -> None:
        self.channel = channel
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def call(self, rpc: str, request: Message, answer: type[M], timeout_s: float = 10) -> M:
        """Make one call; `rpc` is `OrderService/AddItem`.

        Raises: grpc.aio.AioRpcError.
        """
        method: Any = self.channel.unary_unary(
            f"/maitred.v1.{rpc}", type(request).SerializeToString, answer.FromString
        )
        made: M = await method(request, timeout=timeout_s, metadata=self._metadata)
        return made

    def stream(self, rpc: str, request: Message, answer: type[M]) -> AsyncIterator[M]:
        """Open a stream.

        Raises: grpc.aio.AioRpcError, on iteration.
        """
        method: Any = self.channel.unary_stream(
            f"/maitred.v1.{rpc}", type(request).SerializeToString, answer.FromString
        )
        opened: AsyncIterator[M] = method(request, metadata=self._metadata)
        return opened


@asynccontextmanager
async def connect(arguments: argparse.Namespace) -> AsyncIterator[Connection]:
    """Connect as the flags and the environment say."""
    address = arguments.address or os.environ.get("MAITRED_ADDRESS") or DEFAULT_ADDRESS
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
    ]
    ca = arguments.ca or os.environ.get("MAITRED_CA")
    if ca or arguments.tls:
        roots = _read(ca) if ca else None
        credentials = grpc.ssl_channel_credentials(roots)
        channel = grpc.aio.secure_channel(address, credentials, options)
    else:
        channel = grpc.aio.insecure_channel(address, options)
    async with channel:
        yield Connection(channel, address, _token(arguments))


def _token(arguments: argparse.Namespace) -> str:
    if arguments.token_file:
        token, where = _read(arguments.token_file).decode("utf-8", "replace"), "the token file"
    else:
        token, where = os.environ.get("MAITRED_TOKEN", ""), "MAITRED_TOKEN"
    token = token.strip()
    # gRPC would quote it in full while refusing it.
    if token and not _TOKEN.fullmatch(token):
        raise SettingsError(f"{where} holds something else than one token")
    return token


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
