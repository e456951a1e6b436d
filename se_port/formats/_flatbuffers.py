"""FlatBuffers: tables whose fields are found by offsets (flatbuffers.dev/internals).

A table begins with the distance to its vtable, which has an offset for each field, or 0 where the field is left out. A
vector is its length and the elements. Google's package reads no file that it does not trust: it follows every offset.
Here each is compared with the file's size. Tables and vectors may be shared, so a small file can describe a large tree;
therefore no more bytes of vectors are read than a few times those of the file.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from ._base import refuse
from ._buffers import decode_name

SHARING = 4
"""How often the bytes of a file may be read, on average, as vectors."""
MIN_BUDGET_BYTES = 1 << 16
MAX_TABLES = 1 << 17
"""Tables of vectors of a file; a network has some thousands."""


class Buffer:
    """The bytes of a file, and how many of them may still be read as vectors.

    Args:
        path: of the file, for errors.
        data: its bytes.
    """

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data = path, data
        self._budget_bytes = max(MIN_BUDGET_BYTES, SHARING * len(data))
        self._tables_left = MAX_TABLES

    @property
    def root(self) -> "Table":
        """The table in which the others are."""
        return Table(self, self.follow(0))

    def number(self, code: str, place: int) -> int:
        """Read a number, by its code of ``struct``."""
        return int(self._unpack(code, place))

    def real(self, code: str, place: int) -> float:
        """Read a floating-point number, by its code of ``struct``."""
        return float(self._unpack(code, place))

    def follow(self, place: int) -> int:
        """Read an offset, and return the position that it is of."""
        target = place + self.number("I", place)
        if not place < target <= len(self.data) - 4:
            self.refuse(f"has an offset at byte {place:,} to byte {target:,}", f"one within {len(self.data):,} bytes")
        return target

    def spend(self, size: int) -> None:
        """Count bytes that are read as a vector."""
        self._budget_bytes -= size
        if self._budget_bytes < 0:
            self.refuse("shares its tables too often", f"vectors of at most {SHARING} times the file's size")

    def count_tables(self, count: int) -> None:
        """Count tables of a vector."""
        self._tables_left -= count
        if self._tables_left < 0:
            self.refuse("has more tables than a network", f"at most {MAX_TABLES:,}")

    def refuse(self, wrong: str, expected: str) -> NoReturn:
        """Raise a ``FileFormatError``."""
        refuse(self.path, wrong, expected)

    def _unpack(self, code: str, place: int) -> int | float:
        if not 0 <= place <= len(self.data) - struct.calcsize("<" + code):
            self.refuse(f"ends before byte {place:,}", "a whole file")
        value: int | float = struct.unpack_from("<" + code, self.data, place)[0]
        return value


class Table:
    """A table at a position of the file; fields are numbered from 0, and a default stands for one that is left out."""

    def __init__(self, buffer: Buffer, place: int) -> None:
        self._buffer, self._place = buffer, place
        self._vtable = place - buffer.number("i", place)
        self._vtable_bytes = buffer.number("H", self._vtable) if self._vtable >= 0 else 0
        if self._vtable_bytes < 4 or self._vtable_bytes % 2 or self._vtable + self._vtable_bytes > len(buffer.data):
            buffer.refuse(f"has a vtable of {self._vtable_bytes:,} bytes at {self._vtable:,}", "one within the file")
        self._table_bytes = buffer.number("H", self._vtable + 2)

    def number(self, field: int, code: str = "i", default: int = 0) -> int:
        """Read an integer, by its code of ``struct``."""
        place = self._find(field)
        return self._buffer.number(code, place) if place else default

    def real(self, field: int, default: float = 0.0) -> float:
        """Read a float32."""
        place = self._find(field)
        return self._buffer.real("f", place) if place else default

    def text(self, field: int) -> str:
        """Read a string; empty if it is left out."""
        data = self.view(field, 1)
        self._buffer.spend(len(data))
        return decode_name(self._buffer.path, data)

    def array(self, field: int, dtype: str) -> np.ndarray:
        """Read a vector of numbers."""
        data = self.view(field, np.dtype(dtype).itemsize)
        self._buffer.spend(len(data))
        return np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)

    def view(self, field: int, itemsize: int) -> memoryview:
        """View the bytes of a vector whose elements have ``itemsize`` bytes."""
        start, count = self._find_vector(field, itemsize)
        return self._buffer.data[start : start + count * itemsize]

    def table(self, field: int) -> "Table | None":
        """Read a table; None if it is left out."""
        place = self._find(field)
        return Table(self._buffer, self._buffer.follow(place)) if place else None

    def tables(self, field: int) -> Iterator["Table"]:
        """Iterate over a vector of tables."""
        start, count = self._find_vector(field, 4)
        self._buffer.spend(4 * count)
        self._buffer.count_tables(count)
        for place in range(start, start + 4 * count, 4):
            yield Table(self._buffer, self._buffer.follow(place))

    def _find(self, field: int) -> int:
        """Find a field's position; 0 if it is left out."""
        entry = 4 + 2 * field
        offset = self._buffer.number("H", self._vtable + entry) if entry + 2 <= self._vtable_bytes else 0
        if offset >= self._table_bytes > 0:
            self._buffer.refuse(f"has a field {offset:,} bytes into a table of {self._table_bytes:,}", "all within it")
        return self._place + offset if offset else 0

    def _find_vector(self, field: int, itemsize: int) -> tuple[int, int]:
        """Find the first element of a vector, and their number."""
        place = self._find(field)
        if not place:
            return 0, 0
        start = self._buffer.follow(place)
        count = self._buffer.number("I", start)
        if count * itemsize > len(self._buffer.data) - start - 4:
            self._buffer.refuse(f"has a vector of {count:,} elements at byte {start:,}", "one within the file")
        return start + 4, count
