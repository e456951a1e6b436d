"""TensorFlow's checkpoints: ``name.index`` and ``name.data-00000-of-00001``, alone or in a SavedModel's folder.

TensorFlow (tensorflow/core/util/tensor_bundle, core/lib/io/format.h, core/protobuf/tensor_bundle.proto) calls the
format a tensor bundle. The index is a sorted table as LevelDB's, uncompressed; under the empty key it has a header,
and under each tensor's name its dtype, shape, shard, offset, size and the CRC-32C of its bytes, which lie bare in the
data files. Such are the files of ``tf.train.Saver`` (since TensorFlow 0.12), of ``tf.train.Checkpoint`` and of
SavedModels. Names stay as they are there: ``group0/block0/conv1/W``, or
``model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`` in TensorFlow 2.

A path is the index, the prefix without ``.index``, as TensorFlow takes it, or a folder with one checkpoint. Text, of
which a TensorFlow 2 checkpoint has its object graph, is left out; a variable in slices, a compressed index and
numbers with the big end first are refused, and V1 checkpoints (one file) are not recognised. The reader is our own,
since TensorFlow's aborts the process at a broken index whose checksums are right; each tensor is mapped, and its
checksum compared when it is asked for.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ._base import Tensors, count_bytes, import_optional, refuse
from ._buffers import array_from_buffer, decode_name, dtype_code, encode_name, little_endian_dtype, map_file, to_bytes
from ._wire import MAX_AXES, Value, decode_varint, encode_field, encode_varint, iterate_fields, to_int64

NEEDS = ("google_crc32c",)

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48
TRAILER = 5
"""After each block: its compression, its checksum."""
MAX_NAME = 1024
MAX_TENSORS = 1 << 16
MASK = 0xA282EAD8
CHUNK_BYTES = 1 << 24
"""Bytes of a tensor that are copied at once for its checksum."""

STRING = 7
NUMBERS = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
"""By the numbers of TensorFlow's ``DataType``; others are not plain numbers."""


class Entry(NamedTuple):
    """Where a tensor is; offset and size in bytes, the CRC-32C not masked."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def matches(path: Path, head: bytes) -> bool:
    """An index, by its ending and the mark at its end; a prefix; a folder with an index, or with a SavedModel's."""
    if path.is_dir():
        return bool(_indexes(path))
    index = path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")
    if not index.is_file():
        return False
    with index.open("rb") as file:
        return index.stat().st_size >= FOOTER and file.seek(-len(MAGIC), 2) >= 0 and file.read() == MAGIC


def read(path: Path) -> Tensors:
    """Tensors in the order of the data files, each mapped and compared with its checksum when it is asked for."""
    index = path
    if path.is_dir():
        indexes = _indexes(path)
        if len(indexes) != 1:
            refuse(path, f"has {len(indexes)} checkpoints", "one, or the path of its .index")
        index = indexes[0]
    elif not path.name.endswith(".index"):
        index = path.with_name(f"{path.name}.index")
    return _Checkpoint(index, *_entries(index))


def write(path: Path, tensors: Tensors) -> None:
    """One data file, beside the index.

    Raises:
        FileFormatError: a dtype that is not among TensorFlow's, or a name that is empty or too long.
    """
    numbers = {name: number for number, name in NUMBERS.items()}
    entries = {}
    offset = 0
    with _shard(path, 0, 1).open("wb") as file:
        for name, tensor in tensors.items():
            key, array = encode_name(path, name), np.asarray(tensor)
            if not 0 < len(key) <= MAX_NAME or key[0] == 0:
                refuse(path, f"{name[:80]!r} is no name for a tensor", f"1 to {MAX_NAME} bytes, the first not zero")
            number, data = dtype_code(path, name, array, numbers), to_bytes(array)
            shape = b"".join(encode_field(2, encode_field(1, length)) for length in array.shape)
            entry = (
                encode_field(1, number) + encode_field(2, shape) + encode_field(4, offset) + encode_field(5, len(data))
            )
            entries[key] = entry + b"\x35" + struct.pack("<I", _masked(crc32c(data)))
            # An empty tensor takes a byte, which nobody reads, so that offsets say the order.
            offset += file.write(data or b"\x00")
    header = encode_field(1, 1) + encode_field(3, encode_field(1, 1))  # one shard; the version of the format
    with path.open("wb") as file:
        table = {b"": header} | dict(sorted(entries.items()))
        data_handle = _write_block(file, table)
        meta_handle = _write_block(file, {})
        index_handle = _write_block(file, {max(table): data_handle})
        file.write((meta_handle + index_handle).ljust(FOOTER - len(MAGIC), b"\0") + MAGIC)


