"""A cursor over the bytes of a binary file, and protobuf's wire format.

The wire format is that of protobuf.dev/programming-guides/encoding. Groups are refused, as no schema that is read here
has any. Google's protobuf is not used: it copies every tensor out of the file, and needs generated classes of Caffe's,
ONNX's and TensorFlow's schemas, which those frameworks bring.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from se_spec.texts import quote

from ._base import refuse

Value = int | bytes | memoryview
"""Value of a field: an integer for a varint, ``bytes`` for 4 or 8 fixed bytes, a view for bytes with a length."""

VARINT_BYTES = 10
MAX_AXES = 32
MAX_PARTS = 1 << 19
"""Parts of a graph; EfficientNet-B7 has about 100,000."""
PIECE_BYTES = 1 << 18
"""Bytes of varints that are decoded at once."""


class Cursor:
    """A position in bytes that are read one after the other; reading past the end is a ``FileFormatError``."""

    def __init__(self, path: Path, data: memoryview, byte_order: str = "<") -> None:
        self.path, self.data, self.byte_order, self.place = path, data, byte_order, 0

    @property
    def left(self) -> int:
        """Number of bytes that remain."""
        return len(self.data) - self.place

    def read(self, size: int) -> memoryview:
        """Read the next bytes."""
        if size > self.left:
            refuse(self.path, f"ends {size - self.left:,} bytes too early", f"{size:,} bytes after byte {self.place:,}")
        self.place += size
        return self.data[self.place - size : self.place]

    def numbers(self, codes: str) -> tuple[int, ...]:
        """Read the next numbers, by the codes of ``struct``."""
        codes = self.byte_order + codes
        return struct.unpack(codes, self.read(struct.calcsize(codes)))

    def number(self, code: str) -> int:
        """Read the next number, by its code of ``struct``."""
        return self.numbers(code)[0]


def iterate_fields(path: Path, message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield a message's fields in their order, each number with its value.

    Raises:
        FileFormatError: as soon as the bytes are not a message.
    """
    place = 0
    while place < len(message):
        key, place = decode_varint(path, message, place)
        number, kind = key >> 3, key & 7
        if not number or kind not in (0, 1, 2, 5):
            refuse(path, f"has field {number} of wire type {kind}", "fields from 1, of wire types 0, 1, 2 and 5")
        if kind == 0:
            value, place = decode_varint(path, message, place)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, place = decode_varint(path, message, place)
        if size > len(message) - place:
            refuse(path, f"field {number} announces {size:,} bytes", f"at most the {len(message) - place:,} left")
        data = message[place : place + size]
        place += size
        yield number, data if kind == 2 else bytes(data)


