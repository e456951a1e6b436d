"""TensorFlow's operators in the form of ``graph``: those of frozen graphs, SavedModels and TensorFlow.js.

The operators are those of TensorFlow 2.21, and the fused ones that its optimiser (``_FusedConv2D``) and TensorFlow.js
write. An operator that is not in the tables keeps its name.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..lazy_arrays import LazyArrays
from ._flatten import FlatNode
from ._means import Means
from .graph import Graph, Node

SAME = {
    "Add": "add", "AddV2": "add", "BiasAdd": "add", "BiasAddV1": "add", "Sub": "sub", "Mul": "mul", "RealDiv": "div",
    "Div": "div", "Pow": "pow", "Maximum": "maximum", "Minimum": "minimum", "Relu": "relu", "Relu6": "relu6",
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign", "Exp": "exp", "Log": "log",
    "Expm1": "expm1", "Log1p": "log1p", "Neg": "neg", "Abs": "abs", "Sign": "sign", "Sqrt": "sqrt", "Rsqrt": "rsqrt",
    "Square": "square", "Reciprocal": "reciprocal", "Inv": "reciprocal", "Erf": "erf", "Prelu": "prelu",
    "Greater": "greater", "GreaterEqual": "greater_equal", "Less": "less", "LessEqual": "less_equal",
    "LogicalNot": "not", "LogicalOr": "maximum", "LogicalAnd": "minimum", "IsNan": "isnan",
    "Select": "where", "SelectV2": "where",
}  # fmt: skip
"""Operators without attributes that matter here."""
FIRST_INPUT = {
    **dict.fromkeys(
        ("Identity", "Cast", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "EnsureShape",
         "PlaceholderWithDefault", "ReadVariableOp", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs",
         "FakeQuantWithMinMaxVarsPerChannel"), "identity"),
    **dict.fromkeys(
        ("Sum", "Any"), "sum"),
    **dict.fromkeys(
        ("BroadcastTo", "Tile", "ResizeBilinear", "ResizeNearestNeighbor"), "expand"),
}  # fmt: skip
"""Operators whose other inputs do not matter here; of ``Sum`` and ``Any`` only those of a 0 are computed."""
FUSED = {
    "Relu": ("relu", {}), "Relu6": ("relu6", {}), "Elu": ("elu", {"alpha": 1.0}), "Sigmoid": ("sigmoid", {}),
    "Tanh": ("tanh", {}), "LeakyRelu": ("leaky_relu", {}), "GeluExact": ("gelu", {}), "GeluApproximate":
    ("gelu_tanh", {}), "_FusedSwish": ("silu", {}), "_FusedHardSwish": ("hard_swish", {}), "Prelu": ("prelu", {}),
}  # fmt: skip
"""Functions that are fused into an operator."""
NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "_FusedBatchNormEx")
POOLS = {"AvgPool": "avg", "MaxPool": "max", "AvgPool3D": "avg", "MaxPool3D": "max"}
CONVOLUTIONS = {"Conv2D": "11IO", "_FusedConv2D": "11IO", "Conv3D": "111IO"}
MAPS = (*CONVOLUTIONS, *POOLS, *NORMS, "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
"""Operators whose result has the channels where ``data_format`` has its letter C."""
MAX_INTEGERS = 32
"""Of a constant that is an axis, a shape or a permutation."""

Constants = Mapping[str, Callable[[], np.ndarray]]


def translate(
    nodes: Iterable[FlatNode],
    constants: Constants,
    shapes: Mapping[str, tuple[int, ...]],
    variables: Mapping[str, str],
    quantized: frozenset[str] = frozenset(),
) -> Graph:
    """Translate nodes.

    Args:
        nodes: without calls, in an order in which they can run.
        constants: makers of arrays: those of variables, and of nodes of the operator ``Const``.
        shapes: of constants.
        variables: tensors that stand for a variable, with the names of their constants.
        quantized: constants that are stored as integers.
    """
    return replace(_Translator(constants, shapes, variables).translate(nodes), quantized=quantized)


class _Translator:
    def __init__(
        self, constants: Constants, shapes: Mapping[str, tuple[int, ...]], variables: Mapping[str, str]
    ) -> None:
        self._constants, self._variables, self._shapes = LazyArrays(constants), variables, dict(shapes)
        self._means = Means(self._shapes, self._integers, self._number)
        self._nodes: list[Node] = []

    def translate(self, nodes: Iterable[FlatNode]) -> Graph:
        """Make the graph of nodes."""
        literals = set()
        for flat in nodes:
            if flat.output in self._variables:
                continue
            if flat.op == "Const":
                literals |= {flat.output} if self._is_number(flat.output) else set()
                continue
            inputs = tuple(self._variables.get(name, name) for name in flat.inputs)
            self._note_shape(flat, inputs)
            self._means.follow(flat, inputs)
            self._nodes += self._translate_node(flat, inputs)
        shapes = {name: shape for name, shape in self._shapes.items() if shape}
        return Graph(tuple(self._nodes), self._constants, frozenset(literals), shapes)

    def _translate_node(self, flat: FlatNode, inputs: tuple[str, ...]) -> list[Node]:
        op, output, attributes = flat.op, flat.output, flat.attributes

        def node(to: str, *from_: str, **numbers: Any) -> list[Node]:
            return [Node(to, from_, (output,), numbers, flat.name)]

        mean = self._means.find(*inputs) if op in ("RealDiv", "Div") and len(inputs) == 2 else None
        if mean is not None:
            return node("pool", mean[0], kind="avg", axes=mean[1])
        if op in SAME:
            return node(SAME[op], *inputs)
        if op in FIRST_INPUT:
            return node(FIRST_INPUT[op], *inputs[:1])
        if op in POOLS:
            window = _spatial(attributes.get("ksize"), _layout(attributes))
            return node("pool", *inputs, kind=POOLS[op], window=window or (0,))
        match op:
            case "NotEqual" if inputs[:1] == inputs[1:]:
                return node("isnan", inputs[0])
            case "AddN" if len(inputs) == 2:
                return node("add", *inputs)
            case "LeakyRelu":
                return node("leaky_relu", *inputs, slope=attributes.get("alpha", 0.2))
            case "Elu":
                return node("elu", *inputs, alpha=1.0)
            case "ClipByValue" if len(inputs) == 3 and all(map(self._is_number, inputs[1:])):
                low, high = map(self._number, inputs[1:])
                return node("clip", inputs[0], low=low, high=high)
            case "ExpandDims" | "Squeeze":
                shape = self._shapes.get(output, ())
                return node("reshape", *inputs[:1], **({"shape": shape} if shape and -1 not in shape else {}))
            case "Reshape":
                shape = self._integers(inputs[1]) if len(inputs) > 1 else ()
                return node("reshape", *inputs[:1], **({"shape": shape} if shape else {}))
            case "Transpose" if len(inputs) > 1:
                axes = self._integers(inputs[1])
                return node("transpose", inputs[0], **({"axes": axes} if axes else {}))
            case "Mean" | "Max" if len(inputs) > 1:
                axes = self._integers(inputs[1])
                if axes:
                    return node("pool", inputs[0], kind="avg" if op == "Mean" else "max", axes=axes)
            case "Conv2D" | "Conv3D" if len(inputs) > 1:
                return node("conv", *inputs[:2], weight=CONVOLUTIONS[op], groups=1)
            case "MatMul" if not attributes.get("transpose_a"):
                return node("matmul", *inputs, transposed=bool(attributes.get("transpose_b")))
            case "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" if not attributes.get("adj_x"):
                return node("matmul", *inputs, transposed=bool(attributes.get("adj_y")))
            case "Einsum" | "XlaEinsum":
                transposed = _read_equation(attributes.get("equation"))
                if transposed is not None:
                    return node("matmul", *inputs, transposed=transposed)
            case "_FusedConv2D" | "_FusedMatMul" if len(inputs) > 1:
                return self._translate_fused(flat, inputs)
        if op in NORMS and len(inputs) >= 5:
            return self._translate_norm(flat, inputs)
        return node(op or "?", *inputs)

    def _translate_norm(self, flat: FlatNode, inputs: tuple[str, ...]) -> list[Node]:
        """Batch norm with the statistics of training, and the activation that is fused into it."""
        if flat.attributes.get("is_training"):
            return [Node(f"{flat.op} in training", inputs, (flat.output,), {}, flat.name)]
        functions = [flat.attributes.get("activation_mode", "Identity")]
        return self._append_functions(
            flat, "batch_norm", inputs[:5], {"epsilon": flat.attributes.get("epsilon", 1e-4)}, functions, ()
        )

    def _translate_fused(self, flat: FlatNode, inputs: tuple[str, ...]) -> list[Node]:
        """Make a product, and the bias, batch norm and activation that are fused into it."""
        functions = [str(name) for name in flat.attributes.get("fused_ops") or ()]
        if flat.op == "_FusedConv2D":
            op, numbers = "conv", {"weight": CONVOLUTIONS[flat.op], "groups": 1}
        else:
            op, numbers = "matmul", {"transposed": bool(flat.attributes.get("transpose_b"))}
            if flat.attributes.get("transpose_a"):
                return [Node(flat.op, inputs, (flat.output,), {}, flat.name)]
        return self._append_functions(flat, op, inputs[:2], numbers, functions, inputs[2:])

    def _append_functions(
        self,
        flat: FlatNode,
        op: str,
        inputs: tuple[str, ...],
        numbers: dict[str, Any],
        functions: list[str],
        further: tuple[str, ...],
    ) -> list[Node]:
        """Make an operator, and what is fused into it, as nodes in a row; the latter have further inputs."""
        steps: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [(op, inputs, numbers)]
        for name in functions:
            if name == "BiasAdd":
                steps.append(("add", further[:1], {}))
                further = further[1:]
            elif name == "FusedBatchNorm":
                steps.append(("batch_norm", further[:4], {"epsilon": flat.attributes.get("epsilon", 1e-4)}))
                further = further[4:]
            elif name != "Identity":
                to, given = FUSED.get(name, (name, {}))
                given = {"slope": flat.attributes.get("leakyrelu_alpha", 0.2)} if to == "leaky_relu" else given
                steps.append((to, further[:1] if to == "prelu" else (), given))
        nodes: list[Node] = []
        for place, (to, from_, given) in enumerate(steps):
            output = flat.output if place == len(steps) - 1 else f"{flat.output} after {to} {place}"
            before = nodes[-1].outputs if nodes else ()
            nodes.append(Node(to, (*before, *from_), (output,), given, flat.name))
        return nodes

    def _integers(self, name: str) -> tuple[int, ...]:
        """Read a short constant of integers; empty if the tensor is none."""
        if name not in self._constants or math.prod(self._shapes.get(name, (0,))) > MAX_INTEGERS:
            return ()
        values = self._constants[name].reshape(-1)
        return tuple(values.tolist()) if values.dtype.kind in "iu" else ()

    def _number(self, name: str) -> float | None:
        """Read a constant of one number; None if the tensor is none."""
        return float(self._constants[name].reshape(-1)[0]) if self._is_number(name) else None

    def _is_number(self, name: str) -> bool:
        """Whether a tensor is a constant of one number."""
        return name in self._constants and math.prod(self._shapes.get(name, (0,))) == 1

    def _insert_or_remove_axes(self, flat: FlatNode, inputs: tuple[str, ...]) -> tuple[int, ...]:
        """Compute the shape behind ``ExpandDims`` and ``Squeeze``; empty if it is unknown."""
        shape = list(self._shapes.get(inputs[0], ()))
        if flat.op == "Squeeze":
            axes = flat.attributes.get("squeeze_dims") or [axis for axis, length in enumerate(shape) if length == 1]
            gone = {axis % len(shape) for axis in axes} if shape else set()
            return tuple(length for axis, length in enumerate(shape) if axis not in gone)
        axes = self._integers(inputs[1]) if len(inputs) > 1 else ()
        if not shape or len(axes) != 1 or not -len(shape) <= axes[0] + 1 <= len(shape) + 1:
            return ()
        shape.insert(axes[0] % (len(shape) + 1), 1)
        return tuple(shape)

    def _note_shape(self, flat: FlatNode, inputs: tuple[str, ...]) -> None:
        """Note how many axes a result has, as far as its operator tells."""
        shape = flat.attributes.get("shape")
        if flat.op == "Placeholder" and isinstance(shape, tuple) and shape:
            self._shapes[flat.output] = shape
        elif flat.op in MAPS:
            self._shapes[flat.output] = (-1,) * (5 if "3D" in flat.op else 4)
        elif flat.op in ("ExpandDims", "Squeeze") and inputs:
            self._shapes[flat.output] = self._insert_or_remove_axes(flat, inputs)
        elif FIRST_INPUT.get(flat.op) == "identity" and inputs[:1] and inputs[0] in self._shapes:
            self._shapes[flat.output] = self._shapes[inputs[0]]
        elif flat.op in SAME:
            known = [self._shapes[name] for name in inputs if name in self._shapes and not self._is_number(name)]
            longest = max(known, key=len, default=())
            if longest:
                is_same = sum(not self._is_number(name) for name in inputs) == 1
                self._shapes[flat.output] = longest if is_same else (-1,) * len(longest)


def _layout(attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("data_format") or "NHWC")


def _spatial(lengths: Any, layout: str) -> tuple[int, ...]:
    """Return the lengths of the spatial axes."""
    if not isinstance(lengths, list) or len(lengths) != len(layout):
        return ()
    return tuple(length for length, axis in zip(lengths, layout, strict=True) if axis not in "NC")


def _read_equation(equation: Any) -> bool | None:
    """Read a product with a matrix, such as ``...a,ab->...b``: whether it is (outputs, inputs); None if it is another.

    >>> _read_equation("ab,bc->ac"), _read_equation("abc,dc->abd"), _read_equation("ab,cd->abcd")
    (False, True, None)
    """
    left, _, result = str(equation).replace(" ", "").replace("...", "").partition("->")
    x, _, w = left.partition(",")
    if len(w) != 2 or not x or not result or x[:-1] != result[:-1]:
        return None
    ends = x[-1] + result[-1]
    return {ends: False, ends[::-1]: True}.get(w)
