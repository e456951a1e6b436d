"""Flax's ``.msgpack``: a nested dictionary with arrays at its ends, as ``flax.serialization.to_bytes`` writes it.

MessagePack (github.com/msgpack/msgpack, spec.md) with three extension types of Flax's: 1 is an array, itself an array
of (shape, dtype's name, bytes), 2 a complex number, 3 a NumPy scalar, written as an array is. An array of more than 1
GiB is a dictionary of pieces, marked by the key ``__msgpack_chunked_array__``.

A name is the keys on the way, joined by ``/``: ``params/stage1/conv/kernel``. Positions in a list, and keys that are
integers, are written as Flax writes lists, ``0``, ``1``. Numbers that are not arrays become arrays without axes; text
and ``None`` hold no numbers and are left out.

The package ``msgpack`` reads, so all arrays of a file are in memory at once. ``write`` is ours: it writes an array
where it lies, while a ``Packer`` needs a copy, and its lengths keep the form that files of se-suite always had.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from se_spec import FileFormatError
from se_spec.texts import quote, shorten

from ._base import Budget, Tensors, count_bytes, import_optional, refuse
from ._buffers import (
    array_from_buffer,
    check_dtype,
    decode_name,
    encode_name,
    little_endian_dtype,
    map_file,
    to_bytes,
)

NEEDS = ("msgpack",)

CHUNKED = "__msgpack_chunked_array__"
CHUNK_BYTES = 1 << 30
"""Flax splits larger arrays."""
MAX_DEPTH = 64
MAX_VALUES = 1 << 18
"""Members of one dictionary or list, and values of a tree; a network has some thousands."""
MAX_NAME = 1024
MAX_HEAD_BYTES = 4096
"""Bytes of an extension in which shape and dtype of its array are."""
MAX_TEXT_BYTES = 1 << 20
EXTENSIONS = (*range(0xC7, 0xCA), *range(0xD4, 0xD9))
"""First bytes of an extension."""
MAX_BIN_BYTES = (1 << 32) - 1
"""MessagePack's own limit."""

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "bfloat16", "complex64", "complex128",
)  # fmt: skip


def matches(path: Path, head: bytes) -> bool:
    """Whether a file of that ending begins as a dictionary."""
    return path.name.endswith(".msgpack") and head[:1] != b"" and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))


def read(path: Path) -> Tensors:
    """Read every array of the tree; the pieces of a large one are joined.

    Raises:
        FileFormatError: the file is no dictionary in MessagePack, or holds what Flax does not write.
    """
    tree = _Reader(path).read(memoryview(map_file(path)))
    if not isinstance(tree, dict):
        refuse(path, f"holds a {type(tree).__name__}, which is no dictionary", "a dictionary in MessagePack")
    return dict(_iterate_leaves(path, tree))


def write(path: Path, tensors: Tensors) -> None:
    """Write what ``flax.serialization.msgpack_restore`` reads as the nested dictionary.

    Names that begin alike are together in the file, in the order in which the first of them came.

    Raises:
        FileFormatError: one name is both an array and the beginning of another, or a dtype that Flax does not name.
    """
    with path.open("wb") as file:
        _write_tree(path, file, to_tree(path, tensors), tensors)