class PartCounter:
    """Counts the parts of a graph that are kept in memory: nodes, their inputs and attributes.

    Args:
        path: of the file, for the error.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, MAX_PARTS

    def count(self, parts: int = 1) -> None:
        """Count parts.

        Raises:
            FileFormatError: there are more than ``MAX_PARTS``.
        """
        self._left -= parts
        if self._left < 0:
            refuse(self._path, "has more nodes, inputs and attributes than a network", f"at most {MAX_PARTS:,}")


def find_fields(path: Path, message: memoryview, what: str) -> dict[int, Value]:
    """Find the fields of a message, each of which has one value; of several, readers take the last, or join them.

    Raises:
        FileFormatError: the bytes are no message, or a field occurs twice.
    """
    fields: dict[int, Value] = {}
    for number, value in iterate_fields(path, message):
        if number in fields:
            refuse(path, f"has {what} with the field {number} twice", "each once")
        fields[number] = value
    return fields


def join_run(run: memoryview | bytes | bytearray, more: memoryview | bytes) -> memoryview | bytes | bytearray:
    """Append the next bytes of a repeated field; a single packed run stays a view, several are joined."""
    if not run:
        return more
    joined = run if isinstance(run, bytearray) else bytearray(run)
    joined += more
    return joined


def decode_axes(path: Path, value: Value) -> list[int]:
    """Decode one occurrence of a repeated int64 as lengths of axes, packed or not.

    Raises:
        FileFormatError: there are more than 32, or the bytes are no varints.
    """
    if isinstance(value, int):
        return [to_int64(value)]
    if len(value) > MAX_AXES * VARINT_BYTES:
        refuse(path, f"has a shape of {len(value):,} bytes", f"at most {MAX_AXES} axes")
    lengths: list[int] = decode_varints(path, value).tolist()
    return lengths


def decode_varints(path: Path, packed: memoryview | bytes | bytearray) -> np.ndarray:
    """Decode packed varints as int64.

    Raises:
        FileFormatError: a varint does not end, or has more than 10 bytes.
    """
    return np.concatenate([np.zeros(0, np.int64), *iterate_varints(path, packed)])


def iterate_varints(path: Path, packed: memoryview | bytes | bytearray) -> Iterator[np.ndarray]:
    """Decode packed varints as int64, some thousands at once: a tensor of them is too long for a loop, or for copies.

    Raises:
        FileFormatError: a varint does not end, or has more than 10 bytes.
    """
    whole = np.frombuffer(packed, np.uint8) if len(packed) else np.zeros(0, np.uint8)
    start = 0
    while start < whole.size:
        data = whole[start : start + PIECE_BYTES]
        last = np.flatnonzero(data < 0x80)
        if not last.size or (start + data.size == whole.size and last[-1] + 1 != data.size):
            refuse(path, "has integers of which the last does not end", "whole varints")
        start += int(last[-1]) + 1
        first = np.append(0, last[:-1] + 1)
        sizes = last - first + 1
        longest = int(sizes.max())
        if longest > VARINT_BYTES:
            refuse(path, f"has an integer of {longest} bytes", f"at most {VARINT_BYTES}")
        values = np.zeros(last.size, np.uint64)
        for place in range(longest):
            longer = sizes > place
            values[longer] |= (data[first[longer] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
        yield values.view(np.int64)


def decode_integers(
    path: Path, name: str, packed: memoryview | bytes | bytearray, dtype: np.dtype, count: int
) -> np.ndarray:
    """Decode at most ``count`` packed varints as integers of a dtype.

    Raises:
        FileFormatError: as ``decode_varints``, there are more, or one is none of the dtype's.
    """
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    out = np.empty(count, dtype)
    place = 0
    for values in iterate_varints(path, packed):
        if low == 0 and dtype.itemsize == 8:
            values = values.view(np.uint64)
        if not low <= int(values.min()) <= int(values.max()) <= high:
            refuse(path, f"{quote(name)} has integers from {values.min()} to {values.max()}", f"from {low} to {high}")
        out[place : place + values.size] = values[: max(0, count - place)]
        place += values.size
    if place > count:
        size = dtype.itemsize
        refuse(path, f"{quote(name)} ({count:,},) has {place * size:,} bytes", f"at most {count * size:,}")
    return out[:place]


def decode_varint(path: Path, message: memoryview, place: int) -> tuple[int, int]:
    """Decode an unsigned varint, and return the position behind it.

    Raises:
        FileFormatError: it does not end within 10 bytes.
    """
    value = 0
    for shift, byte in enumerate(message[place : place + VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place + shift + 1
    refuse(path, "has an integer that does not end", f"varints of at most {VARINT_BYTES} bytes")


def to_int64(value: int) -> int:
    """Reinterpret an unsigned varint as int64."""
    return value - (1 << 64) if value >> 63 else value


def encode_varint(value: int) -> bytes:
    """Encode an unsigned number, seven bits to a byte, the lowest first.

    >>> encode_varint(300).hex()
    'ac02'
    """
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def encode_field_head(number: int, size: int) -> bytes:
    """Encode the key and the length that precede a field of ``size`` bytes."""
    return encode_varint(number << 3 | 2) + encode_varint(size)


def encode_field(number: int, value: int | bytes) -> bytes:
    """Encode a whole field."""
    if isinstance(value, int):
        return encode_varint(number << 3) + encode_varint(value)
    return encode_field_head(number, len(value)) + value
