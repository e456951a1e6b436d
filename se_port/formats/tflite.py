"""TensorFlow Lite's ``.tflite``: the constants of a model's subgraphs, by their names (schema.fbs of TensorFlow 2.21).

The file is a FlatBuffer; ``_flatbuffers`` reads it, since neither Google's package nor TensorFlow's interpreter checks
a file that it does not trust. Weights are buffers of constant tensors, whose names are those of the graph from which
the model was converted, such as ``net/block1a_se_reduce/convolution``; the numbers of one name are ``name``,
``name#2``. Convolutions have the axes OHWI, dense layers OI. Integers are returned as they are stored;
``graphs.tflite`` dequantizes them. Sparse tensors, and buffers outside of the file, are refused. Nothing is written:
the file is a graph, and weights are none.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from se_spec.texts import quote, shorten

from ..lazy_arrays import LazyArrays
from ._base import Budget, Tensors, count_bytes, refuse, refuse_to_write
from ._buffers import array_from_buffer, little_endian_dtype, map_file
from ._flatbuffers import Buffer, Table
from ._wire import MAX_AXES

NEEDS: tuple[str, ...] = ()

SIGNATURE = b"TFL3"
"""The bytes 4 to 8."""
TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "STRING", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "RESOURCE", "VARIANT", "uint32", "uint16", "INT4", "bfloat16", "INT2", "UINT4",
)  # fmt: skip
"""Each type at its number; those in capitals are no plain numbers of NumPy."""
PACKED = {"INT4": np.int8, "UINT4": np.uint8}
"""Types of two numbers in a byte, the first in its lower half."""


class Quantization(NamedTuple):
    """How integers stand for real numbers: ``scale * (integer - zero)``, along an axis if there are several."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int
    is_plain: bool


class TensorInfo(NamedTuple):
    """A tensor of a subgraph.

    Args:
        name: unique in the model.
        shape: as stored; of a constant, that of its data.
        signature: the shape with -1 for an axis of any length.
        type: one of ``TYPES``.
        buffer: number of the buffer; 0 if the tensor is no constant.
        quantization: None if the numbers are real.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    type: str
    buffer: int
    quantization: Quantization | None


class Operator(NamedTuple):
    """An operator: its number, or its name if it is a custom one; inputs and outputs by number, -1 for none."""

    code: int | str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None


class Subgraph(NamedTuple):
    """The tensors and operators of the model, or of a branch of it."""

    name: str
    tensors: list[TensorInfo]
    operators: list[Operator]


def matches(path: Path, head: bytes) -> bool:
    """Whether the signature is TensorFlow Lite's, or the ending of a file that has none."""
    return path.is_file() and (head[4:8] == SIGNATURE or path.name.endswith(".tflite"))


