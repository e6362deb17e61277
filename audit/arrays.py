"""Arrays as PostgreSQL takes them in binary, each packed in one go.

The driver packs any list, and looks at each element several times to find out of what
it is. The log knows: texts, bytes or numbers, in one dimension.

SOURCE: PostgreSQL, `src/backend/utils/adt/arrayfuncs.c`, `array_recv`: dimensions,
whether there may be NULLs, type of the elements, length and first index; then each
element after its size in bytes, -1 for NULL.
"""

from collections.abc import Sequence
from struct import Struct, pack
from typing import Final

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format
from typing_extensions import override

from audit.sql import Row

_HEAD: Final = Struct("!5I").pack
_SIZE: Final = Struct("!I").pack
_NULL: Final = b"\xff\xff\xff\xff"
_TEXT, _BYTEA, _INT8 = 25, 17, 20
"""Types of elements, as `pg_type` numbers them."""


class _Packed(bytes):
    """An array that is packed already."""

    __slots__ = ()


class Texts(_Packed):
    """An array `text[]`."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Sequence[str | None]) -> "Texts":
        """Pack texts; None is NULL."""
        parts = [_HEAD(1, 1, _TEXT, len(values), 1)]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                data = value.encode()
                parts += _SIZE(len(data)), data
        return cls(b"".join(parts))


class Blobs(_Packed):
    """An array `bytea[]`."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Sequence[bytes]) -> "Blobs":
        """Pack bytes."""
        parts = [_HEAD(1, 0, _BYTEA, len(values), 1)]
        for value in values:
            parts += _SIZE(len(value)), value
        return cls(b"".join(parts))


class Numbers(_Packed):
    """An array `bigint[]`."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Sequence[int]) -> "Numbers":
        """Pack integers of 64 bits."""
        sized = [part for value in values for part in (8, value)]
        elements = pack("!" + "Iq" * len(values), *sized)
        return cls(_HEAD(1, 0, _INT8, len(values), 1) + elements)


class _AsItIs(Dumper):
    """Sends what is packed."""

    format = Format.BINARY

    @override
    def dump(self, obj: _Packed) -> Buffer:
        return obj


class _TextsDumper(_AsItIs):
    oid = 1009


class _BlobsDumper(_AsItIs):
    oid = 1001


class _NumbersDumper(_AsItIs):
    oid = 1016


def take_packed(connection: psycopg.Connection[Row]) -> None:
    """Have a connection take packed arrays."""
    connection.adapters.register_dumper(Texts, _TextsDumper)
    connection.adapters.register_dumper(Blobs, _BlobsDumper)
    connection.adapters.register_dumper(Numbers, _NumbersDumper)
