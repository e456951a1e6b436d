"""ONNX's ``.onnx``: the constants of a model's graph, by their names (``onnx.proto`` of onnx/onnx).

``read`` returns the initializers and the values of ``Constant`` nodes, those of branches too. Their data is in the
model or, where an exporter writes more than 2 GB, in a file beside it. A graph with sparse initializers, or of a type
that NumPy and ``ml_dtypes`` do not have, is refused, since those might be weights. Nothing is written: the file is a
graph, and weights are none. The package ``onnx`` copies every tensor, so the wire format is decoded in ``_wire``.
``graphs.onnx`` reads the nodes.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np

from se_spec.texts import quote

from ._base import Budget, Tensors, count_bytes, refuse, refuse_to_write
from ._buffers import FileMaps, array_from_buffer, decode_name, little_endian_dtype, map_file, to_bytes
from ._wire import (
    MAX_AXES,
    VARINT_BYTES,
    Value,
    decode_axes,
    decode_integers,
    encode_varint,
    find_fields,
    iterate_fields,
    join_run,
)

NEEDS = ()

TYPES = (
    "UNDEFINED", "FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL", "FLOAT16", "DOUBLE",
    "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ", "UINT4", "INT4", "FLOAT4E2M1",
)  # fmt: skip
"""Each type, at its number in ONNX."""
DTYPES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
RAW, FLOATS, INTS, LONGS, DOUBLES = 9, 4, 5, 7, 10
"""Fields of a tensor that may hold its data."""
EXTERNAL = 1
ONCE = (2, 8, 14)
"""Fields of a tensor that have one value: type, name and place of the data."""
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15
"""Fields of a graph."""
GRAPH = 7
"""Field of a model."""
MAX_DEPTH = 32
"""Of branches within branches."""


def matches(path: Path, head: bytes) -> bool:
    """Whether the ending is ONNX's; a message has no signature."""
    return path.name.endswith(".onnx") and path.is_file()


def read(path: Path) -> Tensors:
    """Read views of the mapped file, and of the files beside it; only integers that are not raw are unpacked.

    Raises:
        FileFormatError: the file is no such message, has an initializer twice, or data in another folder.
    """
    message = open_graph(path)
    reader = TensorReader(path)
    tensors: dict[str, np.ndarray] = {}
    size = 0
    for name, array, is_initializer in iterate_constants(path, message, reader):
        if not is_initializer and (array.size < 2 or array.dtype.kind in "iub"):
            continue  # a shape, an axis or a number of the code
        if name in tensors and not is_initializer and _are_same(array, tensors[name]):
            continue  # the branches of an If may have the same constants
        if not name or name in tensors:
            refuse(path, f"has the initializer {quote(name)} twice or without a name", "each name once")
        tensors[name] = array
        size += array.nbytes
        Budget.of_shared(path, len(message) + reader.external_bytes).spend(size)
    if not tensors:
        refuse(path, "has no initializers", "a model with weights")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no graph.
    """
    refuse_to_write(path, "a graph", tensors, "another format; or export the model itself")


def _are_same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and to_bytes(a) == to_bytes(b)


def open_graph(path: Path) -> memoryview:
    """Map a model, and find the message of its graph.

    Raises:
        FileFormatError: the file is no model, or has no graph or several.
    """
    graphs = [value for number, value in open_model(path) if number == GRAPH and isinstance(value, memoryview)]
    if len(graphs) != 1:
        refuse(path, f"has {len(graphs)} graphs", "a ModelProto with one")
    return graphs[0]


def open_model(path: Path) -> Iterator[tuple[int, Value]]:
    """Map a model and iterate its fields."""
    return iterate_fields(path, memoryview(map_file(path)))


def iterate_constants(
    path: Path, graph: memoryview, reader: "TensorReader", depth: int = 0
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield name and array of every constant of a graph and its branches, and whether it is an initializer.

    Raises:
        FileFormatError: a tensor is sparse, or as ``TensorReader``; branches are nested more than 32 deep.
    """
    if depth > MAX_DEPTH:
        refuse(path, "has branches within branches", f"at most {MAX_DEPTH} deep")
    for number, value in iterate_fields(path, graph):
        if number == SPARSE_INITIALIZER:
            refuse(path, "has sparse initializers", "dense ones")
        if not isinstance(value, memoryview):
            continue
        if number == INITIALIZER:
            yield *reader.read(value), True
        elif number == NODE:
            operator, output, attributes = "", "", []
            for part, content in iterate_fields(path, value):
                if isinstance(content, memoryview):
                    if part == 4:
                        operator = decode_name(path, content)
                    elif part == 2:
                        output = decode_name(path, content)
                    elif part == 5:
                        attributes.append(content)
            for attribute in attributes:
                for part, content in iterate_fields(path, attribute):
                    if part in (6, 11) and isinstance(content, memoryview):
                        yield from iterate_constants(path, content, reader, depth + 1)
                    elif part == 5 and operator == "Constant" and isinstance(content, memoryview):
                        yield output, reader.read(content)[1], False


