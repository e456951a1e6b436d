"""TensorFlow's checkpoints, ``name.index`` and ``name.data-00000-of-00001``, and SavedModels' folders.

TensorFlow (tensorflow/core/util/tensor_bundle, core/lib/io/format.h, core/protobuf/tensor_bundle.proto) calls the
format a tensor bundle. The index is a sorted table like LevelDB's, uncompressed. It has a header under the empty key,
and under each tensor's name its dtype, shape, shard, offset, size and the CRC-32C of its bytes, which the data files
hold without compression. ``tf.train.Saver`` (since TensorFlow 0.12), ``tf.train.Checkpoint`` and SavedModels write
such files. Names are kept: ``group0/block0/conv1/W``, or
``model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`` in TensorFlow 2.

A path is the index, the prefix without ``.index``, as TensorFlow expects it, a folder with one checkpoint, or a
SavedModel's folder or ``saved_model.pb``. A SavedModel without variables has its weights in the graph, whose constants
are returned. Text is left out; ``read_full_names`` reads the names that layers gave to variables from the object graph
of a TensorFlow 2 checkpoint. A variable in slices, a compressed index and
big-endian numbers are refused, and V1 checkpoints (one file) are not recognised. TensorFlow aborts the process at a
broken index whose checksums are right, so the reader is ours: each tensor is mapped, and its checksum is compared at
its first access.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from se_spec import FileFormatError
from se_spec.texts import quote

from ._base import Tensors, count_bytes, import_optional, refuse
from ._buffers import (
    FileMaps,
    array_from_buffer,
    copy_array,
    decode_name,
    dtype_code,
    encode_name,
    little_endian_dtype,
    map_file,
    open_file,
    to_bytes,
)
from ._graphdef import NUMBERS, STRING, read_constants
from ._savedmodel import FILE, open_saved_model, parse_full_names
from ._wire import MAX_AXES, Value, decode_varint, encode_field, encode_varint, find_fields, iterate_fields, to_int64

NEEDS = ("google_crc32c",)

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES = 48
TRAILER_BYTES = 5
"""Bytes after each block: its compression, its checksum."""
MAX_NAME = 1024
MAX_TENSORS = 1 << 16
MAX_INDEX_BYTES = 64 << 20
MASK = 0xA282EAD8
MOST_TRIES = 20
"""Times to open a checkpoint that other programs replace."""
CHUNK_BYTES = 1 << 24
"""Bytes of a tensor that are copied at once for its checksum."""

OBJECTS = b"_CHECKPOINTABLE_OBJECT_GRAPH"
"""Name of the text that describes the objects of TensorFlow 2 that have the variables."""


VARIABLES = Path("variables", "variables.index")
"""Place of the checkpoint in a SavedModel's folder."""
CHECKSUM_BYTES = 4
"""Bytes of the checksum of a text's length, before the text."""


class Entry(NamedTuple):
    """Position of a tensor; offset and size are in bytes, the CRC-32C is not masked."""

    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def matches(path: Path, head: bytes) -> bool:
    """Whether the path is an index, by its last bytes, a prefix of one, or a folder with one or with a SavedModel."""
    if path.is_dir():
        return bool(_find_indexes(path)) or (path / FILE).is_file()
    if path.name == FILE and path.is_file():
        return True
    index = path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")
    if not index.is_file():
        return False
    with open_file(index) as file:
        return index.stat().st_size >= FOOTER_BYTES and file.seek(-len(MAGIC), 2) >= 0 and file.read() == MAGIC


def read(path: Path) -> Tensors:
    """Map tensors in the order of the data files; a checksum is compared at the first access.

    Raises:
        FileFormatError: the index is broken, its data files do not fit it, or there is neither variable nor constant.
    """
    index = find_index(path)
    if index is None:
        saved = find_saved_model(path)
        if saved is None:
            refuse(path, "has no checkpoint", "a TensorFlow checkpoint or SavedModel")
        return read_constants(saved, open_saved_model(saved).graph, saved.stat().st_size)
    return _open_checkpoint(index)


def _open_checkpoint(index: Path) -> "Checkpoint":
    """Open a checkpoint; once more if another program replaced it meanwhile, since its data files are then others."""
    for _ in range(MOST_TRIES):
        before = _identify(index)
        try:
            checkpoint = Checkpoint(index)
        except FileFormatError:
            if before == _identify(index):
                raise
        else:
            if before == _identify(index):
                return checkpoint
    refuse(index, "is replaced again and again while it is read", "a checkpoint that no other program writes")


def _identify(path: Path) -> tuple[int, ...]:
    """Return numbers that are others after a file was replaced."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def find_saved_model(path: Path) -> Path | None:
    """Find the ``saved_model.pb`` of a path; None if it is a checkpoint alone."""
    file = path if path.name == FILE else path / FILE
    return file if file.is_file() else None


def find_index(path: Path) -> Path | None:
    """Find the index of a path's variables; None if it is a SavedModel that has none.

    Raises:
        FileFormatError: a folder has several checkpoints.
    """
    folder = path.parent if path.name == FILE else path
    if not folder.is_dir() or (path.name != FILE and not path.is_dir()):
        return path if path.name.endswith(".index") else path.with_name(f"{path.name}.index")
    indexes = _find_indexes(folder) if path.name != FILE else [folder / VARIABLES]
    indexes = [index for index in indexes if index.is_file()]
    if not indexes and find_saved_model(path) is not None:
        return None
    if len(indexes) != 1:
        refuse(path, f"has {len(indexes)} checkpoints", "one, or the path of its .index")
    return indexes[0]


def read_full_names(path: Path) -> dict[str, str]:
    """Read the names that layers gave to variables, by their names in a checkpoint of TensorFlow 2; else none.

    Raises:
        FileFormatError: the index or the text of its objects is broken.
    """
    index = find_index(path)
    return {} if index is None else Checkpoint(index).read_full_names()


def write(path: Path, tensors: Tensors, replaced: Path | None = None) -> None:
    """Write the index, and a data file beside it.

    The new index must not name data files of the one that it replaces, since two files cannot be moved in one step:
    where the old checkpoint has one data file, the new one has two, of which the second is empty.

    Args:
        path: the index.
        tensors: by name.
        replaced: an index that the new one will replace, if there is one.

    Raises:
        FileFormatError: a dtype that is not among TensorFlow's, or a name that is empty or too long.
    """
    numbers = {name: number for number, name in NUMBERS.items()}
    entries = {}
    offset = 0
    count = 2 if replaced is not None and _count_shards(replaced) == 1 else 1
    for number in range(1, count):
        _shard_path(path, number, count).touch()
    with _shard_path(path, 0, count).open("wb") as file:
        for name, tensor in tensors.items():
            key, array = encode_name(path, name), np.asarray(tensor)
            if not 0 < len(key) <= MAX_NAME or key[0] == 0:
                refuse(path, f"{quote(name)} is no name for a tensor", f"1 to {MAX_NAME} bytes, the first not zero")
            number, data = dtype_code(path, name, array, numbers), to_bytes(array)
            shape = b"".join(encode_field(2, encode_field(1, length)) for length in array.shape)
            entry = (
                encode_field(1, number) + encode_field(2, shape) + encode_field(4, offset) + encode_field(5, len(data))
            )
            entries[key] = entry + b"\x35" + struct.pack("<I", _mask(crc32c(data)))
            # An empty tensor gets one unused byte, so that the offsets keep the order.
            offset += file.write(data or b"\x00")
    header = encode_field(1, count) + encode_field(3, encode_field(1, 1))  # the version of the format
    with path.open("wb") as file:
        table = {b"": header} | dict(sorted(entries.items()))
        data_handle = _write_block(file, table)
        meta_handle = _write_block(file, {})
        index_handle = _write_block(file, {max(table): data_handle})
        file.write((meta_handle + index_handle).ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC)


def remove_old_files(index: Path) -> None:
    """Remove data files beside an index that belong to a checkpoint that it replaced."""
    count, prefix = _count_shards(index), index.name.removesuffix(".index")
    for file in index.parent.iterdir():
        found = re.fullmatch(r"\.data-([0-9]{5})-of-([0-9]{5})", file.name.removeprefix(prefix))
        if found and file.name.startswith(prefix) and int(found[2]) != count:
            file.unlink(missing_ok=True)


def _count_shards(index: Path) -> int:
    """Count the data files that an index names; 0 if it cannot be read."""
    try:
        return _read_index(index)[0]
    except FileFormatError:
        return 0


class Checkpoint(Mapping[str, np.ndarray]):
    """The arrays of a checkpoint, by name; each data file is mapped once.

    Args:
        index: path of the index.

    Raises:
        FileFormatError: the index is broken, or its data files do not fit it.
    """

    def __init__(self, index: Path) -> None:
        shards, entries, self._objects = _read_index(index)
        self._index, self._shards, self._entries, self._verified = index, shards, entries, set[str]()
        used = sorted({entry.shard for entry in entries.values()})
        maps = FileMaps()
        self._data = {shard: _map_shard(_shard_path(index, shard, shards), maps) for shard in used}
        ends = dict.fromkeys(used, 0)
        for name, entry in entries.items():
            length = len(self._data[entry.shard])
            if entry.offset < ends[entry.shard] or entry.offset + entry.size > length:
                wrong = f"{quote(name)} has the bytes {entry.offset:,} to {entry.offset + entry.size:,} of {length:,}"
                refuse(index, wrong, f"bytes of its own from {ends[entry.shard]:,} on")
            ends[entry.shard] = entry.offset + entry.size
        self.shapes = {name: entry.shape for name, entry in entries.items()}
        """Of the arrays, none of which is read for it."""

    def read_full_names(self) -> dict[str, str]:
        """Read the names that layers gave to variables, from the text that describes the objects, if there is one."""
        if self._objects is None:
            return {}
        index, (shard, offset, size) = self._index, self._objects
        known = 0 <= shard < self._shards
        data = _map_shard(_shard_path(index, shard, self._shards), FileMaps()) if known else memoryview(b"")
        if min(offset, size) < 0 or offset + size > len(data):
            refuse(index, f"has a text of {size:,} bytes at {offset:,}", f"one within {len(data):,} bytes")
        text = data[offset : offset + size]
        length, start = decode_varint(index, text, 0)
        if length != len(text) - start - CHECKSUM_BYTES:
            refuse(index, f"describes its objects in {length:,} of {len(text):,} bytes", "one text with its length")
        return parse_full_names(index, text[start + CHECKSUM_BYTES :])

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        data = self._data[entry.shard][entry.offset : entry.offset + entry.size]
        array = copy_array(array_from_buffer(self._index, name, data, entry.dtype, entry.shape))
        if name not in self._verified and crc32c(to_bytes(array)) != entry.checksum:
            refuse(self._index, f"the bytes of {quote(name)} have another checksum than was written", "undamaged files")
        self._verified.add(name)
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _find_indexes(folder: Path) -> list[Path]:
    saved = folder / VARIABLES
    return [saved] if saved.is_file() else sorted(index for index in folder.glob("*.index") if index.is_file())


def _shard_path(index: Path, number: int, count: int) -> Path:
    return index.with_name(f"{index.name.removesuffix('.index')}.data-{number:05d}-of-{count:05d}")


def _map_shard(path: Path, maps: FileMaps) -> memoryview:
    """Map a shard; one may hold only empty tensors."""
    if not path.is_file():
        refuse(path, "is not there", "the data file that the index names")
    return maps.map(path)


def _read_index(path: Path) -> tuple[int, dict[str, Entry], tuple[int, int, int] | None]:
    """Read the number of data files, the position of each tensor, and shard, offset and size of the object graph."""
    data = memoryview(map_file(path))
    if len(data) > MAX_INDEX_BYTES:
        refuse(path, f"is an index of {len(data):,} bytes", f"at most {MAX_INDEX_BYTES:,}")
    if len(data) < FOOTER_BYTES or data[-len(MAGIC) :] != MAGIC:
        refuse(path, f"ends with {bytes(data[-len(MAGIC) :])!r}", f"an index, which ends with {MAGIC!r}")
    footer = data[-FOOTER_BYTES:]
    _, place = _read_handle(path, footer, 0)
    top, _ = _read_handle(path, footer, place)
    header: dict[int, Value] | None = None
    found: dict[str, Entry] = {}
    last: bytes | None = None
    names, objects = 0, None
    end = 0
    bound: bytes | None = None
    for separator, handle in _iterate_pairs(path, _read_block(path, data, top)):
        (place, size), _ = _read_handle(path, handle, 0)
        if place < end or not size:
            refuse(path, f"has a block at {place:,} after one that ends at {end:,}", "one block after the other")
        end = place + size
        if bound is not None and last is not None and not last <= bound < separator:
            refuse(path, f"has the block {quote(bound)} that ends with {quote(last)}", "names in their blocks")
        before, bound = bound, separator
        for key, value in _iterate_pairs(path, _read_block(path, data, (place, size))):
            if before is not None and key <= before:
                refuse(path, f"has the name {quote(key)} behind the block {quote(before)}", "names in their blocks")
            if last is not None and key <= last:
                refuse(path, f"has the name {quote(key)} after {last[:80]!r}", "each once, in order")
            last = key
            names += len(key)
            message = find_fields(path, value, f"{quote(key)}")
            if header is None:
                header = message
                if key or _integer_field(path, header, 2):
                    refuse(path, f"begins with {quote(key)} and {bytes(value[:20])!r}", "the header, little end first")
            elif key[0] == 0:
                refuse(path, "holds variables in slices", "whole variables: save without a partitioner")
            elif _integer_field(path, message, 1) != STRING:
                name = decode_name(path, key)
                found[name] = _read_entry(path, name, message)
            elif key == OBJECTS:
                shard, offset, size = (_integer_field(path, message, number) for number in (3, 4, 5))
                objects = shard, offset, size
            if len(found) > MAX_TENSORS or names > MAX_NAME * MAX_TENSORS // 16:
                refuse(path, "has more names than a network", f"at most {MAX_TENSORS:,} tensors")
    if header is None or bound is None or (last is not None and last > bound):
        refuse(path, "is empty, or its last block ends beyond its name", "a header, and names in their blocks")
    shards = _integer_field(path, header, 1)
    if not 0 < shards <= 99999 or any(entry.shard >= shards for entry in found.values()):
        refuse(path, f"has {shards} data files and a tensor beyond them", "1 to 99999, and all within")
    # Where two have one offset, the first is empty.
    order = sorted(found.items(), key=lambda pair: (pair[1].shard, pair[1].offset, pair[1].size))
    return shards, dict(order), objects


def _read_entry(path: Path, name: str, message: dict[int, Value]) -> Entry:
    number = _integer_field(path, message, 1)
    if number not in NUMBERS:
        refuse(path, f"{quote(name)} has TensorFlow's dtype {number}", f"one of {sorted(NUMBERS)}, or text")
    if 7 in message:
        refuse(path, f"{quote(name)} is a variable in slices", "whole variables: save without a partitioner")
    axes: list[Value] = []
    for key, value in _iterate_inner(path, message.get(2, memoryview(b""))):
        if key == 3 and value:
            refuse(path, f"{quote(name)} has no known shape", "a shape")
        axes += [value] if key == 2 else []
        if len(axes) > MAX_AXES:
            refuse(path, f"{quote(name)} has {len(axes)} axes", f"at most {MAX_AXES}")
    lengths = tuple(_integer_field(path, dict(_iterate_inner(path, axis)), 1) for axis in axes)
    dtype = little_endian_dtype(NUMBERS[number])
    shard, offset, size = (_integer_field(path, message, key) for key in (3, 4, 5))
    if size != count_bytes(path, name, lengths, dtype.itemsize) or min(shard, offset) < 0:
        refuse(
            path, f"{quote(name)} {lengths} of {dtype} has {size} bytes at {offset} of data file {shard}", "its size"
        )
    masked = message.get(6)
    if not isinstance(masked, bytes) or len(masked) != 4:
        refuse(path, f"{quote(name)} has no checksum", "one of four bytes")
    rotated = (int.from_bytes(masked, "little") - MASK) & 0xFFFFFFFF
    return Entry(dtype, lengths, shard, offset, size, (rotated >> 17 | rotated << 15) & 0xFFFFFFFF)


def _read_block(path: Path, data: memoryview, handle: tuple[int, int]) -> memoryview:
    """Read a block of the table and compare its checksum."""
    offset, size = handle
    if offset + size + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        refuse(path, f"has a block of {size:,} bytes at {offset:,}", f"all within {len(data) - FOOTER_BYTES:,} bytes")
    block = data[offset : offset + size + 1]
    if block[-1] != 0:
        refuse(
            path, f"has a block compressed by method {block[-1]}", "blocks as TensorFlow writes them, not compressed"
        )
    if _mask(crc32c(block)) != int.from_bytes(data[offset + size + 1 : offset + size + TRAILER_BYTES], "little"):
        refuse(path, f"the block at {offset:,} has another checksum than was written", "an undamaged index")
    return block[:-1]


def _iterate_pairs(path: Path, block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values; a key is stored as the length of the prefix shared with the last one, and the rest.

    TensorFlow looks for a name from the restarts, so each must be a key that is stored in full.
    """
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * count
    if len(block) < 4 or end < 0:
        refuse(path, f"has a block of {len(block)} bytes with {count:,} restarts", "restarts within the block")
    restarts = np.frombuffer(block[end:-4], "<u4").tolist()[::-1]
    key, place = b"", 0
    while place < end:
        start = place
        shared, place = decode_varint(path, block, place)
        fresh, place = decode_varint(path, block, place)
        size, place = decode_varint(path, block, place)
        if shared > len(key) or shared + fresh > MAX_NAME or place + fresh + size > end:
            refuse(path, f"has a name of {shared + fresh:,} bytes with {size:,} bytes to it", "both within the block")
        if restarts and restarts[-1] == start and not shared:
            restarts.pop()
        key = key[:shared] + bytes(block[place : place + fresh])
        place += fresh + size
        yield key, block[place - size : place]
    if restarts and restarts != [0]:  # an empty block has the restart 0
        refuse(path, f"has a restart at {restarts[-1]:,} that is no name", "restarts at names, in their order")


def _read_handle(path: Path, data: memoryview, place: int) -> tuple[tuple[int, int], int]:
    offset, place = decode_varint(path, data, place)
    size, place = decode_varint(path, data, place)
    return (offset, size), place


def _iterate_inner(path: Path, message: Value) -> Iterator[tuple[int, Value]]:
    """Yield the fields of a message within another."""
    if not isinstance(message, memoryview):
        refuse(path, "has a number in the place of a message", "bytes with their length")
    return iterate_fields(path, message)


def _integer_field(path: Path, message: dict[int, Value], number: int) -> int:
    """Return the last value of a field, with its sign; 0 if it is missing."""
    value = message.get(number, 0)
    if not isinstance(value, int):
        refuse(path, f"has bytes as field {number}", "a number")
    return to_int64(value)


def _write_block(file: BinaryIO, pairs: dict[bytes, bytes]) -> bytes:
    """Write a block with every key in full; returns its handle."""
    offset = file.tell()
    block, restarts = bytearray(), []
    for key, value in pairs.items():
        restarts.append(len(block))
        block += b"\x00" + encode_varint(len(key)) + encode_varint(len(value)) + key + value
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    file.write(block + b"\x00" + struct.pack("<I", _mask(crc32c(block + b"\x00"))))
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


def _mask(checksum: int) -> int:
    """Rotate and offset a checksum, as TensorFlow stores it, since a checksum of data with checksums is weak."""
    return ((checksum >> 15 | checksum << 17) + MASK) & 0xFFFFFFFF
