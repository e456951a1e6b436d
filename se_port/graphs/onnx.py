"""Graphs of ONNX models: the main graph, the branches of ``If``, ``Loop`` and ``Scan``, and functions (``onnx.proto``).

The operators are those of ai.onnx up to opset 24, and of com.microsoft where ONNX Runtime's optimiser and quantizer
write them. An operator that is not in the tables keeps its name.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..formats._base import refuse
from ..formats._buffers import decode_name
from ..formats._wire import decode_varints, iterate_fields, to_int64
from ..formats.onnx import GRAPH, INITIALIZER, MAX_DEPTH, NODE, TensorReader, open_model
from .graph import Graph, Node

VALUE_INFOS = (11, 12, 13)
"""Fields of a graph: its inputs, outputs and other tensors of which types are given."""
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


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of a model, and those of its branches and functions.

    Raises:
        FileFormatError: the file is no model, or is broken.
    """
    reader = TensorReader(path)
    graphs: list[Graph] = []
    for number, value in open_model(path):
        if number in (GRAPH, FUNCTION) and isinstance(value, memoryview):
            _Reader(path, reader, graphs, is_function=number == FUNCTION).read(value, {}, 0)
    return graphs


class _Reader:
    def __init__(self, path: Path, tensors: TensorReader, graphs: list[Graph], is_function: bool) -> None:
        self.path, self.tensors, self.graphs, self.is_function = path, tensors, graphs, is_function

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
            if number == node_field:
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
            op, inputs, outputs, name, attributes = self._read_node(one)
            branches += [value for value in attributes.values() if isinstance(value, memoryview)]
            if op == "Constant" and outputs:
                constants[outputs[0]] = _constant(attributes)
                literals |= {outputs[0]} if constants[outputs[0]].size == 1 else set()
                continue
            nodes += translate(op, inputs, outputs, name, attributes, constants)
        quantized = frozenset(name for name in constants if constants[name].dtype.kind in "iu")
        self.graphs.append(Graph(tuple(nodes), constants, frozenset(literals), shapes, quantized))
        for branch in branches:
            self.read(branch, constants, depth + 1)

    def _read_node(self, message: memoryview) -> tuple[str, tuple[str, ...], tuple[str, ...], str, dict[str, Any]]:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Any] = {}
        name = op = ""
        for number, value in iterate_fields(self.path, message):
            if not isinstance(value, memoryview):
                continue
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(decode_name(self.path, value))
            elif number == 3:
                name = decode_name(self.path, value)
            elif number == 4:
                op = decode_name(self.path, value)
            elif number == 5:
                key, content = self._read_attribute(value)
                attributes[key] = content
        return op, tuple(inputs), tuple(outputs), name, attributes

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


def translate(
    op: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    name: str,
    attributes: Attributes,
    constants: dict[str, np.ndarray],
) -> list[Node]:
    """Translate one node; quantized operators become several, and may add to the constants."""

    def node(to: str, *from_: str, **numbers: Any) -> list[Node]:
        return [Node(to, from_, outputs, numbers, name)]

    if op in SAME and op != "Flatten":
        return node(SAME[op], *inputs)
    if op in NUMBERS:
        to, table = NUMBERS[op]
        return node(to, *inputs, **{ours: attributes.get(key, default) for key, (ours, default) in table.items()})
    if op in QUANTIZED:
        return QUANTIZED[op](inputs, outputs, name, attributes, constants)
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


def _dequantized(name: str, scale: str, zero: str, node: str, axis: int = 0) -> tuple[Node, str]:
    """Return a node that dequantizes a constant, and its output's name."""
    output = f"{name} dequantized for {node}"
    return Node("dequantize", (name, scale, *([zero] if zero else [])), (output,), {"axis": axis}), output


def _integer_product(
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    name: str,
    attributes: Attributes,
    constants: dict[str, np.ndarray],
) -> list[Node]:
    """``ConvInteger`` and ``MatMulInteger`` of x, w, x's zero point, w's zero point."""
    x, w, *zeros = inputs
    integers, weight = _dequantized(w, ONE, zeros[1] if len(zeros) > 1 else "", outputs[0], -1)
    fields = {"weight": _weight_axes(constants, w), "groups": attributes.get("group", 1)}
    return [integers, Node(_product_of(attributes), (x, weight), outputs, fields, name)]


def _product_of(attributes: Attributes) -> str:
    return "conv" if "kernel_shape" in attributes or "strides" in attributes or "pads" in attributes else "matmul"


def _scaled_product(
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    name: str,
    attributes: Attributes,
    constants: dict[str, np.ndarray],
    is_conv: bool = True,
) -> list[Node]:
    """``QLinearConv`` and ``QLinearMatMul``: x, w and y with a scale and a zero point each, and a bias."""
    x, x_scale, _, w, w_scale, w_zero, y_scale, y_zero, *bias = inputs
    weight_node, weight = _dequantized(w, w_scale, w_zero, outputs[0], 0 if is_conv else -1)
    nodes, operands = [weight_node], [x, weight]
    if bias and bias[0]:
        scale = f"scale of {bias[0]} for {outputs[0]}"
        bias_node, bias_name = _dequantized(bias[0], scale, "", outputs[0])
        nodes += [Node("mul", (x_scale, w_scale), (scale,)), bias_node]
        operands.append(bias_name)
    fields = {"weight": _weight_axes(constants, w), "groups": attributes.get("group", 1)} if is_conv else {}
    product = f"{outputs[0]} before it is quantized"
    nodes.append(Node("conv" if is_conv else "matmul", tuple(operands), (product,), fields, name))
    return [*nodes, Node("quantize", (product, y_scale, y_zero), outputs, {}, name)]


def _scaled_pair(op: str) -> Callable[..., list[Node]]:
    def translate_pair(
        inputs: tuple[str, ...], outputs: tuple[str, ...], name: str, attributes: Attributes, constants: Any
    ) -> list[Node]:
        a, a_scale, a_zero, b, b_scale, b_zero, *_ = inputs
        nodes, names = [], []
        for value, scale, zero in ((a, a_scale, a_zero), (b, b_scale, b_zero)):
            if value in constants:
                one, value = _dequantized(value, scale, zero, outputs[0])
                nodes.append(one)
            names.append(value)
        return [*nodes, Node(op, tuple(names), outputs, {}, name)]

    return translate_pair


def _first_input(op: str, **numbers: Any) -> Callable[..., list[Node]]:
    def translate_first(
        inputs: tuple[str, ...], outputs: tuple[str, ...], name: str, attributes: Attributes, constants: Any
    ) -> list[Node]:
        return [Node(op, inputs[:1], outputs, numbers, name)]

    return translate_first


QUANTIZED: dict[str, Callable[..., list[Node]]] = {
    "ConvInteger": lambda i, o, n, a, c: _integer_product(i, o, n, {"kernel_shape": (), **a}, c),
    "MatMulInteger": _integer_product,
    "QLinearConv": _scaled_product,
    "QLinearMatMul": lambda i, o, n, a, c: _scaled_product(i, o, n, a, c, is_conv=False),
    "QLinearAdd": _scaled_pair("add"),
    "QLinearMul": _scaled_pair("mul"),
    "QLinearSigmoid": _first_input("sigmoid"),
    "QLinearGlobalAveragePool": _first_input("pool", kind="avg"),
}
"""Operators on integers with scales."""
