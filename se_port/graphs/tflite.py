"""Graphs of TensorFlow Lite models: the main subgraph, and those of branches and loops (schema.fbs of TensorFlow 2.21).

Tensors of integers with a scale stand for real numbers: a constant is dequantized by a node of its own, any other is
described as the real numbers that it stands for. An activation that the converter has fused into an operator becomes a
node again. An operator that is not in the tables keeps its name or number.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.tflite import Model, Operator, Subgraph, TensorInfo, open_model
from ..lazy_arrays import LazyArrays
from .graph import Graph, Node

NAMES = {
    0: "add", 41: "sub", 18: "mul", 42: "div", 78: "pow", 55: "maximum", 57: "minimum", 19: "relu", 21: "relu6",
    14: "sigmoid", 28: "tanh", 117: "hard_swish", 47: "exp", 73: "log", 59: "neg", 101: "abs", 75: "sqrt", 76: "rsqrt",
    92: "square", 158: "sign", 54: "prelu", 58: "less", 61: "greater", 62: "greater_equal", 63: "less_equal",
    87: "not", 84: "maximum", 86: "minimum",
    64: "where", 123: "where", 6: "identity", 53: "identity", 114: "identity", 91: "sum",
    80: "identity", 74: "sum",
}  # fmt: skip
"""Operators without attributes that matter here, by their number in ``BuiltinOperator``."""
NUMBERS = {
    20: ("clip", {"low": -1.0, "high": 1.0}),
    152: ("clip", {"low": 0.0, "high": 1.0}),
    111: ("elu", {"alpha": 1.0}),
}
"""Operators that are a function with numbers."""
EXPAND = (23, 43, 69, 70, 97, 130)
"""RESIZE_BILINEAR, SQUEEZE, TILE, EXPAND_DIMS, RESIZE_NEAREST_NEIGHBOR, BROADCAST_TO."""
OTHERS = {
    2: "CONCATENATION", 4: "DEPTHWISE_CONV_2D", 11: "L2_NORMALIZATION", 16: "LSTM", 25: "SOFTMAX", 34: "PAD",
    36: "GATHER", 45: "STRIDED_SLICE", 49: "SPLIT", 50: "LOG_SOFTMAX", 65: "SLICE", 67: "TRANSPOSE_CONV", 83: "PACK",
    89: "REDUCE_MIN", 88: "UNPACK", 99: "SQUARED_DIFFERENCE",
}  # fmt: skip
"""Names of operators that may be in a part that resembles a block."""
CUSTOM = {"FlexErf": "erf", "FlexSoftplus": "softplus", "FlexSoftsign": "softsign"}
"""Operators of TensorFlow that a converter may keep."""
FUSED = {
    1: ("relu", {}),
    2: ("clip", {"low": -1.0, "high": 1.0}),
    3: ("relu6", {}),
    4: ("tanh", {}),
    5: ("sign", {}),
}
"""Functions by their number in ``ActivationFunctionType``."""
FUSED_FIELD = {0: 0, 41: 0, 18: 0, 42: 0, 1: 5, 17: 5, 3: 3, 4: 4, 9: 0, 132: 4}
"""Field of an operator's options that holds the number of its fused activation."""


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of a model, and those of its branches and loops.

    Raises:
        FileFormatError: the file is no TensorFlow Lite model, or is broken.
    """
    model = open_model(path)
    return [_Translator(model, subgraph).translate() for subgraph in model.subgraphs]


class _Translator:
    """Translates one subgraph."""

    def __init__(self, model: Model, subgraph: Subgraph) -> None:
        self._model, self._subgraph = model, subgraph
        self._nodes: list[Node] = []
        self._added: dict[str, Callable[[], np.ndarray]] = {}
        self._dequantized: dict[int, str] = {}

    def translate(self) -> Graph:
        """Make the graph."""
        for operator in self._subgraph.operators:
            if operator.outputs and operator.outputs[0] >= 0:
                self._translate_operator(operator)
        tensors = self._subgraph.tensors
        constants = [info for info in tensors if self._model.is_constant(info)]
        makers = {info.name: partial(self._model.read, info) for info in constants} | self._added
        literals = [info.name for info in constants if np.prod(info.shape, dtype=np.float64) == 1]
        return Graph(
            tuple(self._nodes),
            LazyArrays(makers),
            frozenset(literals) | {f"{name} dequantized" for name in literals},
            {info.name: info.signature for info in tensors if info.signature},
            frozenset(tensors[number].name for number in self._dequantized),
            self._subgraph.name,
        )

    def _translate_operator(self, operator: Operator) -> None:
        """Append the nodes of an operator."""
        code, options = operator.code, operator.options
        output = self._subgraph.tensors[operator.outputs[0]].name
        field = FUSED_FIELD.get(code) if isinstance(code, int) else None
        fused = options.number(field, "b") if options is not None and field is not None else 0
        function, numbers = FUSED.get(fused, (f"fused activation {fused}", {}))
        result = f"{output} before {function}" if fused else output
        self._nodes.append(self._translate_product(operator, result, output))
        if fused:
            self._nodes.append(Node(function, (result,), (output,), numbers, output))

    def _translate_product(self, operator: Operator, result: str, name: str) -> Node:
        """Translate an operator without its activation."""
        code, options = operator.code, operator.options
        inputs = tuple(self._operand(number) for number in operator.inputs)

        def node(op: str, *from_: str, **attributes: Any) -> Node:
            return Node(op, from_, (result,), attributes, name)

        if isinstance(code, str):
            return node(CUSTOM.get(code, code), *inputs)
        if code in NAMES:
            return node(NAMES[code], *(inputs[:1] if NAMES[code] in ("identity", "sum") else inputs))
        if code in NUMBERS:
            op, numbers = NUMBERS[code]
            return node(op, *inputs, **numbers)
        if code in EXPAND:
            return node("expand", *inputs[:1])
        match code:
            case 3 | 132 if len(inputs) > 1:
                return node("conv", *inputs, weight="O11I" if code == 3 else "111IO", groups=self._groups(operator))
            case 9 if len(inputs) > 1 and (options is None or not options.number(1, "b")):
                return node("matmul", *inputs, transposed=True)
            case 126 if options is not None and not options.number(0, "?"):
                return node("matmul", *inputs, transposed=bool(options.number(1, "?")))
            case 1 | 17 if options is not None:
                window = (options.number(4), options.number(3))
                return node("pool", *inputs, kind="avg" if code == 1 else "max", window=window)
            case 40 | 82 if len(inputs) > 1:
                axes = self._integers(operator.inputs[1])
                if axes:
                    return node("pool", inputs[0], kind="avg" if code == 40 else "max", axes=axes)
            case 22:
                return node("reshape", *inputs[:1], **self._fixed_shape(operator.outputs[0]))
            case 39 if len(inputs) > 1:
                axes = self._integers(operator.inputs[1])
                return node("transpose", inputs[0], **({"axes": axes} if axes else {}))
            case 72 if len(inputs) == 2 and inputs[0] == inputs[1]:
                return node("isnan", inputs[0])
            case 98 if options is not None:
                return node("leaky_relu", *inputs, slope=options.real(0))
            case 150:
                approximate = options is not None and options.number(0, "?")
                return node("gelu_tanh" if approximate else "gelu", *inputs)
        return node(OTHERS.get(code, f"operator {code}"), *inputs)

    def _operand(self, number: int) -> str:
        """Name a tensor; a quantized constant by what is dequantized from it."""
        if number < 0:
            return ""
        info = self._subgraph.tensors[number]
        quantization = info.quantization
        if quantization is None or not self._model.is_constant(info) or info.type.startswith("float"):
            return info.name
        if number not in self._dequantized:
            name = self._dequantized[number] = f"{info.name} dequantized"
            parts = [f"scale of {info.name}", f"zero point of {info.name}"]
            op = "dequantize" if quantization.is_plain else "dequantize by blocks"
            self._added[parts[0]] = lambda: quantization.scale
            self._added[parts[1]] = lambda: quantization.zero if quantization.zero.size else np.zeros(1, np.int64)
            self._nodes.append(Node(op, (info.name, *parts), (name,), {"axis": quantization.axis}))
        return self._dequantized[number]

    def _integers(self, number: int) -> tuple[int, ...]:
        """Read a constant of integers; empty if the tensor is none."""
        info = self._subgraph.tensors[number] if number >= 0 else None
        if info is None or not self._model.is_constant(info) or not _is_short(info):
            return ()
        return tuple(self._model.read(info).reshape(-1).tolist())

    def _fixed_shape(self, number: int) -> dict[str, tuple[int, ...]]:
        shape = self._subgraph.tensors[number].signature
        return {"shape": shape} if shape.count(-1) < 2 and shape else {}

    def _groups(self, operator: Operator) -> int:
        """Count the groups of a convolution: the channels of x, by those of the kernel."""
        x, w = (self._subgraph.tensors[number].shape for number in operator.inputs[:2])
        channels = w[-2 if operator.code == 132 else -1] if len(w) > 1 else 0
        return x[-1] // channels if x and channels > 0 and x[-1] > 0 else 1


def _is_short(info: TensorInfo) -> bool:
    return info.type.startswith("int") and len(info.shape) < 2 and all(length <= 32 for length in info.shape)