class _Checkpoint(Mapping[str, np.ndarray]):
    """Names to arrays; a data file is mapped once."""

    def __init__(self, index: Path, shards: int, entries: dict[str, Entry]) -> None:
        self._index, self._entries, self._right = index, entries, set[str]()
        used = sorted({entry.shard for entry in entries.values()})
        self._data = {shard: _data(_shard(index, shard, shards)) for shard in used}
        ends = dict.fromkeys(used, 0)
        for name, entry in entries.items():
            there = len(self._data[entry.shard])
            if entry.offset < ends[entry.shard] or entry.offset + entry.size > there:
                wrong = f"{name!r} has the bytes {entry.offset:,} to {entry.offset + entry.size:,} of {there:,}"
                refuse(index, wrong, f"bytes of its own from {ends[entry.shard]:,} on")
            ends[entry.shard] = entry.offset + entry.size

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        data = self._data[entry.shard][entry.offset : entry.offset + entry.size]
        if name not in self._right and crc32c(data) != entry.checksum:
            refuse(self._index, f"the bytes of {name!r} have another checksum than was written", "unharmed files")
        self._right.add(name)
        return array_from_buffer(self._index, name, data, entry.dtype, entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _indexes(folder: Path) -> list[Path]:
    saved = folder / "variables" / "variables.index"
    return [saved] if saved.is_file() else sorted(one for one in folder.glob("*.index") if one.is_file())


def _shard(index: Path, number: int, count: int) -> Path:
    return index.with_name(f"{index.name.removesuffix('.index')}.data-{number:05d}-of-{count:05d}")


def _data(path: Path) -> memoryview:
    if not path.is_file():
        refuse(path, "is not there", "the data file that the index names")
    return memoryview(map_file(path) if path.stat().st_size else b"")  # it may have empty tensors alone


def _entries(path: Path) -> tuple[int, dict[str, Entry]]:
    """How many data files there are, and where in them each tensor is."""
    data = memoryview(map_file(path))
    if len(data) < FOOTER or data[-len(MAGIC) :] != MAGIC:
        refuse(path, f"ends with {bytes(data[-len(MAGIC) :])!r}", f"an index, which ends with {MAGIC!r}")
    footer = data[-FOOTER:]
    _, place = _handle(path, footer, 0)
    top, _ = _handle(path, footer, place)
    header: dict[int, Value] | None = None
    found: dict[str, Entry] = {}
    last: bytes | None = None
    names = 0
    for _, handle in _pairs(path, _block(path, data, top)):
        for key, value in _pairs(path, _block(path, data, _handle(path, handle, 0)[0])):
            if last is not None and key <= last:
                refuse(path, f"has the name {key[:80]!r} after {last[:80]!r}", "each once, in order")
            last = key
            names += len(key)
            message = dict(iterate_fields(path, value))
            if header is None:
                header = message
                if key or _number(path, header, 2):
                    refuse(path, f"begins with {key!r} and {bytes(value[:20])!r}", "the header, little end first")
            elif key[0] == 0:
                refuse(path, "holds variables in slices", "whole variables: save without a partitioner")
            elif _number(path, message, 1) != STRING:
                name = decode_name(path, key)
                found[name] = _entry(path, name, message)
            if len(found) > MAX_TENSORS or names > MAX_NAME * MAX_TENSORS // 16:
                refuse(path, "has more names than a network", f"at most {MAX_TENSORS:,} tensors")
    if header is None:
        refuse(path, "is empty", "a header")
    shards = _number(path, header, 1)
    if not 0 < shards <= 99999 or any(entry.shard >= shards for entry in found.values()):
        refuse(path, f"has {shards} data files and a tensor beyond them", "1 to 99999, and all within")
    # Of two at one offset the first is empty.
    return shards, dict(sorted(found.items(), key=lambda pair: (pair[1].shard, pair[1].offset, pair[1].size)))


def _entry(path: Path, name: str, message: dict[int, Value]) -> Entry:
    number = _number(path, message, 1)
    if number not in NUMBERS:
        refuse(path, f"{name!r} has TensorFlow's dtype {number}", f"one of {sorted(NUMBERS)}, or text")
    if 7 in message:
        refuse(path, f"{name!r} is a variable in slices", "whole variables: save without a partitioner")
    shape = list(_fields(path, message.get(2, memoryview(b""))))
    if _number(path, dict(shape), 3):
        refuse(path, f"{name!r} has no known shape", "a shape")
    axes = [axis for key, axis in shape if key == 2]
    if len(axes) > MAX_AXES:
        refuse(path, f"{name!r} has {len(axes)} axes", f"at most {MAX_AXES}")
    lengths = tuple(_number(path, dict(_fields(path, axis)), 1) for axis in axes)
    dtype = little_endian_dtype(NUMBERS[number])
    shard, offset, size = (_number(path, message, key) for key in (3, 4, 5))
    if size != count_bytes(path, name, lengths, dtype.itemsize) or min(shard, offset) < 0:
        refuse(path, f"{name!r} {lengths} of {dtype} has {size} bytes at {offset} of data file {shard}", "its size")
    masked = message.get(6)
    if not isinstance(masked, bytes) or len(masked) != 4:
        refuse(path, f"{name!r} has no checksum", "one of four bytes")
    turned = (int.from_bytes(masked, "little") - MASK) & 0xFFFFFFFF
    return Entry(dtype, lengths, shard, offset, size, (turned >> 17 | turned << 15) & 0xFFFFFFFF)


def _block(path: Path, data: memoryview, handle: tuple[int, int]) -> memoryview:
    """A block of the table, its checksum compared."""
    offset, size = handle
    if offset + size + TRAILER > len(data) - FOOTER:
        refuse(path, f"has a block of {size:,} bytes at {offset:,}", f"all within {len(data) - FOOTER:,} bytes")
    block = data[offset : offset + size + 1]
    if block[-1] != 0:
        refuse(
            path, f"has a block compressed by method {block[-1]}", "blocks as TensorFlow writes them, not compressed"
        )
    if _masked(crc32c(block)) != int.from_bytes(data[offset + size + 1 : offset + size + TRAILER], "little"):
        refuse(path, f"the block at {offset:,} has another checksum than was written", "an unharmed index")
    return block[:-1]


def _pairs(path: Path, block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values; a key is written as how much of the last one it begins with, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if len(block) < 4 or end < 0:
        refuse(path, f"has a block of {len(block)} bytes with {restarts:,} restarts", "restarts within the block")
    key, place = b"", 0
    while place < end:
        shared, place = decode_varint(path, block, place)
        fresh, place = decode_varint(path, block, place)
        size, place = decode_varint(path, block, place)
        if shared > len(key) or shared + fresh > MAX_NAME or place + fresh + size > end:
            refuse(path, f"has a name of {shared + fresh:,} bytes with {size:,} bytes to it", "both within the block")
        key = key[:shared] + bytes(block[place : place + fresh])
        place += fresh + size
        yield key, block[place - size : place]


def _handle(path: Path, data: memoryview, place: int) -> tuple[tuple[int, int], int]:
    offset, place = decode_varint(path, data, place)
    size, place = decode_varint(path, data, place)
    return (offset, size), place


def _fields(path: Path, message: Value) -> Iterator[tuple[int, Value]]:
    """Those of a message within another."""
    if not isinstance(message, memoryview):
        refuse(path, "has a number in the place of a message", "bytes with their length")
    return iterate_fields(path, message)


def _number(path: Path, message: dict[int, Value], number: int) -> int:
    """The last value of a field, with its sign; 0 if it is not there."""
    value = message.get(number, 0)
    if not isinstance(value, int):
        refuse(path, f"has bytes as field {number}", "a number")
    return to_int64(value)


def _write_block(file: BinaryIO, pairs: dict[bytes, bytes]) -> bytes:
    """Each key whole; answers the block's handle."""
    offset = file.tell()
    block, restarts = bytearray(), []
    for key, value in pairs.items():
        restarts.append(len(block))
        block += b"\x00" + encode_varint(len(key)) + encode_varint(len(value)) + key + value
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    file.write(block + b"\x00" + struct.pack("<I", _masked(crc32c(block + b"\x00"))))
    return encode_varint(offset) + encode_varint(len(block))


def crc32c(data: memoryview | bytes | bytearray) -> int:
    """Compute CRC-32C, Castagnoli's checksum (RFC 3720, B.4).

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    checksum: int = 0
    library = import_optional("google_crc32c", "a checksum of TensorFlow's")
    for start in range(0, len(data), CHUNK_BYTES):
        checksum = library.extend(checksum, bytes(data[start : start + CHUNK_BYTES]))
    return checksum


def _masked(checksum: int) -> int:
    """TensorFlow keeps checksums turned and moved, since a checksum of a checksum says little."""
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF
