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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._base import Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, encode_name, map_file, to_bytes
from ._wire import MAX_AXES, Cursor

NEEDS = ()

HEADER_BYTES = 128
NAME_BYTES = 4096
"""Unpacked bytes of a compressed variable that contain its name."""
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
    for element in _find_parameters(path):
        if not {"name", "value"} <= set(element):
            refuse(path, f"has parameters with the fields {', '.join(element)}", "name and value")
        name = _read_text(element["name"])
        if name in tensors or not name:
            refuse(path, f"has the parameter {name!r} twice" if name else "has one without a name", "each name once")
        tensors[name] = _read_numbers(name, element["value"])
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


def _find_parameters(path: Path) -> Iterator[dict[str, Cursor]]:
    """Find the elements of ``params``, each a dictionary of cursors by field name."""
    found: list[Iterator[dict[str, Cursor]]] = []
    seen = []
    for array in _iterate_variables(path):
        seen.append(array.name)
        if array.name == "net" and array.kind == STRUCTURE:
            inner = [element["params"] for element in _iterate_structures(array) if "params" in element]
            if len(inner) != 1:
                refuse(path, f"has a net with {len(inner)} sets of params", "a DagNN by net.saveobj(), not a SimpleNN")
            found.append(_iterate_structures(_read_array(inner[0])))
        elif array.name in ("net", "params"):
            found.append(_iterate_structures(array))
    if len(found) != 1:
        refuse(path, f"has the variables {seen}", "params of a DagNN by net.saveobj(), alone or in net; not a SimpleNN")
    return found[0]


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
        element = file.read(size)
        if kind == COMPRESSED:
            # The name is at the beginning; only ``net`` and ``params`` are unpacked as a whole.
            start = Cursor(path, memoryview(_unpack(path, element, NAME_BYTES)), byte_order)
            kind, size = start.numbers("II")
            if kind != MATRIX:
                refuse(path, f"has a compressed element of type {kind}", "arrays")
            array = _read_array(Cursor(path, start.data[8:], byte_order))
            if array.name not in ("net", "params"):
                yield array
                continue
            count_bytes(path, array.name, (size,), 1)
            element = memoryview(_unpack(path, element, size + 8, whole=True)).toreadonly()[8:]
        elif kind != MATRIX:
            refuse(path, f"has an element of type {kind}", "arrays")
        yield _read_array(Cursor(path, element, byte_order))


def _unpack(path: Path, data: memoryview, most: int, whole: bool = False) -> bytearray:
    """Unpack at most ``most`` bytes, or exactly ``most`` if ``whole``; the rest of a bomb is not unpacked."""
    inflate, out = zlib.decompressobj(), bytearray()
    try:
        for begin in range(0, len(data), CHUNK_BYTES):
            piece = bytes(data[begin : begin + CHUNK_BYTES])
            while piece and len(out) <= most:
                out += inflate.decompress(piece, most + 1 - len(out))
                piece = inflate.unconsumed_tail
            if len(out) > most or inflate.eof:
                break
    except zlib.error as error:
        refuse(path, f"has a compressed element that is broken: {error}", "what zlib can unpack")
    if whole and (len(out) != most or not inflate.eof):
        refuse(path, f"has an element that unpacks to {len(out):,} bytes or more", f"{most:,}, as it announces")
    return out


def _read_element(cursor: Cursor) -> tuple[int, Cursor]:
    """Read the next element within an array: its type, and its bytes without the padding to 8."""
    kind = cursor.number("I")
    if kind >> 16:  # a short element of at most 4 bytes, in place of the length
        size, kind = kind >> 16, kind & 0xFFFF
        data = cursor.read(4)
        if size > 4:
            refuse(cursor.path, f"has a short element of {size} bytes", "at most 4")
    else:
        size = cursor.number("I")
        data = cursor.read(size)
        cursor.read(min(-size % 8, cursor.left))
    return kind, Cursor(cursor.path, data[:size], cursor.byte_order)


def _read_typed(cursor: Cursor, kind: int) -> Cursor:
    """Read the next element, which must be of one type."""
    found, data = _read_element(cursor)
    if found != kind:
        refuse(cursor.path, f"has an element of type {found} within an array", f"type {kind}")
    return data


