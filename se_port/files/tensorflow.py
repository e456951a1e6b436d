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

from se_port import files

from .crc32c import crc32c

NEEDS: tuple[str, ...] = ()

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48
TRAILER = 5
"""After each block: its compression, its checksum."""
MAX_NAME = 1024
MAX_TENSORS = 1 << 16
MASK = 0xA282EAD8

STRING = 7
NUMBERS = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
"""By the numbers of TensorFlow's ``DataType``; others are not plain numbers."""

Fields = dict[int, list[int | bytes]]


class Entry(NamedTuple):
    """Where a tensor is; offset and size in bytes, the CRC-32C not masked."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def recognises(path: Path, head: bytes) -> bool:
    """An index, by its ending and the mark at its end; a prefix; a folder with an index, or with a SavedModel's."""
    if path.is_dir():
        return bool(_indexes(path))
    index = path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")
    if not index.is_file():
        return False
    with index.open("rb") as file:
        return index.stat().st_size >= FOOTER and file.seek(-len(MAGIC), 2) >= 0 and file.read() == MAGIC


def read(path: Path) -> files.Tensors:
    """Tensors in the order of the data files, each mapped and compared with its checksum when it is asked for."""
    index = path
    if path.is_dir():
        indexes = _indexes(path)
        if len(indexes) != 1:
            files.refuse(path, f"has {len(indexes)} checkpoints", "one, or the path of its .index")
        index = indexes[0]
    elif not path.name.endswith(".index"):
        index = path.with_name(f"{path.name}.index")
    return _Checkpoint(index, *_entries(index))


def write(path: Path, tensors: files.Tensors) -> None:
    """One data file, beside the index.

    Raises:
        FileFormatError: a dtype that is not among TensorFlow's, or a name that is empty or too long.
    """
    numbers = {name: number for number, name in NUMBERS.items()}
    entries = {}
    offset = 0
    with _shard(path, 0, 1).open("wb") as file:
        for name, tensor in tensors.items():
            key, array = name.encode(), np.asarray(tensor)
            if not 0 < len(key) <= MAX_NAME or key[0] == 0:
                files.refuse(
                    path, f"{name[:80]!r} is no name for a tensor", f"1 to {MAX_NAME} bytes, the first not zero"
                )
            if array.dtype.name not in numbers:
                files.refuse(path, f"{name!r} is of {array.dtype}", f"one of {', '.join(numbers)}")
            flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
            file.write(flat.data)
            shape = b"".join(_field(2, _field(1, length)) for length in array.shape)
            entry = _field(1, numbers[array.dtype.name]) + _field(2, shape) + _field(4, offset) + _field(5, flat.size)
            entries[key] = entry + b"\x35" + struct.pack("<I", _masked(crc32c(flat)))
            # An empty tensor takes a byte, which nobody reads, so that offsets say the order.
            file.write(b"" if flat.size else b"\x00")
            offset += max(flat.size, 1)
    header = _field(1, 1) + _field(3, _field(1, 1))  # one shard; the version of the format
    with path.open("wb") as file:
        data = {b"": header} | dict(sorted(entries.items()))
        data_handle = _write_block(file, data)
        meta_handle = _write_block(file, {})
        index_handle = _write_block(file, {max(data): data_handle})
        file.write((meta_handle + index_handle).ljust(FOOTER - len(MAGIC), b"\0") + MAGIC)


class _Checkpoint(Mapping[str, np.ndarray]):
    """Names to arrays; a data file is mapped once."""

    def __init__(self, index: Path, shards: int, entries: dict[str, Entry]) -> None:
        self._index, self._entries, self._right = index, entries, set[str]()
        used = sorted({entry.shard for entry in entries.values()})
        self._data = {shard: _mapped(_shard(index, shard, shards)) for shard in used}
        ends = dict.fromkeys(used, 0)
        for name, entry in entries.items():
            there = self._data[entry.shard].size
            if entry.offset < ends[entry.shard] or entry.offset + entry.size > there:
                wrong = f"{name!r} has the bytes {entry.offset:,} to {entry.offset + entry.size:,} of {there:,}"
                files.refuse(index, wrong, f"bytes of its own from {ends[entry.shard]:,} on")
            ends[entry.shard] = entry.offset + entry.size

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        data = self._data[entry.shard][entry.offset : entry.offset + entry.size]
        if name not in self._right and crc32c(data) != entry.checksum:
            files.refuse(self._index, f"the bytes of {name!r} have another checksum than was written", "unharmed files")
        self._right.add(name)
        return data.view(entry.dtype).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _indexes(folder: Path) -> list[Path]:
    saved = folder / "variables" / "variables.index"
    return [saved] if saved.is_file() else sorted(one for one in folder.glob("*.index") if one.is_file())


def _shard(index: Path, number: int, count: int) -> Path:
    return index.with_name(f"{index.name.removesuffix('.index')}.data-{number:05d}-of-{count:05d}")


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():
        files.refuse(path, "is not there", "the data file that the index names")
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)


def _entries(path: Path) -> tuple[int, dict[str, Entry]]:
    """How many data files there are, and where in them each tensor is."""
    data = _mapped(path)
    if data.size < FOOTER or data[-len(MAGIC) :].tobytes() != MAGIC:
        files.refuse(path, f"ends with {data[-len(MAGIC) :].tobytes()!r}", f"an index, which ends with {MAGIC!r}")
    footer = data[-FOOTER:].tobytes()
    _, place = _handle(path, footer, 0)
    top, _ = _handle(path, footer, place)
    header: Fields | None = None
    found: dict[str, Entry] = {}
    last: bytes | None = None
    names = 0
    for _, handle in _pairs(path, _block(path, data, top)):
        for key, value in _pairs(path, _block(path, data, _handle(path, handle, 0)[0])):
            if last is not None and key <= last:
                files.refuse(path, f"has the name {key[:80]!r} after {last[:80]!r}", "each once, in order")
            last = key
            names += len(key)
            fields = _fields(path, value)
            if header is None:
                header = fields
                if key or _one(path, fields, 2):
                    files.refuse(path, f"begins with {key!r} and {value[:20]!r}", "the header, little end first")
            elif key[0] == 0:
                files.refuse(path, "holds variables in slices", "whole variables: save without a partitioner")
            elif _one(path, fields, 1) != STRING:
                found[_text(path, key)] = _entry(path, key, fields)
            if len(found) > MAX_TENSORS or names > MAX_NAME * MAX_TENSORS // 16:
                files.refuse(path, "has more names than a network", f"at most {MAX_TENSORS:,} tensors")
    if header is None:
        files.refuse(path, "is empty", "a header")
    shards = _one(path, header, 1)
    if not 0 < shards <= 99999 or any(entry.shard >= shards for entry in found.values()):
        files.refuse(path, f"has {shards} data files and a tensor beyond them", "1 to 99999, and all within")
    # Of two at one offset the first is empty.
    return shards, dict(sorted(found.items(), key=lambda pair: (pair[1].shard, pair[1].offset, pair[1].size)))


def _entry(path: Path, key: bytes, fields: Fields) -> Entry:
    name, number = _text(path, key), _one(path, fields, 1)
    if number not in NUMBERS:
        files.refuse(path, f"{name!r} has TensorFlow's dtype {number}", f"one of {sorted(NUMBERS)}, or text")
    if 7 in fields:
        files.refuse(path, f"{name!r} is a variable in slices", "whole variables: save without a partitioner")
    shape = _fields(path, _bytes(path, fields, 2))
    if _one(path, shape, 3):
        files.refuse(path, f"{name!r} has no known shape", "a shape")
    axes = shape.get(2, [])
    if len(axes) > 32 or not all(isinstance(axis, bytes) for axis in axes):
        files.refuse(path, f"{name!r} has {len(axes)} axes", "at most 32")
    lengths = tuple(_one(path, _fields(path, axis), 1) for axis in axes if isinstance(axis, bytes))
    dtype = files.bfloat16() if NUMBERS[number] == "bfloat16" else np.dtype(NUMBERS[number])
    shard, offset, size = (_one(path, fields, field) for field in (3, 4, 5))
    if size != files.checked_bytes(path, name, lengths, dtype.itemsize) or min(shard, offset) < 0:
        files.refuse(
            path, f"{name!r} {lengths} of {dtype} has {size} bytes at {offset} of data file {shard}", "its size"
        )
    masked = fields.get(6, [b""])[-1]
    if not isinstance(masked, bytes) or len(masked) != 4:
        files.refuse(path, f"{name!r} has no checksum", "one of four bytes")
    turned = (int.from_bytes(masked, "little") - MASK) & 0xFFFFFFFF
    return Entry(dtype, lengths, shard, offset, size, (turned >> 17 | turned << 15) & 0xFFFFFFFF)


def _block(path: Path, data: np.ndarray, handle: tuple[int, int]) -> bytes:
    """A block of the table, its checksum compared."""
    offset, size = handle
    if offset + size + TRAILER > data.size - FOOTER:
        files.refuse(path, f"has a block of {size:,} bytes at {offset:,}", f"all within {data.size - FOOTER:,} bytes")
    block = data[offset : offset + size + 1]
    if block[-1] != 0:
        files.refuse(
            path, f"has a block compressed by method {block[-1]}", "blocks as TensorFlow writes them, not compressed"
        )
    if _masked(crc32c(block)) != int.from_bytes(data[offset + size + 1 : offset + size + TRAILER].tobytes(), "little"):
        files.refuse(path, f"the block at {offset:,} has another checksum than was written", "an unharmed index")
    return block[:-1].tobytes()


def _pairs(path: Path, block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a key is written as how much of the last one it begins with, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if len(block) < 4 or end < 0:
        files.refuse(path, f"has a block of {len(block)} bytes with {restarts:,} restarts", "restarts within the block")
    key, place = b"", 0
    while place < end:
        shared, place = _varint(path, block, place)
        fresh, place = _varint(path, block, place)
        size, place = _varint(path, block, place)
        if shared > len(key) or shared + fresh > MAX_NAME or place + fresh + size > end:
            files.refuse(
                path, f"has a name of {shared + fresh:,} bytes with {size:,} bytes to it", "both within the block"
            )
        key = key[:shared] + block[place : place + fresh]
        place += fresh + size
        yield key, block[place - size : place]


def _handle(path: Path, data: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(path, data, place)
    size, place = _varint(path, data, place)
    return (offset, size), place


def _fields(path: Path, data: bytes) -> Fields:
    """A message of protocol buffers: by field number, integers and bytes."""
    fields: Fields = {}
    place = 0
    while place < len(data):
        tag, place = _varint(path, data, place)
        value: int | bytes
        match tag & 7:
            case 0:
                value, place = _varint(path, data, place)
                fields.setdefault(tag >> 3, []).append(value)
                continue
            case 2:
                size, place = _varint(path, data, place)
            case 5:
                size = 4
            case 1:
                size = 8
            case kind:
                files.refuse(path, f"has a field of kind {kind}", "a message of protocol buffers")
        if place + size > len(data):
            files.refuse(path, f"has a field of {size:,} bytes", f"at most {len(data) - place:,}")
        fields.setdefault(tag >> 3, []).append(data[place : place + size])
        place += size
    return fields


def _varint(path: Path, data: bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, at most 64; and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, place
    return files.refuse(path, "has a number that does not end", "at most ten bytes")


def _one(path: Path, fields: Fields, number: int) -> int:
    """The last value of a field, with its sign; 0 if it is not there."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        files.refuse(path, f"has bytes as field {number}", "a number")
    return value - ((value >> 63) << 64)


def _bytes(path: Path, fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        files.refuse(path, f"has a number as field {number}", "a message")
    return value


def _text(path: Path, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return files.refuse(path, f"has the name {key[:80]!r}", "UTF-8")


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _packed(number << 3) + _packed(value)
    return _packed(number << 3 | 2) + _packed(len(value)) + value


def _packed(number: int) -> bytes:
    """The inverse of ``_varint``."""
    low = bytearray()
    while number >= 0x80:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def _write_block(file: BinaryIO, pairs: dict[bytes, bytes]) -> bytes:
    """Each key whole; answers the block's handle."""
    offset = file.tell()
    block, restarts = bytearray(), []
    for key, value in pairs.items():
        restarts.append(len(block))
        block += b"\x00" + _packed(len(key)) + _packed(len(value)) + key + value
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    file.write(block + b"\x00" + struct.pack("<I", _masked(crc32c(np.frombuffer(block + b"\x00", np.uint8)))))
    return _packed(offset) + _packed(len(block))


def _masked(checksum: int) -> int:
    """TensorFlow keeps checksums turned and moved, since a checksum of a checksum says little."""
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF
