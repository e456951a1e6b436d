"""ATen's operators, which TorchScript and ``torch.export`` share, as those of ``graph``.

``Builder`` collects the nodes of one graph. Arguments are named as in ATen's schema
(``aten/src/ATen/native/native_functions.yaml``); those without a value are those of the schema. An operator that is not
in the tables, or has an argument that changes its meaning here, keeps its own name behind ``aten.``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import Graph, Node


@dataclass(eq=False)
class Ref:
    """A tensor of a graph; an operator that writes in place gives it another name.

    Args:
        name: in the graph.
        rank: number of axes; None if it is not known.
        is_tuple: whether it stands for several results, of which it is the first.
    """

    name: str
    rank: int | None = None
    is_tuple: bool = False


class _Unknown:
    """A value that is not computed here."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()
MAX_LISTS = 2
"""Lists within lists in which tensors are arguments."""

FUNCTIONS = {
    "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "silu": "silu", "hardswish": "hard_swish", "mish": "mish",
    "relu6": "relu6", "exp": "exp", "log": "log", "neg": "neg", "negative": "neg", "abs": "abs", "sqrt": "sqrt",
    "reciprocal": "reciprocal", "erf": "erf", "isnan": "isnan", "special_expit": "sigmoid", "special_erf": "erf",
}  # fmt: skip
"""Functions of one tensor without numbers."""
COPIES = {
    "to", "_to_copy", "contiguous", "clone", "detach", "detach_", "alias", "type_as", "float", "half", "bfloat16",
    "double", "cpu", "cuda", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout",
    "lift_fresh", "lift_fresh_copy", "lift", "_conj", "resolve_conj", "resolve_neg", "convert_element_type",
}  # fmt: skip
"""Operators whose result has the values of their first tensor, in the same shape."""
RESHAPES = {
    "view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "squeeze", "unsqueeze", "expand", "expand_as",
    "repeat", "unflatten", "view_as", "reshape_as", "squeeze_copy", "unsqueeze_copy", "view_copy", "expand_copy",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d",
    "upsample_trilinear3d", "upsample_bicubic2d",
}  # fmt: skip
"""Operators whose result has the values of their first tensor in their order, some of them more than once."""
TRANSPOSES = {"t", "transpose", "permute", "numpy_T", "swapaxes", "movedim", "transpose_copy", "permute_copy"}
PAIRS = {
    "add": "add", "sub": "sub", "subtract": "sub", "mul": "mul", "multiply": "mul", "div": "div", "divide": "div",
    "true_divide": "div", "pow": "pow", "maximum": "maximum", "minimum": "minimum",
}  # fmt: skip
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "_convolution", "convolution", "_convolution_mode", "cudnn_convolution"}
AVERAGES = {f"{name}avg_pool{rank}d" for name in ("adaptive_", "_adaptive_") for rank in (1, 2, 3)}
MAXIMA = {f"adaptive_max_pool{rank}d" for rank in (1, 2, 3)}
WINDOWS = {f"{kind}_pool{rank}d{end}": kind for kind in ("avg", "max") for rank in (1, 2, 3)
           for end in ("", "_with_indices")}  # fmt: skip
PRODUCTS = {"matmul", "mm", "bmm"}

_CONV = "input weight bias stride padding dilation"
SCHEMAS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "_convolution_mode"), f"{_CONV} groups"),
    **dict.fromkeys(("_convolution", "convolution"), f"{_CONV} transposed output_padding groups"),
    "cudnn_convolution": "input weight padding stride dilation groups",
    "linear": "input weight bias",
    "addmm": "self mat1 mat2 beta alpha",
    "batch_norm": "input weight bias running_mean running_var training momentum eps",
    "native_batch_norm": "input weight bias running_mean running_var training momentum eps",
    "_native_batch_norm_legit": "input weight bias running_mean running_var training momentum eps",
    "_native_batch_norm_legit_no_training": "input weight bias running_mean running_var momentum eps",
    "cudnn_batch_norm": "input weight bias running_mean running_var training exponential_average_factor epsilon",
    "add": "self other alpha",
    "sub": "self other alpha",
    "subtract": "self other alpha",
    "rsub": "self other alpha",
    "pow": "self exponent",
    "mean": "self dim keepdim",
    "amax": "self dim keepdim",
    "max": "self dim keepdim",
    "gelu": "self approximate",
    "leaky_relu": "self negative_slope",
    "elu": "self alpha scale input_scale",
    "softplus": "self beta threshold",
    "hardtanh": "self min_val max_val",
    "clamp": "self min max",
    "clip": "self min max",
    "clamp_min": "self min",
    "clamp_max": "self max",
    "prelu": "self weight",
    "_prelu_kernel": "self weight",
    "where": "condition self other",
    "view": "self size",
    "reshape": "self shape",
    "transpose": "self dim0 dim1",
    "swapaxes": "self dim0 dim1",
    "permute": "self dims",
    **dict.fromkeys(AVERAGES | MAXIMA, "self output_size"),
    **{
        name: "self kernel_size stride padding " + ("ceil_mode" if kind == "avg" else "dilation ceil_mode")
        for name, kind in WINDOWS.items()
    },
    "quantize_per_tensor": "input scale zero_point quant_min quant_max dtype",
    "dequantize_per_tensor": "input scale zero_point quant_min quant_max dtype",
    "quantize_per_channel": "input scales zero_points axis quant_min quant_max dtype",
    "dequantize_per_channel": "input scales zero_points axis quant_min quant_max dtype",
}
"""Names of the arguments, in their order; others are ``self other``."""


@dataclass
class Builder:
    """Collects the nodes of a graph.

    Args:
        constants: arrays of the file, by name; numbers of the code are added.
        quantized: names of constants that are integers.
    """

    constants: dict[str, np.ndarray]
    quantized: frozenset[str] = frozenset()
    nodes: list[Node] = field(default_factory=list)
    literals: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    name: str = ""
    """Of the next node in the file."""

    def make_graph(self) -> Graph:
        """Return what was collected."""
        return Graph(tuple(self.nodes), self.constants, frozenset(self.literals), self.shapes, self.quantized)

    def add(self, op: str, inputs: Sequence[Any], output: str, **attributes: Any) -> None:
        """Add a node of ``graph``; numbers among its inputs become constants."""
        self.nodes.append(Node(op, tuple(map(self.to_name, inputs)), (output,), attributes, self.name))

    def to_name(self, value: Any) -> str:
        """Return the name of a tensor, or of the constant that a number becomes."""
        if isinstance(value, Ref):
            return value.name
        if isinstance(value, bool | int | float):
            name = f"number {value!r}"
            if name not in self.constants:
                self.constants[name] = np.asarray(value, np.float64)
                self.literals.add(name)
            return name
        return "" if value is None else f"unknown {len(self.nodes)}"

    def _find_array(self, value: Any) -> np.ndarray | None:
        """Return the array of a constant of the file."""
        return self.constants.get(value.name) if isinstance(value, Ref) else None

    def call(self, op: str, positional: Sequence[Any], named: Mapping[str, Any], output: str) -> None:
        """Add the nodes of an operator.

        Args:
            op: its name, without an overload and without the ``_`` of those that write in place.
            positional: arguments in the schema's order: ``Ref``, numbers, lists, None and ``UNKNOWN``.
            named: further arguments.
            output: name of the first result.
        """
        schema = SCHEMAS.get(op, "self other").split()
        arguments = {**dict(zip(schema, positional, strict=False)), **named}
        before = len(self.nodes)
        if len(positional) > len(schema) and op not in SCHEMAS and op not in RESHAPES | COPIES | TRANSPOSES:
            translated = False
        else:
            try:
                translated = self._translate(op, arguments, output)
            except (TypeError, ValueError, KeyError, IndexError, OverflowError):  # arguments of another type
                translated = False
        if not translated:
            del self.nodes[before:]
            tensors = [ref for value in (*positional, *named.values()) for ref in find_refs(value)]
            self.add(f"aten.{op}", tensors, output)

    def _translate(self, op: str, arguments: dict[str, Any], output: str) -> bool:
        """Add the nodes of an operator of the tables; whether it is one."""
        get = arguments.get
        x = get("self", get("input"))
        if op in FUNCTIONS:
            self.add(FUNCTIONS[op], [x], output)
        elif op in COPIES:
            self.add("identity", [x], output)
        elif op in RESHAPES:
            shape = get("size", get("shape")) if op in ("view", "reshape") else None
            known = type(shape) is list and all(type(length) is int for length in shape)
            self.add("reshape", [x], output, **({"shape": tuple(shape)} if known and shape is not None else {}))
        elif op in TRANSPOSES:
            self._transpose(op, x, arguments, output)
        elif op in PAIRS:
            return self._combine(op, x, arguments, output)
        elif op == "rsub" and get("alpha", 1) == 1:
            self.add("sub", [get("other"), x], output)
        elif op in CONVOLUTIONS:
            return self._convolve(arguments, output)
        elif op == "linear":
            self._multiply([x, get("weight")], get("bias"), output, transposed=True)
        elif op == "addmm" and get("beta", 1) == get("alpha", 1) == 1:
            self._multiply([get("mat1"), get("mat2")], x, output)
        elif op in PRODUCTS:
            self._multiply([x, get("other", get("mat2"))], None, output)
        elif "batch_norm" in op and op in SCHEMAS:
            return self._normalize(arguments, output)
        elif op in AVERAGES | MAXIMA and set(_to_list(get("output_size"))) == {1}:
            self.add("pool", [x], output, kind="avg" if op in AVERAGES else "max")
        elif op in WINDOWS:
            return self._pool_windows(op, x, arguments, output)
        elif op in ("mean", "amax", "max"):
            return self._reduce(op, x, arguments, output)
        elif op == "where" and len(arguments) == 3:
            self.add("where", [get("condition"), x, get("other")], output)
        elif op in ("prelu", "_prelu_kernel"):
            self.add("prelu", [x, get("weight")], output)
        elif op.startswith(("quantize_per_", "dequantize_per_")):
            self._quantize(op, x, arguments, output)
        else:
            return self._apply(op, x, arguments, output)
        return True

    def _apply(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> bool:
        """Functions of one tensor and numbers."""
        get = arguments.get
        if op == "gelu":
            self.add("gelu_tanh" if get("approximate", "none") == "tanh" else "gelu", [x], output)
        elif op == "hardsigmoid":
            self.add("hard_sigmoid", [x], output, slope=1 / 6, offset=0.5)
        elif op == "leaky_relu":
            self.add("leaky_relu", [x], output, slope=float(get("negative_slope", 0.01)))
        elif op == "elu" and get("scale", 1) == get("input_scale", 1) == 1:
            self.add("elu", [x], output, alpha=float(get("alpha", 1)))
        elif op == "softplus" and get("beta", 1) == 1 and get("threshold", 20) >= 15:
            self.add("softplus", [x], output)
        elif op in ("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"):
            low, high = get("min", get("min_val")), get("max", get("max_val"))
            if op == "hardtanh":
                low, high = get("min_val", -1.0), get("max_val", 1.0)
            limits = {key: float(value) for key, value in (("low", low), ("high", high)) if value is not None}
            self.add("clip", [x], output, **limits)
        elif op == "rsqrt":
            self.add("sqrt", [x], f"{output} before the reciprocal")
            self.add("reciprocal", [Ref(f"{output} before the reciprocal")], output)
        elif op == "square":
            self.add("mul", [x, x], output)
        else:
            return False
        return True

    def _combine(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> bool:
        other, alpha = arguments.get("other", arguments.get("exponent")), arguments.get("alpha", 1)
        if arguments.get("rounding_mode") is not None or other is None:
            return False
        if alpha != 1:
            self.add("mul", [other, alpha], f"{output} before it is added")
            other = Ref(f"{output} before it is added")
        self.add(PAIRS[op], [x, other], output)
        return True

    def _transpose(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> None:
        axes = arguments.get("dims")
        if axes is None:
            axes = [1, 0]
            array = self._find_array(x)
            first, second = arguments.get("dim0"), arguments.get("dim1")
            if array is not None and type(first) is int and type(second) is int:
                axes = list(range(array.ndim))
                axes[first], axes[second] = axes[second], axes[first]
        self.add(
            "transpose", [x], output, **({"axes": tuple(map(int, axes))} if self._find_array(x) is not None else {})
        )

    def _convolve(self, arguments: dict[str, Any], output: str) -> bool:
        weight, bias = arguments["weight"], arguments.get("bias")
        if arguments.get("transposed", False) is not False:
            return False
        array = self._find_array(weight)
        axes = "OI" + "1" * ((array.ndim if array is not None else 4) - 2)
        inputs = [arguments["input"], weight, *([bias] if bias is not None else [])]
        self.add("conv", inputs, output, weight=axes, groups=arguments.get("groups", 1))
        return True

    def _multiply(self, operands: list[Any], bias: Any, output: str, transposed: bool = False) -> None:
        inputs = [*operands, *([bias] if bias is not None else [])]
        self.add("matmul", inputs, output, transposed=transposed)

    def _normalize(self, arguments: dict[str, Any], output: str) -> bool:
        mean, variance = arguments["running_mean"], arguments["running_var"]
        numbers = self._find_array(mean)
        if arguments.get("training", False) is not False or numbers is None or variance is None:
            return False
        inputs = [arguments["input"]]
        for key, value in (("weight", 1.0), ("bias", 0.0)):
            operand = arguments.get(key)
            if operand is None:
                name = f"{value:g} for each of {mean.name}"
                self.constants[name] = np.broadcast_to(np.float32(value), numbers.shape)
                operand = Ref(name)
            inputs.append(operand)
        epsilon = arguments.get("eps", arguments.get("epsilon", 1e-5))
        self.add("batch_norm", [*inputs, mean, variance], output, epsilon=float(epsilon))
        return True

    def _pool_windows(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> bool:
        get = arguments.get
        padded = any(_to_list(get("padding", 0))) or get("ceil_mode", False) is not False
        if padded or get("divisor_override") is not None or set(_to_list(get("dilation", 1))) != {1}:
            return False
        window = tuple(int(side) for side in _to_list(get("kernel_size")))
        rank = int(op.partition("_pool")[2][0])
        self.add("pool", [x], output, kind=WINDOWS[op], window=window * rank if len(window) == 1 else window)
        return True

    def _reduce(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> bool:
        axes = arguments.get("dim")
        if isinstance(axes, Ref):  # the larger of two tensors
            self.add("maximum", [x, axes], output)
            return True
        places = _to_list(axes)
        if axes is None or not places or not all(type(axis) is int for axis in places):
            return False
        self.add("pool", [x], output, kind="avg" if op == "mean" else "max", axes=tuple(places))
        return True

    def _quantize(self, op: str, x: Any, arguments: dict[str, Any], output: str) -> None:
        get = arguments.get
        scale, zero = get("scale", get("scales")), get("zero_point", get("zero_points"))
        if type(zero) is int:
            kind = np.dtype(np.int8 if get("quant_min", 0) < 0 else np.uint8)
            name = f"{kind} {zero}"
            self.constants[name] = np.asarray(zero, kind)
            zero = Ref(name)
        self.add(op.partition("_")[0], [x, scale, zero], output, axis=int(get("axis", 0)))


def find_refs(value: Any, depth: int = 0) -> list[Any]:
    """List the tensors of an argument, in it and in its lists; an unknown value is one."""
    if isinstance(value, Ref) or value is UNKNOWN:
        return [value]
    if type(value) not in (list, tuple) or depth == MAX_LISTS:
        return []
    return [ref for part in value for ref in find_refs(part, depth + 1)]


def _to_list(value: Any) -> list[Any]:
    return list(value) if type(value) in (list, tuple) else [value]