def _read_array(cursor: Cursor) -> Array:
    if not cursor.left:  # MATLAB's []
        return Array(DOUBLE, 0, (0, 0), "", cursor)
    words = _read_typed(cursor, UINT32)
    flags = words.number("I")
    shape: tuple[int, ...] = ()
    if flags & 0xFF != OPAQUE:
        lengths = _read_typed(cursor, INT32)
        if lengths.left > 4 * MAX_AXES:
            refuse(cursor.path, f"has an array of {lengths.left // 4:,} axes", f"at most {MAX_AXES}")
        shape = lengths.numbers(f"{lengths.left // 4}i")
    letters = _read_typed(cursor, INT8)
    return Array(flags & 0xFF, flags, shape, str(letters.read(letters.left), "latin-1"), cursor)


def _iterate_structures(array: Array) -> Iterator[dict[str, Cursor]]:
    """Yield the elements of a structure array; no field is read."""
    cursor = array.values
    if array.kind != STRUCTURE:
        refuse(
            cursor.path, f"has {array.name!r} as {OTHER.get(array.kind, 'numbers')}", "a structure, by net.saveobj()"
        )
    width = _read_typed(cursor, INT32).number("i")
    letters = _read_typed(cursor, INT8)
    if width < 1 or letters.left % width:
        refuse(cursor.path, f"has names of fields in {letters.left} bytes, {width} each", "whole names")
    names = [str(letters.read(width), "latin-1").split("\0")[0] for _ in range(letters.left // width)]
    count_bytes(cursor.path, f"structure {array.name}", (*array.shape, len(names)), 8, cursor.left)
    for _ in range(math.prod(array.shape) if names else 0):
        elements = [_read_element(cursor) for _ in names]
        if any(kind != MATRIX for kind, _ in elements) or len(set(names)) != len(names):
            refuse(cursor.path, f"has a structure with the fields {names}", "each once, and an array in each")
        yield dict(zip(names, (field for _, field in elements), strict=True))


def _read_text(field: Cursor) -> str:
    array = _read_array(field)
    kind, letters = _read_element(field) if field.left else (UTF8, field)
    if array.kind != CHARACTERS or math.prod(array.shape[:-1]) > 1 or kind not in TEXT:
        refuse(
            field.path, f"has a name of class {array.kind} {array.shape}, stored as {kind}", "one line of characters"
        )
    order = {"<": "-le", ">": "-be"}[field.byte_order] if TEXT[kind] == "utf-16" else ""
    try:
        return str(letters.read(letters.left), TEXT[kind] + order)
    except UnicodeDecodeError as error:
        refuse(field.path, f"has a name that is broken: {error}", "characters")


def _read_numbers(name: str, field: Cursor) -> np.ndarray:
    array = _read_array(field)
    if array.kind not in CLASSES or array.flags & COMPLEX:
        what = "complex" if array.flags & COMPLEX else OTHER.get(array.kind, f"of class {array.kind}")
        refuse(field.path, f"{name!r} is {what}", "real numbers; gather what is on a GPU, and make sparse full")
    code = CLASSES[array.kind]
    kind, data = _read_element(field) if field.left else (CODES[code], field)
    stored = STORED.get(kind, "")
    whole_and_shorter = stored[:1] in ("i", "u") and int(stored[1:]) <= int(code[1:])
    if stored != code and not whole_and_shorter:
        refuse(
            field.path,
            f"{name!r} has the class {code} and is stored as type {kind}",
            "its own type, or shorter integers",
        )
    count_bytes(field.path, name, array.shape, np.dtype(code).itemsize)
    dtype = np.dtype(field.byte_order + stored)
    found = array_from_buffer(field.path, name, data.read(data.left), dtype, array.shape, "F")
    return found.astype(np.bool_ if array.flags & LOGICAL else code, order="F", copy=False)


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
        refuse(path, f"cannot hold {name!r}, {array.dtype} {array.shape}", "numbers that MATLAB has, on 2 axes or more")
    if array.nbytes > MAX_ELEMENT_BYTES or max(array.shape) >> 31:
        refuse(path, f"cannot hold {name!r} of {array.nbytes:,} bytes", "less than 4 GiB")
    data = to_bytes(array.T)
    head = _encode_head(kinds[0] | (LOGICAL if logical else 0), array.shape) + struct.pack(
        "<II", CODES[code], len(data)
    )
    padding = bytes(-len(data) % 8)
    return [struct.pack("<II", MATRIX, len(head) + len(data) + len(padding)), head, data, padding]
