"""TensorFlow's GraphDef, as a frozen ``.pb``, within a SavedModel, or as JSON: nodes, functions and constants.

The messages are those of graph.proto, node_def.proto, attr_value.proto, function.proto and tensor.proto of
TensorFlow 2.21. Only the attributes that ``graphs`` needs are decoded.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from se_spec.texts import quote

from ._base import Budget, count_bytes, refuse
from ._buffers import array_from_buffer, decode_name, little_endian_dtype
from ._wire import (
    MAX_AXES,
    PartCounter,
    Value,
    decode_integers,
    decode_varints,
    encode_varint,
    find_fields,
    iterate_fields,
    join_run,
    to_int64,
)

FILLED_BYTES = 64 << 20
"""The largest constants, one or all, that may be written as one number for all their elements."""
MAX_LIST = 1024
"""Values of an attribute that is a list, such as a kernel's size."""
ONCE = (1, 2, 4)
"""Fields of a tensor that have one value: type, shape and content."""
STRING = 7
NUMBERS = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
"""Dtypes by their number in TensorFlow's ``DataType``; others are not plain numbers."""
ATTRIBUTES = frozenset(
    ("value", "shape", "shared_name", "data_format", "ksize", "squeeze_dims", "shrink_axis_mask", "equation", "epsilon",
     "is_training", "transpose_a", "transpose_b", "adj_x", "adj_y", "alpha", "leakyrelu_alpha", "fused_ops",
     "activation_mode", "f", "then_branch", "else_branch", "branches", "body")
)  # fmt: skip
"""The attributes that are decoded."""
TYPED = {5: "<f4", 6: "<f8"}
"""Fields of a tensor that hold floats one by one."""
VARINTS = (7, 10, 11, 13, 16, 17)
"""Fields of a tensor that hold integers, or the bits of 16-bit floats, one by one."""


class TensorMessage(NamedTuple):
    """A TensorProto that is not decoded yet."""

    data: memoryview


