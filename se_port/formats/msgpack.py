"""Flax's ``.msgpack``: a nested dictionary with arrays at its ends, as ``flax.serialization.to_bytes`` writes it.

MessagePack (github.com/msgpack/msgpack, spec.md) with three extension types of Flax's: 1 is an array, itself an array
of (shape, dtype's name, bytes), 2 a complex number, 3 a NumPy scalar, written as an array is. An array of more than 1
GiB is a dictionary of pieces, marked by the key ``__msgpack_chunked_array__``.

A name is the keys on the way, joined by ``/``: ``params/stage1/conv/kernel``. Places in a list and keys that are
integers are written as Flax writes lists, ``0``, ``1``. Numbers that are not arrays are given as arrays without axes;
text and nothing (``None``) hold no numbers and are left out. A reader of our own, since arrays can then be mapped,
and no size is believed before it is checked.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ._base import Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, check_dtype, decode_name, encode_name, little_endian_dtype, map_file, to_bytes
from ._wire import Cursor

NEEDS: tuple[str, ...] = ()

CHUNKED = "__msgpack_chunked_array__"
CHUNK_BYTES = 1 << 30
"""Flax cuts arrays that are larger."""
MAX_DEPTH = 64
MAX_VALUES = 1 << 18
"""Keys, arrays and numbers of a tree; a network has some thousands."""
MAX_NAME = 1024

NUMBERS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i",
    0xD3: "q",
}  # fmt: skip
LENGTHS: dict[int, tuple[str, object]] = {
    0xC4: ("B", bytes), 0xC5: ("H", bytes), 0xC6: ("I", bytes), 0xD9: ("B", str), 0xDA: ("H", str),
    0xDB: ("I", str), 0xDC: ("H", list), 0xDD: ("I", list), 0xDE: ("H", dict), 0xDF: ("I", dict),
    0xC7: ("B", "extension"), 0xC8: ("H", "extension"), 0xC9: ("I", "extension"),
}  # fmt: skip
SHORT = ((0x80, 0x8F, dict), (0x90, 0x9F, list), (0xA0, 0xBF, str))
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "bfloat16", "complex64", "complex128",
)  # fmt: skip


def matches(path: Path, head: bytes) -> bool:
    """A dictionary whose first key is text or a small integer, in a file of that ending."""
    return path.name.endswith(".msgpack") and head[:1] != b"" and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))


def read(path: Path) -> Tensors:
    """Every array of the tree, mapped; in pieces, put together."""
    data = memoryview(map_file(path))
    reader = _Reader(path, data)
    tree = reader.value()
    if not isinstance(tree, dict):
        refuse(path, f"begins with {data[0]:#04x}, which is no dictionary", "a dictionary in MessagePack")
    if reader.left:
        refuse(path, f"goes on after its dictionary, at byte {reader.place}", f"{len(data)} bytes to be used")
    return dict(_leaves(path, tree, ""))


def write(path: Path, tensors: Tensors) -> None:
    """Such that ``flax.serialization.msgpack_restore`` gives the nested dictionary.

    Names that begin alike stand together in the file, in the order in which the first of them came.

    Raises:
        FileFormatError: one name is both an array and the beginning of another, or a dtype that Flax does not name.
    """
    with path.open("wb") as file:
        _write_tree(path, file, to_tree(path, tensors), tensors)


def to_tree(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Names as a tree, split at ``/``, at whose ends they stand whole.

    Raises:
        FileFormatError: an empty part, no Unicode text, or a name that is the beginning of another.
    """
    tree: dict[str, Any] = {}
    for name in names:
        encode_name(path, name)
        *parents, last = keys = name.split("/")
        if "" in keys:
            refuse(path, f"{name!r} has an empty part", "keys joined by '/'")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                refuse(path, f"{name!r} lies within another tensor", "names of which none begins another")
        if last in node:
            refuse(path, f"{name!r} is also the beginning of another name", "names of which none begins another")
        node[last] = name
    return tree


