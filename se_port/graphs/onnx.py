"""Graphs of ONNX models: the main graph, the branches of ``If``, ``Loop`` and ``Scan``, and functions (``onnx.proto``).

The operators are those of ai.onnx up to opset 24, and of com.microsoft where ONNX Runtime's optimiser and quantizer
write them. An operator that is not in the tables keeps its name.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..formats._base import refuse
from ..formats._buffers import decode_name
from ..formats._wire import PartCounter, decode_varints, iterate_fields, to_int64
from ..formats.onnx import GRAPH, INITIALIZER, MAX_DEPTH, NODE, TensorReader, open_model
from .graph import Graph, Node

VALUE_INFOS = (11, 12, 13)
"""Fields of a graph: its inputs, outputs and other tensors of which types are given."""
MAX_LIST = 1 << 16
"""Numbers of an attribute that is a list."""
FUNCTION = 25
"""Field of a model."""

SAME = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Max": "maximum", "Min": "minimum",
    "Relu": "relu", "Sigmoid": "sigmoid", "HardSwish": "hard_swish", "Tanh": "tanh", "Mish": "mish", "PRelu": "prelu",
    "Softplus": "softplus", "Softsign": "softsign", "Exp": "exp", "Log": "log", "Neg": "neg", "Abs": "abs",
    "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Erf": "erf",
    "Identity": "identity", "Cast": "identity", "CastLike": "identity", "Dropout": "identity",
    "Flatten": "expand", "Squeeze": "expand", "Unsqueeze": "expand", "Expand": "expand", "Tile": "expand",
    "Resize": "expand", "Upsample": "expand", "IsNaN": "isnan", "Where": "where", "QuantizeLinear": "quantize",
    "ReduceSum": "sum", "Not": "not", "Or": "maximum", "And": "minimum", "Sign": "sign",
    "Greater": "greater", "Less": "less", "GreaterOrEqual": "greater_equal", "LessOrEqual": "less_equal",
}  # fmt: skip
"""Operators without attributes that matter here."""
NUMBERS = {
    "LeakyRelu": ("leaky_relu", {"alpha": ("slope", 0.01)}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": ("slope", 0.2), "beta": ("offset", 0.5)}),
    "Elu": ("elu", {"alpha": ("alpha", 1.0)}),
    "BatchNormalization": ("batch_norm", {"epsilon": ("epsilon", 1e-5)}),
}
"""Operators with numbers: each attribute's name here, and its default."""
ONE, ZERO = "one of the reader", "zero of the reader"
"""Names of the constants that stand for a scale and a zero point that are computed from the input."""

Attributes = Mapping[str, Any]


class OnnxNode(NamedTuple):
    """A node as the file has it."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    attributes: Attributes


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of a model, and those of its branches and functions.

    Raises:
        FileFormatError: the file is no model, or is broken.
    """
    reader, counter = TensorReader(path), PartCounter(path)
    graphs: list[Graph] = []
    for number, value in open_model(path):
        if number in (GRAPH, FUNCTION) and isinstance(value, memoryview):
            _Reader(path, reader, graphs, counter, is_function=number == FUNCTION).read(value, {}, 0)
    return graphs