def read(path: Path) -> Tensors:
    """Read views of the mapped file; only numbers of four bits are unpacked.

    Raises:
        FileFormatError: the file is no such model, or a tensor is sparse, or not in it.
    """
    model = open_model(path)
    tensors: dict[str, np.ndarray] = {}
    budget = Budget.of_shared(path, model.bytes)
    for info in (info for subgraph in model.subgraphs for info in subgraph.tensors):
        if model.is_constant(info) and is_weight(info):
            tensors[info.name] = model.read(info)
            budget.spend(tensors[info.name].nbytes)
    if not tensors:
        refuse(path, "is a TensorFlow Lite model without weights", "constant tensors of more than one number")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no graph.
    """
    kind = "a TensorFlow Lite model, a graph"
    refuse_to_write(path, kind, tensors, "another format; or convert the model itself")


def is_weight(info: TensorInfo) -> bool:
    """Whether a constant is no shape, axis or number of the code."""
    is_real = info.quantization is not None or not info.type.lower().startswith(("int", "uint", "bool"))
    return is_real and int(np.prod(info.shape, dtype=np.float64)) > 1


class Model:
    """A mapped model, all of whose tensors are within the file.

    Args:
        path: of the file.

    Raises:
        FileFormatError: the file is no TensorFlow Lite model, or is broken.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._data = path, memoryview(map_file(path))
        if self._data[4:8] != SIGNATURE:
            refuse(path, f"has the bytes {bytes(self._data[4:8])!r}", f"a TensorFlow Lite model, with {SIGNATURE!r}")
        root = Buffer(path, self._data).root
        self._buffers = [self._find_buffer(table) for table in root.tables(4)]
        codes = [_read_code(table) for table in root.tables(1)]
        self.bytes = len(self._data)
        """Of the file."""
        self._budget = Budget(path)
        names: Counter[str] = Counter()
        self.subgraphs = [self._read_subgraph(table, codes, names) for table in root.tables(2)]
        """Of the model: the first is what runs, the others are branches and bodies of loops."""
        if not self.subgraphs:
            refuse(path, "is a TensorFlow Lite model without a graph", "at least one")
        self.constants = LazyArrays(
            {
                info.name: lambda info=info: self.read(info)  # type: ignore[misc]
                for subgraph in self.subgraphs
                for info in subgraph.tensors
                if self.is_constant(info)
            }
        )
        """The arrays of the constants, each made when it is asked for."""

    def is_constant(self, info: TensorInfo) -> bool:
        """Whether the file has the values of a tensor, and NumPy has its type."""
        plain = info.type in PACKED or info.type.islower()
        return plain and info.buffer > 0 and len(self._buffers[info.buffer]) > 0

    def read(self, info: TensorInfo) -> np.ndarray:
        """View a constant's values; numbers of four bits are unpacked."""
        data = self._buffers[info.buffer]
        if info.type in PACKED:
            return _unpack(self._path, info, data)
        return array_from_buffer(self._path, info.name, data, little_endian_dtype(info.type), info.shape)

    def _find_buffer(self, table: Table) -> memoryview:
        data, offset, size = table.view(0, 1), table.number(1, "Q"), table.number(2, "Q")
        if offset <= 1:  # TensorFlow writes 1 for a place that is still to come
            return data
        if len(data):
            refuse(self._path, "has a buffer with data in it and at another place", "one of them")
        if offset + size > len(self._data):
            refuse(self._path, f"has a buffer of {size:,} bytes at {offset:,}", f"one within {len(self._data):,} bytes")
        return self._data[offset : offset + size]

    def _read_subgraph(self, table: Table, codes: list[int | str], names: Counter[str]) -> Subgraph:
        tensors = [self._read_tensor(inner, number, names) for number, inner in enumerate(table.tables(0))]
        operators = []
        for inner in table.tables(3):
            code = inner.number(0, "I")
            ends = [tuple(inner.array(field, "<i4").tolist()) for field in (1, 2)]
            if code >= len(codes) or any(not -1 <= end < len(tensors) for part in ends for end in part):
                refuse(
                    self._path,
                    f"has an operator {code} of {len(codes)}, of the tensors {shorten(ends, 80)}",
                    "numbers that exist",
                )
            operators.append(Operator(codes[code], ends[0], ends[1], inner.table(4)))
        return Subgraph(table.text(4), tensors, operators)

    def _read_tensor(self, table: Table, number: int, names: Counter[str]) -> TensorInfo:
        name = table.text(3) or f"tensor {number}"
        names[name] += 1
        name = name if names[name] == 1 else f"{name}#{names[name]}"
        self._budget.spend_name(name)
        kind, buffer = table.number(1, "b"), table.number(2, "I")
        shape, signature = (tuple(table.array(field, "<i4").tolist()) for field in (0, 7))
        if not 0 <= kind < len(TYPES) or buffer >= max(len(self._buffers), 1) or len(shape) > MAX_AXES:
            refuse(
                self._path,
                f"has {quote(name)} of type {kind} with {len(shape)} axes in buffer {buffer}",
                f"a TensorFlow Lite model of {len(TYPES)} types and {len(self._buffers)} buffers",
            )
        if table.number(10, "I"):
            refuse(self._path, f"has {quote(name)} in another file", "a TensorFlow Lite model that is one file")
        info = TensorInfo(name, shape, signature or shape, TYPES[kind], buffer, _read_quantization(table.table(4)))
        if self._buffers and self.is_constant(info):
            if table.table(6) is not None:
                refuse(self._path, f"has {quote(name)}, which is sparse", "a TensorFlow Lite model of dense tensors")
            self._check_size(info)
        return info

    def _check_size(self, info: TensorInfo) -> None:
        """Compare a constant's shape with its bytes."""
        available = len(self._buffers[info.buffer])
        itemsize = 1 if info.type in PACKED else little_endian_dtype(info.type).itemsize
        size = count_bytes(self._path, info.name, info.shape, itemsize)
        size = -(-size // 2) if info.type in PACKED else size
        if size != available:
            wrong = f"is a TensorFlow Lite model whose {quote(info.name)} {info.shape} has {available:,} bytes"
            refuse(self._path, wrong, f"{size:,}, as many as its shape and {info.type} need")


def open_model(path: Path) -> Model:
    """Open a model.

    Raises:
        FileFormatError: the file is no TensorFlow Lite model, or is broken.
    """
    return Model(path)


def _read_code(table: Table) -> int | str:
    """Read an operator's number; older files have it in a byte."""
    return table.text(1) or max(table.number(0, "b"), table.number(3, "i"))


def _read_quantization(table: Table | None) -> Quantization | None:
    if table is None:
        return None
    scale, zero = table.array(2, "<f4"), table.array(3, "<i8")
    details = table.number(4, "B")
    if not scale.size and not details:
        return None
    return Quantization(scale, zero, table.number(6, "i"), not details and zero.size in (0, 1, scale.size))


def _unpack(path: Path, info: TensorInfo, data: memoryview) -> np.ndarray:
    """Unpack numbers of four bits."""
    count = count_bytes(path, info.name, info.shape, 1, 2 * len(data))
    packed = np.frombuffer(data, np.uint8)
    values = np.empty((len(data), 2), np.uint8)
    np.bitwise_and(packed, 15, out=values[:, 0])
    np.right_shift(packed, 4, out=values[:, 1])
    if info.type == "INT4":
        values ^= 8
        values -= 8  # below 0 it goes round, as the two's complement does
    return values.reshape(-1)[:count].view(PACKED[info.type]).reshape(info.shape)