class TensorReader:
    """Reads the tensors of one model, in it or in files beside it, each of which is mapped once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._maps = maps = FileMaps()
        self._map_external = cache(lambda location: maps.map(_find_external(path, location)))

    @property
    def external_bytes(self) -> int:
        """Bytes of the files beside the model that were mapped."""
        return self._maps.bytes

    def read(self, message: memoryview) -> tuple[str, np.ndarray]:
        """Read a TensorProto: its name and a view of its values.

        Raises:
            FileFormatError: the message is broken, of a type that NumPy does not have, or its data is not there.
        """
        return _read_tensor(self._path, message, self._map_external)


def _read_tensor(path: Path, message: memoryview, map_external: Callable[[str], memoryview]) -> tuple[str, np.ndarray]:
    name, kind, shape, location = "", 0, [], 0
    entries: dict[str, str] = {}
    data: dict[int, memoryview | bytes | bytearray] = {}
    seen, raw_count = set[int](), 0
    for number, value in iterate_fields(path, message):
        if number in ONCE and number in seen:  # protobuf takes the last
            refuse(path, f"{quote(name)} has the field {number} twice", "each once")
        raw_count += number == RAW
        seen.add(number)
        match number, value:
            case (1, int() | memoryview()):
                shape += decode_axes(path, value)
                if len(shape) > MAX_AXES:
                    refuse(path, f"{quote(name)} has {len(shape):,} axes", f"at most {MAX_AXES} axes")
            case (2, int()):
                kind = value
            case (8, memoryview()):
                name = decode_name(path, value)
            case (13, memoryview()):
                entry = find_fields(path, value, "an entry of external data")
                key, text = (
                    decode_name(path, part) if isinstance(part, memoryview) else "" for part in map(entry.get, (1, 2))
                )
                if key in entries:
                    refuse(path, f"{quote(name)} has {quote(key)} of its external data twice", "each key once")
                entries[key] = text
            case (14, int()):
                location = value
            case (4 | 10, bytes()) if len(value) != (4 if number == 4 else 8):
                refuse(path, f"{quote(name)} has a number of {len(value)} bytes in the field {number}", "4 or 8")
            case (4 | 5 | 6 | 7 | 9 | 10 | 11, memoryview() | bytes()):
                data[number] = join_run(data.get(number, b""), value)
            case (5 | 7, int()):
                data[number] = join_run(data.get(number, b""), encode_varint(value))
            case (3, _):
                refuse(path, f"{quote(name)} is a segment of a tensor", "whole tensors")
    form = TYPES[kind] if kind < len(TYPES) else f"number {kind}"
    if form not in DTYPES:
        refuse(path, f"{quote(name)} is of ONNX's type {form}", f"one of {', '.join(DTYPES)}")
    dtype = little_endian_dtype(DTYPES[form])
    if location == EXTERNAL and data:
        refuse(path, f"{quote(name)} has its data in the model and in a file beside it", "one of them")
    if location == EXTERNAL:
        size = count_bytes(path, name, tuple(shape), dtype.itemsize)
        data[RAW] = _read_external(path, name, entries, size, map_external)
    typed = {"FLOAT": FLOATS, "DOUBLE": DOUBLES, "INT64": LONGS}.get(form, INTS)
    if location not in (0, EXTERNAL) or len(data) > 1 or not {RAW, typed} >= set(data):
        refuse(path, f"{quote(name)}, {form}, has its data in the fields {sorted(data)}", f"one of {RAW} and {typed}")
    found = data.get(RAW, data.get(typed, b""))
    if RAW not in data and typed in (INTS, LONGS):
        found = _decode_values(path, name, found, dtype, tuple(shape))
    array = array_from_buffer(path, name, found, dtype, tuple(shape))
    if raw_count > 1:
        refuse(path, f"{quote(name)} has its data in {raw_count:,} parts, of which protobuf takes the last", "one")
    return name, array


def _decode_values(
    path: Path, name: str, packed: memoryview | bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...]
) -> memoryview:
    """Decode values that are stored as varints; those of 16 bits are the bits of a float."""
    count = count_bytes(path, name, shape, 1, len(packed))
    count_bytes(path, name, shape, dtype.itemsize)
    if len(packed) > count * VARINT_BYTES:
        refuse(path, f"{quote(name)} {shape} has {len(packed):,} bytes of integers", f"at most {VARINT_BYTES} for each")
    bits = np.dtype("<u2") if dtype.name in ("float16", "bfloat16") else dtype
    return decode_integers(path, name, packed, bits, count).view(np.uint8).data


def _read_external(
    path: Path, name: str, entries: dict[str, str], size: int, map_external: Callable[[str], memoryview]
) -> memoryview | bytes:
    """Read the bytes of a tensor from the file that its entries name."""
    span = {key: entries.get(key) for key in ("offset", "length")}
    if any(text is not None and not (text.isascii() and text.isdigit() and len(text) < 20) for text in span.values()):
        refuse(path, f"{quote(name)} is at {span}", "numbers of bytes")
    data = map_external(entries.get("location", ""))
    offset, length = int(span["offset"] or 0), int(span["length"] or size)
    if length != size or offset + size > len(data):
        refuse(
            path, f"{quote(name)} is in {length:,} of {len(data):,} bytes from {offset:,}", f"{size:,} that are there"
        )
    return data[offset : offset + size]


def _find_external(path: Path, location: str) -> Path:
    """Find a plain file in the model's own folder, which onnx reads too: no link, and no other name of a file.

    In a cache of the Hugging Face hub both files are links into one folder.
    """
    plain = location not in ("", ".", "..") and not set(location) & set("/\\:\0") and len(location.encode()) <= 255
    data = path.parent / location
    is_cached = path.is_symlink() and data.resolve().parent == path.resolve().parent
    if not plain or (data.is_symlink() and not is_cached):
        refuse(path, f"has data in {quote(location)}", "the name of a file in the same folder")
    if not data.is_file():
        refuse(path, f"has its data in {quote(location)}, which is not there", "that file beside it")
    if data.stat().st_nlink > 1:
        refuse(path, f"has its data in {quote(location)}, a hard link, which onnx does not read", "a file of one name")
    return data
