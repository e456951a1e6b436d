"""MatConvNet's ``.mat``: the parameters of a ``dagnn.DagNN`` that was saved as a structure.

The file is MATLAB's level 5 ("MAT-File Format", MathWorks). ``read`` follows the structure array ``params``, on its own
or in a structure ``net``, with a ``name`` and a ``value`` in each element. It skips the rest by its length: layers,
function handles and objects are never read. It refuses level 4, level 7.3 (HDF5), a DagNN saved as an object and not
by ``net.saveobj()``, a SimpleNN, and values that are sparse, complex or on a GPU. ``scipy.io.loadmat`` is not used: it
crashed the process within 300 mutated files.

A value has the shape that is stored: ``(C, 1)`` or ``(1, C)`` where other formats have one axis, without trailing axes
of length one, which MATLAB drops. Integers may be stored in fewer bytes than their class has, and are converted to it.

``write`` writes ``params`` alone, with ``name`` and ``value``. Layers cannot be made from weights. ``learningRate``,
``weightDecay`` and ``trainMethod`` are left to the layers, since a batch normalisation sets its own when it is added,
and ``DagNN.loadobj`` would overwrite them. To load the file, with ``net`` a DagNN of the same layers:
``s = net.saveobj(); w = load('x.mat'); s.params = w.params; net = dagnn.DagNN.loadobj(s)``.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from se_spec.texts import quote, shorten

from . import _base
from ._base import Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, encode_name, map_file, to_bytes
from ._wire import MAX_AXES, Cursor

NEEDS = ()

HEADER_BYTES = 128
MAX_NAME_BYTES = 4096
"""Of a name, and of the other parts of an array's head."""
MAX_FIELDS, MAX_FIELDS_BYTES = 1024, 1 << 16
"""Fields of a structure, and bytes of their names; MATLAB's names have at most 63."""
MAX_SHOWN = 20
CHUNK_BYTES = 1 << 16
"""Compressed bytes that are unpacked at once."""
MAX_ELEMENT_BYTES = (1 << 32) - 1
"""The largest element, as its length has 32 bits."""

STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of elements that are numbers, by NumPy's names."""
CODES = {code: number for number, code in STORED.items()}
INT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 14, 15, 16
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}

DOUBLE = 6
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Classes of arrays that are numbers, by NumPy's names."""
STRUCTURE, CHARACTERS, OPAQUE = 2, 4, 17
OTHER = {1: "a cell array", 3: "an object", 5: "sparse", 16: "a function handle", 17: "an object"}
LOGICAL, COMPLEX = 0x200, 0x800


class Array(NamedTuple):
    """A MATLAB array whose values are not yet read."""

    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    values: Cursor


class Part(Cursor):
    """The next bytes of another cursor, of which as many are read as are needed, and the rest is skipped.

    Args:
        outer: whose position moves along.
        size: in bytes.
        padding: bytes behind them.
    """

    def __init__(self, outer: "Cursor | Part | Inflating", size: int, padding: int = 0) -> None:
        super().__init__(outer.path, memoryview(b""), outer.byte_order)
        self._outer, self._left, self._padding = outer, size, padding
        if size + padding > outer.left:
            missing = size + padding - outer.left
            refuse(self.path, f"ends {missing:,} bytes too early", f"{size:,} bytes, as announced")

    @property
    def left(self) -> int:
        """Number of bytes that remain."""
        return self._left

    def read(self, size: int) -> memoryview:
        """Read the next bytes."""
        if size > self._left:
            refuse(self.path, f"ends {size - self._left:,} bytes too early", f"{size:,} bytes more")
        self._left -= size
        return self._outer.read(size)

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        self._left -= size
        _skip(self._outer, size)

    def close(self) -> None:
        """Pass over the rest and the padding."""
        self.skip(self._left)
        _skip(self._outer, self._padding)