@dataclass(frozen=True)
class NodeDef:
    """A node of a GraphDef.

    Args:
        name: unique in its graph or function.
        op: the operator, or the name of a function.
        inputs: ``name``, ``name:1``, in functions ``name:output:0``; ``^name`` is a control input.
        attributes: those of ``ATTRIBUTES``, decoded; functions by their names.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Function:
    """A function of a library: names of its arguments, its nodes, and the tensor of each result."""

    name: str
    arguments: tuple[str, ...]
    nodes: tuple[NodeDef, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class GraphDef:
    """The nodes of a graph, and its functions by name."""

    nodes: tuple[NodeDef, ...]
    functions: dict[str, Function]

    def all_nodes(self) -> Iterator[NodeDef]:
        """Iterate over the nodes of the graph and of its functions."""
        yield from self.nodes
        for function in self.functions.values():
            yield from function.nodes


def parse_graph(path: Path, message: memoryview) -> GraphDef:
    """Parse a GraphDef.

    Raises:
        FileFormatError: the bytes are none.
    """
    nodes, functions = [], {}
    counter = PartCounter(path)
    for number, value in iterate_fields(path, message):
        if number == 1 and isinstance(value, memoryview):
            nodes.append(_parse_node(path, value, counter))
        elif number == 2:
            for part in iterate_messages(path, value, 1):
                function = _parse_function(path, part, counter)
                if function.name in functions:
                    refuse(path, f"has the function {quote(function.name)} twice", "each once")
                functions[function.name] = function
    names = set[str]()
    for node in nodes:
        if node.name in names:
            refuse(path, f"has the node {quote(node.name)} twice in its graph", "each once")
        names.add(node.name)
    return GraphDef(tuple(nodes), functions)


def iterate_messages(path: Path, message: Value, number: int) -> Iterator[memoryview]:
    """Iterate over the messages in one field of a message."""
    if not isinstance(message, memoryview):
        refuse(path, "has a number in the place of a message", "bytes with their length")
    return (value for key, value in iterate_fields(path, message) if key == number and isinstance(value, memoryview))


def parse_entry(path: Path, entry: memoryview) -> tuple[str, memoryview]:
    """Parse an entry of a map: its key, and the bytes of its value."""
    parts = find_fields(path, entry, "an entry of a map")
    key, value = (parts.get(number, memoryview(b"")) for number in (1, 2))
    if not isinstance(key, memoryview) or not isinstance(value, memoryview):
        refuse(path, "has a map whose keys or values are numbers", "text and messages")
    return decode_name(path, key), value


def _parse_node(path: Path, message: memoryview, counter: PartCounter) -> NodeDef:
    name = op = ""
    inputs, attributes = [], {}
    counter.count(2)
    for number, value in iterate_fields(path, message):
        if not isinstance(value, memoryview):
            continue
        counter.count()
        if number == 5:
            key, content = parse_entry(path, value)
            if key in attributes:
                refuse(path, f"has the attribute {quote(key)} of a node twice", "each once")
            if key in ATTRIBUTES:
                attributes[key] = _parse_attribute(path, content)
        elif number == 3:
            inputs.append(decode_name(path, value))
        elif number == 1:
            name = decode_name(path, value)
        elif number == 2:
            op = decode_name(path, value)
    return NodeDef(name, op, tuple(inputs), attributes)


def _parse_attribute(path: Path, message: memoryview) -> Any:
    """Parse an AttrValue; None if it is of no kind that matters."""
    for number, value in iterate_fields(path, message):
        match number, value:
            case 1, memoryview():
                return _parse_list(path, value)
            case 2, memoryview():
                return bytes(value).decode("utf-8", "replace")
            case 3, int():
                return to_int64(value)
            case 4, bytes():
                return float(np.frombuffer(value, "<f4")[0]) if len(value) == 4 else None
            case 5, int():
                return bool(value)
            case 6, int():
                return value
            case 7, memoryview():
                return parse_shape(path, value)
            case 8, memoryview():
                return TensorMessage(value)
            case 10, memoryview():
                return _parse_function_name(path, value)
    return None


def _parse_list(path: Path, message: memoryview) -> list[Any]:
    values: list[Any] = []
    for number, value in iterate_fields(path, message):
        match number, value:
            case 2, memoryview():
                values.append(bytes(value).decode("utf-8", "replace"))
            case 3, memoryview() if len(value) <= MAX_LIST:
                values += decode_varints(path, value).tolist()
            case 3, int():
                values.append(to_int64(value))
            case 9, memoryview():
                values.append(_parse_function_name(path, value))
        if len(values) > MAX_LIST:
            refuse(path, f"has an attribute of more than {MAX_LIST:,} values", f"at most {MAX_LIST:,}")
    return values


def _parse_function_name(path: Path, message: memoryview) -> str:
    return next((decode_name(path, name) for name in iterate_messages(path, message, 1)), "")


def _parse_function(path: Path, message: memoryview, counter: PartCounter) -> Function:
    name, nodes = "", []
    arguments: list[str] = []
    outputs: list[str] = []
    results: dict[str, str] = {}
    counter.count(8)
    for number, value in iterate_fields(path, message):
        if not isinstance(value, memoryview):
            continue
        counter.count()
        if number == 1:
            for part, content in iterate_fields(path, value):
                counter.count()
                if part == 1 and isinstance(content, memoryview):
                    name = decode_name(path, content)
                elif part in (2, 3) and isinstance(content, memoryview):
                    (arguments if part == 2 else outputs).append(_parse_function_name(path, content))
        elif number == 3:
            nodes.append(_parse_node(path, value, counter))
        elif number == 4:
            key, content = parse_entry(path, value)
            results[key] = decode_name(path, content)
    return Function(name, tuple(arguments), tuple(nodes), tuple(results.get(output, "") for output in outputs))


def parse_shape(path: Path, message: memoryview) -> tuple[int, ...] | None:
    """Parse a TensorShapeProto; None if the number of axes is unknown.

    Raises:
        FileFormatError: there are more than 32 axes.
    """
    axes, is_known = [], True
    for number, value in iterate_fields(path, message):
        if number == 2 and isinstance(value, memoryview):
            sizes = [size for key, size in iterate_fields(path, value) if key == 1 and isinstance(size, int)]
            axes.append(to_int64(sizes[-1]) if sizes else 0)
            if len(axes) > MAX_AXES:
                refuse(path, f"has a tensor of {len(axes)} axes, or more", f"at most {MAX_AXES}")
        elif number == 3:
            is_known = not value
    return tuple(axes) if is_known else None


def parse_texts(path: Path, tensor: TensorMessage) -> list[str]:
    """Parse a tensor of strings."""
    return [decode_name(path, text) for text in iterate_messages(path, tensor.data, 8)]


class TensorHead(NamedTuple):
    """Type and shape of a TensorProto, and the bytes of its values in the field that has them."""

    dtype: np.dtype | None
    shape: tuple[int, ...]
    field: int
    data: memoryview | bytes | bytearray


def parse_tensor_head(path: Path, name: str, tensor: TensorMessage) -> TensorHead:
    """Parse a TensorProto, and compare its shape with the bytes; no value is decoded yet.

    Raises:
        FileFormatError: the message is broken, or its values do not fit its shape.
    """
    kind, content = 0, memoryview(b"")
    shape: tuple[int, ...] = ()
    runs: dict[int, memoryview | bytes | bytearray] = {}
    seen = set[int]()
    for number, value in iterate_fields(path, tensor.data):
        if number in ONCE and number in seen:  # protobuf takes the last, or joins them
            refuse(path, f"{quote(name)} has the field {number} twice", "each once")
        seen.add(number)
        match number, value:
            case 1, int():
                kind = value
            case 2, memoryview():
                shape = parse_shape(path, value) or ()
            case 4, memoryview():
                content = value
            case (5 | 6 | 7 | 10 | 11 | 13 | 16 | 17, memoryview() | bytes()):
                runs[number] = join_run(runs.get(number, b""), value)
            case (7 | 10 | 11 | 13 | 16 | 17, int()):
                runs[number] = join_run(runs.get(number, b""), encode_varint(value))
    if kind not in NUMBERS:
        return TensorHead(None, shape, 0, b"")
    dtype = little_endian_dtype(NUMBERS[kind])
    size = count_bytes(path, name, shape, dtype.itemsize)
    if len(content):
        if len(content) != size:
            refuse(path, f"{quote(name)} {shape} has {len(content):,} bytes", f"{size:,}, as many as {dtype} needs")
        return TensorHead(dtype, shape, 4, content)
    if len(runs) > 1 or (dtype.kind == "c" and runs):
        refuse(path, f"{quote(name)} has its values in the fields {sorted(runs)}", "one that TensorFlow writes")
    number, data = next(iter(runs.items()), (0, b""))
    elements = len(data) // np.dtype(TYPED.get(number, "u1")).itemsize
    if elements * dtype.itemsize < size and size > FILLED_BYTES + len(data):
        refuse(path, f"{quote(name)} {shape} repeats a number to {size:,} bytes", f"at most {FILLED_BYTES:,}")
    return TensorHead(dtype, shape, number, data)


def decode_tensor(path: Path, name: str, tensor: TensorMessage) -> np.ndarray:
    """View or decode the values of a TensorProto; the last one stands for all that are left out.

    Raises:
        FileFormatError: as ``parse_tensor_head``, or the tensor is of no plain numbers.
    """
    dtype, shape, number, data = parse_tensor_head(path, name, tensor)
    if dtype is None:
        refuse(path, f"{quote(name)} is of no type of NumPy", f"one of {', '.join(NUMBERS.values())}")
    if number == 4:
        return array_from_buffer(path, name, memoryview(data), dtype, shape)
    if not len(data):
        return np.broadcast_to(np.zeros((), dtype), shape)
    count = int(np.prod(shape, dtype=np.int64))
    if number in TYPED:
        values = np.frombuffer(data[: len(data) // 8 * 8 if number == 6 else len(data) // 4 * 4], TYPED[number])
    elif number == 13:
        values = decode_integers(path, name, data, np.dtype("<u2"), max(count, 1))
        values = values.view(dtype if dtype.itemsize == 2 else "<u2")
    else:
        values = decode_integers(path, name, data, dtype if dtype.kind in "iub" else np.dtype("<i8"), max(count, 1))
    if not values.size or values.size > max(count, 1):
        refuse(path, f"{quote(name)} {shape} has {values.size:,} values", f"1 to {count:,}")
    values = values.astype(dtype, copy=False)
    if values.size == 1:
        return np.broadcast_to(values.reshape(()), shape)
    if values.size < count:
        whole = np.empty(count, dtype)
        whole[: values.size], whole[values.size :] = values, values[-1]
        values = whole
    return values[:count].reshape(shape)


def read_constants(path: Path, graph: GraphDef, size: int) -> dict[str, np.ndarray]:
    """Read the weights of a frozen graph: constants of more than one number that are no integers, by names of nodes.

    Args:
        path: the file, for the error.
        graph: of the file.
        size: of the file, in bytes.

    Raises:
        FileFormatError: a constant is broken, or there is none.
    """
    found: dict[str, np.ndarray] = {}
    budget = Budget(path, size + FILLED_BYTES)
    for name, tensor in iterate_constants(graph):
        head = parse_tensor_head(path, name, tensor)
        is_real = head.dtype is not None and head.dtype.kind not in "iub"
        if is_real and np.prod(head.shape, dtype=np.float64) > 1:
            budget.spend(count_bytes(path, name, head.shape, head.dtype.itemsize, budget.left))  # type: ignore[union-attr]
            budget.spend_name(name)
            found[name] = decode_tensor(path, name, tensor)
    if not found:
        refuse(path, "is a TensorFlow graph without weights", "constants, or a SavedModel's folder with its variables")
    return found


def iterate_constants(graph: GraphDef) -> Iterator[tuple[str, TensorMessage]]:
    """Iterate over names and messages of all constants; where functions have one name, the second is ``name#2``."""
    names: Counter[str] = Counter()
    for node in graph.all_nodes():
        tensor = node.attributes.get("value")
        if node.op == "Const" and isinstance(tensor, TensorMessage):
            names[node.name] += 1
            yield node.name if names[node.name] == 1 else f"{node.name}#{names[node.name]}", tensor
