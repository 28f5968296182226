"""A peer that speaks just enough HTTP/2 to do to a gRPC server what no client library would."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
EMPTY_MESSAGE = b"\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + _number(stream) + payload


def _number(stream: int) -> bytes:
    return struct.pack(">I", stream)


def head(path: str, *more: tuple[str, str]) -> bytes:
    """Write the headers of a call, none of them compressed."""
    pairs = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    )
    return b"".join(
        b"\x00" + b"".join(bytes((len(part),)) + part.encode() for part in pair) for pair in pairs
    )


class Peer:
    """A connection that opens streams as it likes and throws away what comes back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._next = 1
        self.ended: set[int] = set()
        """Streams that the server has ended."""
        self.came = asyncio.Event()
        """Set whenever another one has."""
        self.reading = asyncio.create_task(self._read(reader))

    async def open(self, header: bytes, count: int, after: bytes = b"", kind: int = 0) -> None:
        """Open streams, and send one frame more on each where one is given."""
        out = bytearray()
        for _ in range(count):
            out += frame(HEADERS, END_HEADERS, self._next, header)
            if after:
                out += frame(kind, END_STREAM if kind == DATA else 0, self._next, after)
            self._next += 2
        self._writer.write(out)
        await self._writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                start = await reader.readexactly(9)
                size = int.from_bytes(start[:3], "big")
                kind, flags, stream = start[3], start[4], int.from_bytes(start[5:], "big")
                await reader.readexactly(size)
                if kind == SETTINGS and not flags:
                    self._writer.write(frame(SETTINGS, 1, 0))
                if kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                    self.ended.add(stream)
                    self.came.set()
                    self.came.clear()

    async def wait_for(self, streams: int) -> None:
        """Wait until the server has ended so many."""
        while len(self.ended) < streams:
            await self.came.wait()

    async def close(self) -> None:
        """Go away."""
        self._writer.close()
        self.reading.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self.reading
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Peer]:
    """Connect and say hello."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    peer = Peer(reader, writer)
    try:
        yield peer
    finally:
        await peer.close()