class _Reader:
    def __init__(
        self, path: Path, tensors: TensorReader, graphs: list[Graph], counter: PartCounter, is_function: bool
    ) -> None:
        self.path, self.tensors, self.graphs, self.is_function = path, tensors, graphs, is_function
        self.counter = counter

    def read(self, message: memoryview, outer: Mapping[str, np.ndarray], depth: int) -> None:
        """Append the graph of a message, and those of its branches, which may use the constants around them."""
        if depth > MAX_DEPTH:
            refuse(self.path, "has branches within branches", f"at most {MAX_DEPTH} deep")
        constants, shapes, nodes = dict(outer), {}, []
        node_field = 7 if self.is_function and not depth else NODE
        messages = []
        for number, value in iterate_fields(self.path, message):
            if not isinstance(value, memoryview):
                continue
            self.counter.count()
            if number == node_field:
                self.counter.count(3)
                messages.append(value)
            elif self.is_function and not depth:
                continue
            elif number == INITIALIZER:
                name, array = self.tensors.read(value)
                constants[name] = array
            elif number in VALUE_INFOS:
                name, shape = _read_shape(self.path, value)
                if shape is not None:
                    shapes[name] = shape
        constants |= {ONE: np.ones((), np.float32), ZERO: np.zeros((), np.int32)}
        literals, branches = set(), []
        for one in messages:
            node = self._read_node(one)
            branches += [value for value in node.attributes.values() if isinstance(value, memoryview)]
            if node.op == "Constant" and node.outputs:
                constants[node.outputs[0]] = _constant(node.attributes)
                literals |= {node.outputs[0]} if constants[node.outputs[0]].size == 1 else set()
                continue
            nodes += translate(node, constants)
        quantized = frozenset(name for name in constants if constants[name].dtype.kind in "iu")
        self.graphs.append(Graph(tuple(nodes), constants, frozenset(literals), shapes, quantized))
        for branch in branches:
            self.read(branch, constants, depth + 1)

    def _read_node(self, message: memoryview) -> OnnxNode:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Any] = {}
        name = op = ""
        for number, value in iterate_fields(self.path, message):
            if not isinstance(value, memoryview):
                continue
            self.counter.count()
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(decode_name(self.path, value))
            elif number == 3:
                name = decode_name(self.path, value)
            elif number == 4:
                op = decode_name(self.path, value)
            elif number == 5:
                key, content = self._read_attribute(value)
                attributes[key] = content
        return OnnxNode(op, tuple(inputs), tuple(outputs), name, attributes)

    def _read_attribute(self, message: memoryview) -> tuple[str, Any]:
        name, content, many = "", None, []
        for number, value in iterate_fields(self.path, message):
            match number, value:
                case 1, memoryview():
                    name = decode_name(self.path, value)
                case 2, bytes():
                    content = struct.unpack("<f", value)[0] if len(value) == 4 else None
                case 3, int():
                    content = to_int64(value)
                case 4, memoryview():
                    content = bytes(value[:256]).decode("utf-8", "replace")
                case 5, memoryview():
                    content = self.tensors.read(value)[1]
                case ((6 | 11), memoryview()):
                    content = value
                case 7, bytes():
                    many.append(struct.unpack("<f", value)[0] if len(value) == 4 else 0.0)
                case 7, memoryview():
                    many += np.frombuffer(value[: len(value) // 4 * 4], "<f4").tolist()
                case 8, int():
                    many.append(to_int64(value))
                case 8, memoryview():
                    many += decode_varints(self.path, value).tolist()
            if len(many) > MAX_LIST:
                refuse(self.path, f"has an attribute of more than {MAX_LIST:,} numbers", f"at most {MAX_LIST:,}")
        return name, content if content is not None else many


def _read_shape(path: Path, message: memoryview) -> tuple[str, tuple[int, ...] | None]:
    """Name and shape of a ValueInfoProto; None if it has no shape."""
    name, shape = "", None
    for number, value in iterate_fields(path, message):
        if number == 1 and isinstance(value, memoryview):
            name = decode_name(path, value)
        elif number == 2 and isinstance(value, memoryview):
            for tensor in _submessages(path, value, 1):
                for axes in _submessages(path, tensor, 2):
                    shape = tuple(_read_axis(path, axis) for axis in _submessages(path, axes, 1))
    return name, shape


def _submessages(path: Path, message: memoryview, number: int) -> Iterator[memoryview]:
    return (v for n, v in iterate_fields(path, message) if n == number and isinstance(v, memoryview))


def _read_axis(path: Path, message: memoryview) -> int:
    lengths = [value for number, value in iterate_fields(path, message) if number == 1 and isinstance(value, int)]
    return to_int64(lengths[0]) if lengths else -1


def _constant(attributes: Attributes) -> np.ndarray:
    """Return the value of a ``Constant`` node."""
    value = next(iter(attributes.values()), 0.0)
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value if isinstance(value, int | float | list) else 0.0)


def translate(source: OnnxNode, constants: dict[str, np.ndarray]) -> list[Node]:
    """Translate one node; quantized operators become several, and may add to the constants.

    A node that lacks inputs, or has attributes of another kind, keeps its operator's name.
    """
    try:
        return _translate(source, constants)
    except (IndexError, KeyError, TypeError, ValueError):
        return [Node(source.op or "?", source.inputs, source.outputs, {}, source.name)]


def _translate(source: OnnxNode, constants: dict[str, np.ndarray]) -> list[Node]:
    op, inputs, outputs, name, attributes = source

    def node(to: str, *from_: str, **numbers: Any) -> list[Node]:
        return [Node(to, from_, outputs, numbers, name)]

    if op in SAME and op != "Flatten":
        return node(SAME[op], *inputs)
    if op in NUMBERS:
        to, table = NUMBERS[op]
        return node(to, *inputs, **{ours: attributes.get(key, default) for key, (ours, default) in table.items()})
    if op in QUANTIZED:
        return QUANTIZED[op](source, constants)
    match op:
        case "Flatten":
            return node("expand", *inputs)
        case "Reshape":
            shape = constants.get(inputs[1]) if len(inputs) > 1 else None
            return node("reshape", inputs[0], **({"shape": _resolve_zeros(shape)} if shape is not None else {}))
        case "Transpose":
            return node("transpose", *inputs, **({"axes": tuple(attributes["perm"])} if attributes.get("perm") else {}))
        case "GlobalAveragePool" | "GlobalMaxPool":
            return node("pool", *inputs, kind="avg" if op == "GlobalAveragePool" else "max")
        case "AveragePool" | "MaxPool":
            if not any(attributes.get("pads", ())) and not attributes.get("ceil_mode"):
                kind = "avg" if op == "AveragePool" else "max"
                return node("pool", *inputs, kind=kind, window=tuple(attributes.get("kernel_shape", ())) or (0,))
        case "ReduceMean" | "ReduceMax":
            axes = attributes.get("axes")
            if axes is None and len(inputs) > 1 and inputs[1] in constants:
                axes = constants[inputs[1]].reshape(-1).tolist()
            if axes:
                return node("pool", inputs[0], kind="avg" if op == "ReduceMean" else "max", axes=tuple(axes))
        case "Conv" if len(inputs) > 1:
            return node("conv", *inputs, weight=_weight_axes(constants, inputs[1]), groups=attributes.get("group", 1))
        case "Gemm":
            if attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA"):
                return node("matmul", *inputs, transposed=bool(attributes.get("transB", 0)))
        case "MatMul":
            return node("matmul", *inputs)
        case "Clip":
            low, high = (
                attributes.get(key, _number(constants, inputs[place] if len(inputs) > place else ""))
                for key, place in (("min", 1), ("max", 2))
            )
            limits = {key: value for key, value in (("low", low), ("high", high)) if value is not None}
            return node("clip", inputs[0], **limits)
        case "Gelu":
            return node("gelu_tanh" if attributes.get("approximate") == "tanh" else "gelu", inputs[0])
        case "Swish" | "QuickGelu":
            alpha = attributes.get("alpha", 1.0 if op == "Swish" else 1.702)
            if alpha == 1.0:
                return node("silu", inputs[0])
        case "DequantizeLinear":
            return node("dequantize", *inputs, axis=attributes.get("axis", 1))
        case "DynamicQuantizeLinear" if len(outputs) == 3:
            # The integers are taken in units of their scale.
            constants[outputs[1]], constants[outputs[2]] = constants[ONE], constants[ZERO]
            return [Node("quantize", inputs[:1], outputs[:1], {}, name)]
    return [Node(op or "?", inputs, outputs, {}, name)]


def _resolve_zeros(shape: np.ndarray) -> tuple[int, ...]:
    return tuple(int(length) for length in shape.reshape(-1))


def _weight_axes(constants: Mapping[str, np.ndarray], name: str) -> str:
    return "OI" + "1" * max(0, (constants[name].ndim if name in constants else 4) - 2)


def _number(constants: Mapping[str, np.ndarray], name: str) -> float | None:
    array = constants.get(name)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _make_dequantize_node(name: str, scale: str, zero: str, node: str, axis: int = 0) -> tuple[Node, str]:
    """Return a node that dequantizes a constant, and its output's name."""
    output = f"{name} dequantized for {node}"
    return Node("dequantize", (name, scale, *([zero] if zero else [])), (output,), {"axis": axis}), output


def _integer_product(source: OnnxNode, constants: Mapping[str, np.ndarray], *, is_conv: bool) -> list[Node]:
    """Translate ``ConvInteger`` or ``MatMulInteger`` of x, w, x's zero point, w's zero point."""
    x, w, *zeros = source.inputs
    integers, weight = _make_dequantize_node(w, ONE, zeros[1] if len(zeros) > 1 else "", source.outputs[0], -1)
    return [integers, _product(source, constants, (x, weight), w, source.outputs, is_conv=is_conv)]


def _product(
    source: OnnxNode,
    constants: Mapping[str, np.ndarray],
    inputs: tuple[str, ...],
    weight: str,
    outputs: tuple[str, ...],
    *,
    is_conv: bool,
) -> Node:
    if not is_conv:
        return Node("matmul", inputs, outputs, {}, source.name)
    fields = {"weight": _weight_axes(constants, weight), "groups": source.attributes.get("group", 1)}
    return Node("conv", inputs, outputs, fields, source.name)


def _scaled_product(source: OnnxNode, constants: Mapping[str, np.ndarray], *, is_conv: bool) -> list[Node]:
    """Translate ``QLinearConv`` or ``QLinearMatMul``: x, w and y with a scale and a zero point each, and a bias."""
    x, x_scale, _, w, w_scale, w_zero, y_scale, y_zero, *bias = source.inputs
    output = source.outputs[0]
    weight_node, weight = _make_dequantize_node(w, w_scale, w_zero, output, 0 if is_conv else -1)
    nodes, operands = [weight_node], [x, weight]
    if bias and bias[0]:
        scale = f"scale of {bias[0]} for {output}"
        bias_node, bias_name = _make_dequantize_node(bias[0], scale, "", output)
        nodes += [Node("mul", (x_scale, w_scale), (scale,)), bias_node]
        operands.append(bias_name)
    product = f"{output} before it is quantized"
    nodes.append(_product(source, constants, tuple(operands), w, (product,), is_conv=is_conv))
    return [*nodes, Node("quantize", (product, y_scale, y_zero), source.outputs, {}, source.name)]


def _scaled_pair(source: OnnxNode, constants: Mapping[str, np.ndarray], *, op: str) -> list[Node]:
    """Translate an operator of two tensors, each with a scale and a zero point."""
    a, a_scale, a_zero, b, b_scale, b_zero, *_ = source.inputs
    nodes, names = [], []
    for value, scale, zero in ((a, a_scale, a_zero), (b, b_scale, b_zero)):
        if value in constants:
            one, value = _make_dequantize_node(value, scale, zero, source.outputs[0])
            nodes.append(one)
        names.append(value)
    return [*nodes, Node(op, tuple(names), source.outputs, {}, source.name)]


def _first_input(source: OnnxNode, constants: Mapping[str, np.ndarray], *, op: str, **numbers: Any) -> list[Node]:
    """Translate an operator of one tensor, with scales that do not matter."""
    return [Node(op, source.inputs[:1], source.outputs, numbers, source.name)]


QUANTIZED: dict[str, Callable[[OnnxNode, dict[str, np.ndarray]], list[Node]]] = {
    "ConvInteger": partial(_integer_product, is_conv=True),
    "MatMulInteger": partial(_integer_product, is_conv=False),
    "QLinearConv": partial(_scaled_product, is_conv=True),
    "QLinearMatMul": partial(_scaled_product, is_conv=False),
    "QLinearAdd": partial(_scaled_pair, op="add"),
    "QLinearMul": partial(_scaled_pair, op="mul"),
    "QLinearSigmoid": partial(_first_input, op="sigmoid"),
    "QLinearGlobalAveragePool": partial(_first_input, op="pool", kind="avg"),
}
"""Operators on integers with scales."""