class _Reader(Cursor):
    """Decodes one value after another; arrays are views of ``data``."""

    def __init__(self, path: Path, data: memoryview, values: int = MAX_VALUES) -> None:
        super().__init__(path, data, ">")
        self.depth, self.values_left = 0, values

    def value(self) -> Any:
        """Any value: dictionaries, lists, text, bytes (as a view), arrays and numbers (as arrays without axes)."""
        self.values_left -= 1
        if self.values_left < 0:
            refuse(self.path, "holds more values than a network has", f"at most {MAX_VALUES:,}")
        first = self.number("B")
        if first <= 0x7F or first >= 0xE0:
            return np.array(first - (first & 0x80) * 2, np.int64)
        for low, high, short in SHORT:
            if low <= first <= high:
                return self.sized(short, first - low)
        if first in LENGTHS:
            code, kind = LENGTHS[first]
            return self.sized(kind, self.number(code))
        if first in NUMBERS:
            number = self.number(NUMBERS[first])
            return np.array(number, np.float32 if first == 0xCA else None)
        if 0xD4 <= first <= 0xD8:
            return self.sized("extension", 1 << (first - 0xD4))
        if first in (0xC2, 0xC3):
            return np.array(first == 0xC3)
        if first == 0xC0:
            return None
        return refuse(self.path, f"has {first:#04x} at byte {self.place - 1}", "a type of MessagePack's")

    def sized(self, kind: object, count: int) -> Any:
        """A value that says its length: in bytes, or in members, of which each takes a byte at least."""
        if kind is bytes:
            return self.take(count)
        if kind is str:
            return decode_name(self.path, self.take(count))
        if kind == "extension":
            return self.extension(self.number("b"), self.take(count))
        if self.depth >= MAX_DEPTH:
            refuse(self.path, f"is nested more than {MAX_DEPTH} deep", "a tree of a network's layers")
        if count > self.left:
            refuse(self.path, f"announces {count:,} members", f"at most the {len(self.data):,} bytes there are")
        self.depth += 1
        if kind is list:
            answer: Any = [self.value() for _ in range(count)]
        else:
            answer = {}
            for _ in range(count):
                key = self.key(self.value())
                if key in answer:
                    refuse(self.path, f"has the key {key!r} twice in one dictionary", "each key once")
                answer[key] = self.value()
        self.depth -= 1
        return answer

    def key(self, key: object) -> str:
        """Text without ``/``, which joins keys; an integer as text."""
        if isinstance(key, np.ndarray) and key.ndim == 0 and key.dtype.kind in "iu":
            key = str(int(key))
        if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or "/" in key:
            refuse(self.path, f"has the key {str(key)[:80]!r}", f"text of 1 to {MAX_NAME} signs and without '/'")
        return key

    def extension(self, code: int, data: memoryview) -> np.ndarray:
        """Flax's: an array, a complex number, a NumPy scalar."""
        inner = _Reader(self.path, data, values=64)
        parts = inner.value()
        if not inner.left and isinstance(parts, list):
            if code == 2 and len(parts) == 2 and all(isinstance(part, np.ndarray) for part in parts):
                if all(part.ndim == 0 and part.dtype.kind in "fiu" for part in parts):
                    return np.array(complex(float(parts[0]), float(parts[1])))
            elif code in (1, 3) and len(parts) == 3:
                return self.array(*parts)
        return refuse(self.path, f"has an extension {code} that does not hold what it should", "what Flax writes")

    def array(self, shape: object, dtype: object, data: object) -> np.ndarray:
        """A view; the dtype's name is text, or bytes in files of old versions."""
        if isinstance(dtype, memoryview):
            dtype = decode_name(self.path, dtype)
        if dtype not in DTYPES or not isinstance(data, memoryview) or not isinstance(shape, list):
            refuse(self.path, f"has an array of {str(dtype)[:40]!r}", f"(shape, dtype, bytes), of {', '.join(DTYPES)}")
        lengths = tuple(self.integer(length) for length in shape)
        return array_from_buffer(self.path, "an array", data, little_endian_dtype(str(dtype)), lengths)

    def integer(self, number: object) -> int:
        """A length."""
        if not isinstance(number, np.ndarray) or number.ndim or number.dtype.kind not in "iu":
            refuse(self.path, "has a shape that is not of integers", "what Flax writes")
        return int(number)


def _leaves(path: Path, tree: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Depth first, in the file's order."""
    stack = [(prefix, tree)]
    while stack:
        name, value = stack.pop()
        if len(name) > MAX_NAME:
            refuse(path, f"has a name of {len(name)} signs, {name[:80]!r}...", f"at most {MAX_NAME}")
        if isinstance(value, dict) and CHUNKED in value:
            value = _joined(path, name, value)
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, list | dict):
            inner = value.items() if isinstance(value, dict) else ((str(place), one) for place, one in enumerate(value))
            stack += reversed([(f"{name}/{key}" if name else key, one) for key, one in inner])


def _joined(path: Path, name: str, chunked: dict[str, Any]) -> np.ndarray:
    """A large array, put together from its pieces."""
    shape, chunks = chunked.get("shape"), chunked.get("chunks")
    pieces = list(chunks.values()) if isinstance(chunks, dict) else []
    lengths = list(shape.values()) if isinstance(shape, dict) else []
    places = list(chunks or ()), list(shape or ())
    whole = (
        pieces
        and places == tuple([str(place) for place in range(len(some))] for some in (pieces, lengths))
        and all(
            isinstance(piece, np.ndarray) and piece.ndim == 1 and piece.dtype == pieces[0].dtype for piece in pieces
        )
    )
    if not whole:
        refuse(path, f"{name!r} is in pieces that do not fit together", "pieces 0, 1, ... of one dtype")
    reader = _Reader(path, memoryview(b""))
    axes = tuple(reader.integer(length) for length in lengths)
    size = count_bytes(path, name, axes, pieces[0].itemsize)
    if size != sum(piece.nbytes for piece in pieces):
        refuse(path, f"{name!r} {axes} has {sum(piece.nbytes for piece in pieces):,} bytes in pieces", f"{size:,}")
    return np.concatenate(pieces).reshape(axes)


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
    """The shortest beginning of something of that length; maps and lists have no form with one byte of length."""
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
