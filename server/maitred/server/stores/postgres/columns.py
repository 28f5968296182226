"""Arrays as parameters: one for each column of what a statement takes in.

The driver's own lists take their type from their values, so that a statement would be prepared
anew for each mixture, and are written element by element. These have one type each and are put
together before anything is sent, so that a value that does not fit spoils no transaction.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_BIGINT = struct.Struct("!iq")
_NULL = _LENGTH.pack(-1)
_BIGINT_OID, _TEXT_OID, _BYTEA_OID = 20, 25, 17


class Column:
    """An array in the binary form of the wire protocol."""

    __slots__ = ("payload",)

    def __init__(self, oid: int, count: int, cells: list[bytes], *, nulls: bool) -> None:
        head = _HEADER.pack(1, nulls, oid, count, 1) if count else struct.pack("!iiI", 0, 0, oid)
        self.payload = b"".join((head, *cells))


class Bigints(Column):
    """An array of bigint. Raises: struct.error for what 64 bits cannot hold."""

    __slots__ = ()

    def __init__(self, values: Sequence[int | None]) -> None:
        pack = _BIGINT.pack
        cells = [_NULL if value is None else pack(8, value) for value in values]
        super().__init__(_BIGINT_OID, len(cells), cells, nulls=None in values)


class Blobs(Column):
    """An array of bytea."""

    __slots__ = ()

    def __init__(self, values: Sequence[bytes | None], *, oid: int = _BYTEA_OID) -> None:
        pack = _LENGTH.pack
        cells: list[bytes] = []
        nulls = False
        for value in values:
            if value is None:
                nulls = True
                cells.append(_NULL)
            else:
                cells += (pack(len(value)), value)
        super().__init__(oid, len(values), cells, nulls=nulls)


class Texts(Blobs):
    """An array of text. Raises: UnicodeEncodeError for a lone surrogate."""

    __slots__ = ()

    def __init__(self, values: Sequence[str | None]) -> None:
        super().__init__([None if v is None else v.encode() for v in values], oid=_TEXT_OID)


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        return obj.payload


class _BigintsDumper(_ColumnDumper):
    oid = 1016


class _BlobsDumper(_ColumnDumper):
    oid = 1001


class _TextsDumper(_ColumnDumper):
    oid = 1009


def register(connection: AsyncConnection) -> None:
    """Let a connection take columns as parameters."""
    connection.adapters.register_dumper(Bigints, _BigintsDumper)
    connection.adapters.register_dumper(Blobs, _BlobsDumper)
    connection.adapters.register_dumper(Texts, _TextsDumper)