def to_tree(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Split names at ``/`` into a tree, whose leaves are the whole names.

    Raises:
        FileFormatError: an empty part, no Unicode text, or a name that is the beginning of another.
    """
    tree: dict[str, Any] = {}
    for name in names:
        encode_name(path, name)
        *parents, last = keys = name.split("/")
        if "" in keys:
            refuse(path, f"{quote(name)} has an empty part", "keys joined by '/'")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                refuse(path, f"{quote(name)} lies within another tensor", "names of which none begins another")
        if last in node:
            refuse(path, f"{quote(name)} is also the beginning of another name", "names of which none begins another")
        node[last] = name
    return tree


class _Reader:
    """Unpacks a file; the values of all its lists and dictionaries together are limited.

    Args:
        path: the file, for errors.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._values_left = path, MAX_VALUES
        self._msgpack = import_optional("msgpack", f"read {path.name}")

    def read(self, data: memoryview) -> Any:
        """Unpack the whole file, in which extensions become arrays."""
        with self._refuse_errors(MAX_VALUES):
            return self._msgpack.unpackb(
                data,
                strict_map_key=False,
                object_pairs_hook=self._make_dictionary,
                list_hook=self._count_list,
                ext_hook=self._read_extension,
                max_array_len=MAX_VALUES,
                max_map_len=MAX_VALUES,
                max_str_len=min(len(data), MAX_TEXT_BYTES),
                max_bin_len=min(len(data), MAX_BIN_BYTES),
                max_ext_len=min(len(data), MAX_BIN_BYTES),
            )

    @contextmanager
    def _refuse_errors(self, most: int) -> Iterator[None]:
        try:
            yield
        except FileFormatError:
            raise
        except (self._msgpack.UnpackException, ValueError, OverflowError) as error:
            wrong = f"cannot be unpacked ({type(error).__name__}: {shorten(error)})"
            refuse(self._path, wrong, f"one dictionary in MessagePack, of at most {most:,} members")

    def _count(self, values: int) -> None:
        self._values_left -= values
        if self._values_left < 0:
            refuse(self._path, f"holds more than {MAX_VALUES:,} values", "a tree of a network's layers")

    def _count_list(self, values: list[Any]) -> list[Any]:
        self._count(1 + len(values))
        return values

    def _make_dictionary(self, pairs: Iterable[tuple[object, Any]]) -> dict[str, Any]:
        """Make a dictionary; its keys are text without ``/``, which joins them, or integers."""
        tree: dict[str, Any] = {}
        for key, value in pairs:
            name = str(key) if type(key) is int else key
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or "/" in name:
                refuse(self._path, f"has the key {quote(key)}", f"text of 1 to {MAX_NAME} characters and without '/'")
            if name in tree:
                refuse(self._path, f"has the key {quote(name)} twice in one dictionary", "each key once")
            tree[name] = value
        self._count(1 + len(tree))
        return tree

    def _read_extension(self, code: int, data: bytes) -> np.ndarray:
        """Read an extension of Flax's: an array, a complex number, a NumPy scalar; an array's numbers stay in data."""
        path, start = self._path, data[:MAX_HEAD_BYTES]
        if code not in (1, 2, 3):
            refuse(path, f"has an extension {code} that is not known", "what Flax writes")
        unpacker = self._msgpack.Unpacker(
            strict_map_key=False,
            ext_hook=self._refuse_extension,
            max_array_len=MAX_DEPTH,
            max_map_len=0,
            max_str_len=len(start),
            max_bin_len=len(start),
        )
        unpacker.feed(start)
        with self._refuse_errors(MAX_DEPTH):
            count = unpacker.read_array_header()
            parts = [unpacker.unpack() for _ in range(min(count, 2))]
        match code, count, parts:
            case (2, 2, [int() | float() as real, int() | float() as imaginary]) if unpacker.tell() == len(data):
                return np.array(complex(real, imaginary))
            case (1 | 3, 3, [list() as shape, str() | bytes() as dtype]):
                name = decode_name(path, dtype) if isinstance(dtype, bytes) else dtype  # bytes in old files
                if name not in DTYPES:
                    refuse(path, f"has an array of {quote(name)}", f"one of {', '.join(DTYPES)}")
                values = _find_bytes(path, memoryview(data)[unpacker.tell() :])
                return array_from_buffer(path, "an array", values, little_endian_dtype(name), _check_shape(path, shape))
        refuse(path, f"has an extension {code} that does not hold what it should", "what Flax writes")

    def _refuse_extension(self, code: int, data: bytes) -> NoReturn:
        refuse(self._path, f"has an extension {code} of {len(data):,} bytes within another", "what Flax writes")


def _find_bytes(path: Path, data: memoryview) -> memoryview:
    """Find the bytes of a value that is nothing but bytes."""
    first = data[0] if len(data) else 0
    if first in EXTENSIONS:
        refuse(path, "has an extension within another", "what Flax writes")
    width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(first, 0)
    if not width or int.from_bytes(data[1 : 1 + width], "big") != len(data) - 1 - width:
        refuse(path, "has an extension that does not hold what it should", "what Flax writes")
    return data[1 + width :]


def _check_shape(path: Path, shape: Iterable[object]) -> tuple[int, ...]:
    lengths = tuple(length for length in shape if type(length) is int)
    if len(lengths) < len(list(shape)):
        refuse(path, "has a shape that is not of integers", "what Flax writes")
    return lengths


def _iterate_leaves(path: Path, tree: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays depth first, in the file's order."""
    stack: list[tuple[str, str | int, int, Any]] = [("", "", 0, tree)]
    values = 0
    budget = Budget(path)
    while stack:
        prefix, key, depth, value = stack.pop()
        name = f"{prefix}/{key}" if prefix else str(key)
        values += 1
        if len(name) > MAX_NAME:
            refuse(path, f"has a name of {len(name)} characters, {quote(name)}", f"at most {MAX_NAME}")
        if depth > MAX_DEPTH or values > MAX_VALUES:
            refuse(
                path,
                f"is nested more than {MAX_DEPTH} deep, or holds more than {MAX_VALUES:,} values",
                "a tree of a network's layers",
            )
        if isinstance(value, dict) and CHUNKED in value:
            value = _join_chunks(path, name, value)
        match value:
            case np.ndarray():
                budget.spend_name(name)
                yield name, value
            case bool() | int() | float():
                budget.spend_name(name)
                yield name, np.array(value)
            case dict() | list():
                items = value.items() if isinstance(value, dict) else enumerate(value)
                stack += reversed([(name, inner, depth + 1, item) for inner, item in items])
            case None | str() | bytes():
                pass
            case _:
                refuse(path, f"holds a {type(value).__name__} as {quote(name)}", "what Flax writes")


def _join_chunks(path: Path, name: str, chunked: dict[str, Any]) -> np.ndarray:
    """Join the pieces of a large array."""
    shape, chunks = chunked.get("shape"), chunked.get("chunks")
    pieces = list(chunks.values()) if isinstance(chunks, dict) else []
    lengths = list(shape.values()) if isinstance(shape, dict) else []
    keys = tuple(list(given) if isinstance(given, dict) else [] for given in (chunks, shape))
    whole = (
        pieces
        and keys == tuple([str(index) for index in range(len(values))] for values in (pieces, lengths))
        and all(isinstance(piece, np.ndarray) and piece.ndim == 1 for piece in pieces)
        and all(piece.dtype == pieces[0].dtype for piece in pieces)
    )
    if not whole:
        refuse(path, f"{quote(name)} is in pieces that do not fit together", "pieces 0, 1, ... of one dtype")
    axes = _check_shape(path, lengths)
    size, present = count_bytes(path, name, axes, pieces[0].itemsize), sum(piece.nbytes for piece in pieces)
    if size != present:
        refuse(path, f"{quote(name)} {axes} has {present:,} bytes in pieces", f"{size:,}")
    whole_array = np.empty(size // pieces[0].itemsize, pieces[0].dtype)
    for owner in (chunked, chunks or {}):
        owner.clear()  # so that each piece is freed when it is copied
    pieces.reverse()
    place = 0
    while pieces:
        piece = pieces.pop()
        whole_array[place : place + len(piece)] = piece
        place += len(piece)
    return whole_array.reshape(axes)


def _write_tree(path: Path, file: BinaryIO, node: Any, tensors: Mapping[str, np.ndarray]) -> None:
    if isinstance(node, str):
        _write_array(path, file, node, tensors[node])
        return
    file.write(_head(0x80, 16, 0xDE, len(node)))
    for key, value in node.items():
        file.write(_text(key))
        _write_tree(path, file, value, tensors)


def _write_array(path: Path, file: BinaryIO, name: str, tensor: np.ndarray) -> None:
    array = np.asarray(tensor)
    check_dtype(path, name, array, DTYPES)
    data = to_bytes(array)
    if array.nbytes <= CHUNK_BYTES:
        _write_flat(file, array.dtype.name, array.shape, data)
        return
    step = CHUNK_BYTES // array.itemsize * array.itemsize
    starts = range(0, array.nbytes, step)
    file.write(_head(0x80, 16, 0xDE, 3) + _text(CHUNKED) + b"\xc3" + _text("shape"))
    file.write(_head(0x80, 16, 0xDE, array.ndim))
    for axis, length in enumerate(array.shape):
        file.write(_text(str(axis)) + _integer(length))
    file.write(_text("chunks") + _head(0x80, 16, 0xDE, len(starts)))
    for place, start in enumerate(starts):
        file.write(_text(str(place)))
        piece = data[start : start + step]
        _write_flat(file, array.dtype.name, (len(piece) // array.itemsize,), piece)


def _write_flat(file: BinaryIO, dtype: str, shape: tuple[int, ...], data: memoryview) -> None:
    """Extension 1."""
    lengths = b"".join(map(_integer, shape))
    head = b"\x93" + _head(0x90, 16, 0xDC, len(shape)) + lengths + _text(dtype)
    head += _head(None, 0, 0xC4, len(data))
    file.write(_head(None, 0, 0xC7, len(head) + len(data)) + b"\x01" + head)
    file.write(data)


def _head(short: int | None, below: int, first: int, count: int) -> bytes:
    """Return the shortest header for a value of that length; maps and lists have no form with one byte of length."""
    if short is not None and count < below:
        return bytes([short + count])
    codes = (">B", ">H", ">I") if first in (0xC4, 0xC7, 0xD9) else (">H", ">I")
    for place, code in enumerate(codes):
        if count < 1 << 8 * struct.calcsize(code):
            return bytes([first + place]) + struct.pack(code, count)
    raise AssertionError(count)


def _text(value: str) -> bytes:
    data = value.encode()
    return _head(0xA0, 32, 0xD9, len(data)) + data


def _integer(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else b"\xcf" + struct.pack(">Q", number)