class Inflating(Cursor):
    """A position in compressed bytes, which are unpacked as they are read.

    Args:
        path: the file, for the error.
        data: the compressed bytes.
        byte_order: of the numbers.
    """

    def __init__(self, path: Path, data: memoryview, byte_order: str) -> None:
        super().__init__(path, data, byte_order)
        self._inflate, self._rest, self._piece = zlib.decompressobj(), b"", memoryview(b"")

    @property
    def left(self) -> int:
        """The largest number of bytes that may remain: how many there are is only known at the end."""
        return MAX_ELEMENT_BYTES + 8

    def read(self, size: int) -> memoryview:
        """Read the next bytes."""
        out = np.empty(size, np.uint8)  # whose memory is taken as it is filled
        place = 0
        while place < size:
            piece = self._next(size - place)
            out[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
        return out.data.toreadonly()

    def skip(self, size: int) -> None:
        """Unpack the next bytes, and keep none."""
        while size:
            size -= len(self._next(size))

    def check_end(self) -> None:
        """Refuse bytes behind the last that was announced, and a wrong checksum."""
        if self._piece or self._unpack() or not self._inflate.eof:
            refuse(self.path, "has a compressed element that does not end where it announces", "a whole element")

    def _next(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(self._unpack())
            if not self._piece:
                refuse(self.path, f"has an element that ends {most:,} bytes too early", "as many as it announces")
        piece, self._piece = self._piece[:most], self._piece[most:]
        return piece

    def _unpack(self) -> bytes:
        """Unpack the next bytes; none at the end."""
        try:
            while not self._inflate.eof:
                if not self._rest:
                    self._rest = bytes(self.data[self.place : self.place + CHUNK_BYTES])
                    self.place += len(self._rest)
                fed = self._rest
                piece = self._inflate.decompress(fed, CHUNK_BYTES)
                self._rest = self._inflate.unconsumed_tail
                if piece or not fed:
                    return piece
        except zlib.error as error:
            refuse(self.path, f"has a compressed element that is broken: {error}", "what zlib can unpack")
        return b""


def _skip(cursor: Cursor, size: int) -> None:
    if isinstance(cursor, Part | Inflating):
        cursor.skip(size)
    else:
        cursor.read(size)


def matches(path: Path, head: bytes) -> bool:
    """Whether the ending or the first word is MATLAB's."""
    return path.is_file() and (head.startswith(b"MATLAB ") or path.name.endswith(".mat"))


def read(path: Path) -> Tensors:
    """Read views of the mapped file; if it is compressed, views of the unpacked ``params``.

    Raises:
        FileFormatError: another level, no parameters, more than one set of them, a name twice, or a value that is not
            an array of numbers.
    """
    tensors: dict[str, np.ndarray] = {}
    for element in _read_parameters(path):
        if not {"name", "value"} <= set(element):
            refuse(path, f"has parameters with the fields {', '.join(element)}", "name and value")
        name = element["name"]
        if name in tensors or not name:
            refuse(
                path, f"has the parameter {quote(name)} twice" if name else "has one without a name", "each name once"
            )
        tensors[name] = element["value"]
    if not tensors:
        refuse(path, "has no parameters", "at least one")
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """Write ``params``, one after the other and not compressed; MATLAB drops trailing axes of length one.

    Raises:
        FileFormatError: fewer than two axes, a dtype that MATLAB does not have, or more than 4 GiB.
    """
    with path.open("wb") as file:
        words = b"MATLAB 5.0 MAT-file, parameters of a dagnn.DagNN".ljust(HEADER_BYTES - 4)
        file.write(words + struct.pack("<H2sII", 0x100, b"IM", MATRIX, 0))
        file.write(_encode_head(STRUCTURE, (1, len(tensors)), b"params"))
        file.write(
            _encode_element(INT32, struct.pack("<i", 8)) + _encode_element(INT8, struct.pack("8s8s", b"name", b"value"))
        )
        for name in tensors:
            file.write(
                _encode_element(
                    MATRIX, _encode_head(CHARACTERS, (1, len(name))) + _encode_element(UTF8, encode_name(path, name))
                )
            )
            file.writelines(_encode_value(path, name, np.asarray(tensors[name])))
        size = file.tell() - HEADER_BYTES - 8
        if size > MAX_ELEMENT_BYTES:
            refuse(path, f"would have {size:,} bytes of parameters", f"at most {MAX_ELEMENT_BYTES:,}")
        file.seek(HEADER_BYTES + 4)
        file.write(struct.pack("<I", size))


def _read_parameters(path: Path) -> list[dict[str, Any]]:
    """Read the elements of ``params``, each with ``name`` and ``value``; the rest is skipped."""
    found: list[list[dict[str, Any]]] = []
    seen: list[str] = []
    for array in _iterate_variables(path):
        seen.append(array.name)
        if array.name in ("net", "params") and found:
            break
        if array.name == "net" and array.kind == STRUCTURE:
            count = math.prod(array.shape)
            nets = list(_iterate_structures(array, _read_net)) if count == 1 else []
            if len(nets) != 1 or nets[0].get("params") is None:
                wrong = f"has a net with {count if nets == [] else 0} sets of params"
                refuse(path, wrong, "one, of a DagNN by net.saveobj(), not a SimpleNN")
            found.append(nets[0]["params"])
        elif array.name in ("net", "params"):
            found.append(list(_iterate_structures(array, _read_parameter)))
    else:
        if found:
            return found[0]
    wrong = f"has the variables {[shorten(name, 40) for name in seen[:MAX_SHOWN]]}"
    refuse(path, wrong, "params of a DagNN by net.saveobj(), alone or in net; not a SimpleNN")


def _read_net(field: str, part: Part, others: dict[str, Any]) -> Any:
    """Read the parameters of a net; other fields are skipped."""
    return list(_iterate_structures(_read_array(part), _read_parameter)) if field == "params" else None


def _read_parameter(field: str, part: Part, others: dict[str, Any]) -> Any:
    """Read the name or the value of a parameter; other fields are skipped."""
    if field == "name":
        return _read_text(part)
    return _read_numbers(others.get("name", "a value"), part) if field == "value" else None


def _iterate_variables(path: Path) -> Iterator[Array]:
    data = memoryview(map_file(path))
    level, byte_order = bytes(data[124:126]), {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if b"7.3" in bytes(data[:10]) or level in (b"\0\2", b"\2\0"):
        refuse(path, "is MATLAB's level 7.3, which is HDF5", "level 5: save it with -v7")
    if not byte_order or level not in (b"\0\1", b"\1\0"):
        refuse(path, "has no header of level 5", "a .mat that MATLAB saved with -v6 or -v7")
    file = Cursor(path, data[HEADER_BYTES:], byte_order)
    while file.left:
        kind, size = file.numbers("II")
        if kind == COMPRESSED:
            yield from _iterate_compressed(Inflating(path, file.read(size), byte_order))
            continue
        if kind != MATRIX:
            refuse(path, f"has an element of type {kind}", "arrays")
        yield _read_array(Part(Cursor(path, file.read(size), byte_order), size))


def _iterate_compressed(stream: Inflating) -> Iterator[Array]:
    """Yield a compressed array; only ``net`` and ``params`` are unpacked beyond their names."""
    kind, size = stream.numbers("II")
    if kind != MATRIX:
        refuse(stream.path, f"has a compressed element of type {kind}", "arrays")
    part = Part(stream, size)
    array = _read_array(part)
    if array.name in ("net", "params"):
        count_bytes(stream.path, array.name, (size,), 1)
    yield array
    if array.name in ("net", "params"):
        part.close()
        stream.check_end()


def _open_element(cursor: Cursor) -> tuple[int, Part]:
    """Open the next element within an array: its type, and its bytes without the padding to 8."""
    kind = cursor.number("I")
    if kind >> 16:  # a short element of at most 4 bytes, in place of the length
        size, kind = kind >> 16, kind & 0xFFFF
        if size > 4:
            refuse(cursor.path, f"has a short element of {size} bytes", "at most 4")
        return kind, Part(cursor, size, 4 - size)
    size = cursor.number("I")
    return kind, Part(cursor, size, max(0, min(-size % 8, cursor.left - size)))


def _read_typed(cursor: Cursor, kind: int, most: int) -> Cursor:
    """Read the next element, which must be of one type, and have at most so many bytes."""
    found, part = _open_element(cursor)
    if found != kind:
        refuse(cursor.path, f"has an element of type {found} within an array", f"type {kind}")
    if part.left > most:
        refuse(cursor.path, f"has an element of type {kind} with {part.left:,} bytes", f"at most {most:,}")
    data = Cursor(cursor.path, part.read(part.left), cursor.byte_order)
    part.close()
    return data


def _read_array(cursor: Cursor) -> Array:
    if not cursor.left:  # MATLAB's []
        return Array(DOUBLE, 0, (0, 0), "", cursor)
    words = _read_typed(cursor, UINT32, MAX_NAME_BYTES)
    flags = words.number("I")
    shape: tuple[int, ...] = ()
    if flags & 0xFF != OPAQUE:
        lengths = _read_typed(cursor, INT32, MAX_NAME_BYTES)
        if lengths.left > 4 * MAX_AXES:
            refuse(cursor.path, f"has an array of {lengths.left // 4:,} axes", f"at most {MAX_AXES}")
        shape = lengths.numbers(f"{lengths.left // 4}i")
    letters = _read_typed(cursor, INT8, MAX_NAME_BYTES)
    return Array(flags & 0xFF, flags, shape, str(letters.read(letters.left), "latin-1"), cursor)


def _iterate_structures(
    array: Array, read_field: Callable[[str, Part, dict[str, Any]], Any]
) -> Iterator[dict[str, Any]]:
    """Yield the elements of a structure array, one after the other.

    Args:
        array: the structures.
        read_field: reads a field, from its name, its bytes, and the fields before it.
    """
    cursor = array.values
    path = cursor.path
    if array.kind != STRUCTURE:
        refuse(path, f"has {quote(array.name)} as {OTHER.get(array.kind, 'numbers')}", "a structure, by net.saveobj()")
    width = _read_typed(cursor, INT32, MAX_NAME_BYTES).number("i")
    letters = _read_typed(cursor, INT8, MAX_FIELDS_BYTES)
    if width < 1 or letters.left % width:
        refuse(path, f"has names of fields in {letters.left} bytes, {width} each", "whole names")
    if letters.left // width > MAX_FIELDS:
        refuse(path, f"has a structure with {letters.left // width:,} fields", f"at most {MAX_FIELDS}")
    names = [str(letters.read(width), "latin-1").split("\0")[0] for _ in range(letters.left // width)]
    count_bytes(path, f"structure {array.name}", (*array.shape, len(names)), 8, cursor.left)
    count = math.prod(array.shape) if names else 0
    if count > _base.MAX_TENSORS:
        refuse(path, f"has {count:,} structures as {quote(array.name)}", f"at most {_base.MAX_TENSORS:,}")
    for _ in range(count):
        element: dict[str, Any] = {}
        for name in names:
            kind, part = _open_element(cursor)
            if kind != MATRIX or name in element:
                refuse(path, f"has a structure with the fields {names}", "each once, and an array in each")
            element[name] = read_field(name, part, element)
            part.close()
        yield element


def _read_text(field: Part) -> str:
    array = _read_array(field)
    kind, letters = _open_element(field) if field.left else (UTF8, field)
    if letters.left > MAX_NAME_BYTES:
        refuse(field.path, f"has a name of {letters.left:,} bytes", f"at most {MAX_NAME_BYTES:,}")
    if array.kind != CHARACTERS or math.prod(array.shape[:-1]) > 1 or kind not in TEXT:
        refuse(
            field.path, f"has a name of class {array.kind} {array.shape}, stored as {kind}", "one line of characters"
        )
    order = {"<": "-le", ">": "-be"}[field.byte_order] if TEXT[kind] == "utf-16" else ""
    try:
        return str(letters.read(letters.left), TEXT[kind] + order)
    except UnicodeDecodeError as error:
        refuse(field.path, f"has a name that is broken: {error}", "characters")


def _read_numbers(name: str, field: Part) -> np.ndarray:
    array = _read_array(field)
    if array.kind not in CLASSES or array.flags & COMPLEX:
        what = "complex" if array.flags & COMPLEX else OTHER.get(array.kind, f"of class {array.kind}")
        refuse(field.path, f"{quote(name)} is {what}", "real numbers; gather what is on a GPU, and make sparse full")
    code = CLASSES[array.kind]
    kind, data = _open_element(field) if field.left else (CODES[code], field)
    stored = STORED.get(kind, "")
    whole_and_shorter = stored[:1] in ("i", "u") and int(stored[1:]) <= int(code[1:])
    if stored != code and not whole_and_shorter:
        refuse(
            field.path,
            f"{quote(name)} has the class {code} and is stored as type {kind}",
            "its own type, or shorter integers",
        )
    count_bytes(field.path, name, array.shape, np.dtype(code).itemsize)
    dtype = np.dtype(field.byte_order + stored)
    size = count_bytes(field.path, name, array.shape, dtype.itemsize)
    if size != data.left:
        wrong = f"{quote(name)} {array.shape} has {data.left:,} bytes"
        refuse(field.path, wrong, f"{size:,}, as many as its shape and {dtype} need")
    found = array_from_buffer(field.path, name, data.read(size), dtype, array.shape, "F")
    if array.flags & LOGICAL:
        return found.astype(np.bool_, order="F")
    if stored == code:
        return found.astype(code, order="F", copy=False)
    converted = found.astype(code, order="F")
    if found.size and not _is_within(found, np.dtype(code)):
        wrong = f"{quote(name)} has integers from {found.min()} to {found.max()}"
        refuse(field.path, wrong, f"such as its class {np.dtype(code)} has")
    return converted


def _is_within(integers: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a dtype has all these integers."""
    low, high = int(integers.min()), int(integers.max())
    if dtype.kind == "f":
        exact = 1 << np.finfo(dtype).nmant + 1
        return -exact <= low <= high <= exact
    return bool(np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max)


def _encode_element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def _encode_head(flags: int, shape: tuple[int, ...], name: bytes = b"") -> bytes:
    words, lengths = struct.pack("<II", flags, 0), struct.pack(f"<{len(shape)}i", *shape)
    return _encode_element(UINT32, words) + _encode_element(INT32, lengths) + _encode_element(INT8, name)


def _encode_value(path: Path, name: str, array: np.ndarray) -> list[bytes | memoryview]:
    """Encode a value as an array, its numbers in Fortran order."""
    logical = array.dtype == np.bool_
    code = "u1" if logical else array.dtype.str[1:]
    kinds = [kind for kind, stored in CLASSES.items() if stored == code]
    if not kinds or not 2 <= array.ndim <= MAX_AXES:
        refuse(
            path,
            f"cannot hold {quote(name)}, {array.dtype} {array.shape}",
            "numbers that MATLAB has, on 2 axes or more",
        )
    if array.nbytes > MAX_ELEMENT_BYTES or max(array.shape) >> 31:
        refuse(path, f"cannot hold {quote(name)} of {array.nbytes:,} bytes", "less than 4 GiB")
    data = to_bytes(array.T)
    head = _encode_head(kinds[0] | (LOGICAL if logical else 0), array.shape) + struct.pack(
        "<II", CODES[code], len(data)
    )
    padding = bytes(-len(data) % 8)
    return [struct.pack("<II", MATRIX, len(head) + len(data) + len(padding)), head, data, padding]
