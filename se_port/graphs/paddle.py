"""Graphs of Paddle's inference models: the operators of each block of a program, ``.pdmodel`` or PIR's ``.json``.

Source: ``framework.proto`` and ``phi/ops/yaml`` of https://github.com/PaddlePaddle/Paddle. Both kinds of program have
the same operators, some under two names; inputs have names in the old kind, and an order in PIR. A variable that an
operator of the old kind writes again gets another name here. An operator that is not in the tables, or has an
attribute that changes its meaning here, keeps its own name behind ``paddle.``.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..formats._base import refuse
from ..formats._buffers import decode_name, map_file
from ..formats._wire import PartCounter, decode_varints, iterate_fields, to_int64
from ..formats.paddle import BLOCKS, VARIABLES, find_files, pir_parameter_name, read, read_pir
from .graph import Graph, Node

OPERATORS = 4
"""Field of a block."""
MAX_BLOCKS = 10_000
MAX_ELEMENTS = 1 << 20
"""Of a constant that a program makes of one number."""

SAME = {
    "relu": "relu", "relu6": "relu6", "sigmoid": "sigmoid", "tanh": "tanh", "silu": "silu", "mish": "mish",
    "exp": "exp", "log": "log", "abs": "abs", "sqrt": "sqrt", "erf": "erf", "softsign": "softsign",
    "reciprocal": "reciprocal", "isnan": "isnan", "isnan_v2": "isnan",
    "cast": "identity", "assign": "identity", "share_data": "identity", "share_buffer": "identity",
    "memcpy": "identity", "print": "identity",
    "reshape": "reshape", "reshape2": "reshape", "squeeze": "expand", "squeeze2": "expand", "unsqueeze": "expand",
    "unsqueeze2": "expand", "flatten": "expand", "flatten2": "expand", "flatten_contiguous_range": "expand",
    "expand": "expand", "expand_v2": "expand", "expand_as": "expand", "expand_as_v2": "expand", "tile": "expand",
    "nearest_interp": "expand", "nearest_interp_v2": "expand", "bilinear_interp": "expand",
    "bilinear_interp_v2": "expand", "transpose": "transpose", "transpose2": "transpose",
}  # fmt: skip
"""Operators of one tensor whose attributes do not matter here, but for the axes of a transposed constant."""
PAIRS = {
    "elementwise_add": "add", "add": "add", "elementwise_sub": "sub", "subtract": "sub", "elementwise_mul": "mul",
    "multiply": "mul", "elementwise_div": "div", "divide": "div", "elementwise_max": "maximum", "maximum": "maximum",
    "elementwise_min": "minimum", "minimum": "minimum", "elementwise_pow": "pow",
}  # fmt: skip
CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv3d")
POOLINGS = ("pool2d", "pool3d", "max_pool2d_with_index", "max_pool3d_with_index")
REDUCTIONS = {
    "reduce_mean": "avg", "mean": "avg", "reduce_max": "max", "reduce_amax": "max", "max": "max", "amax": "max",
}  # fmt: skip
SLOTS = {
    **dict.fromkeys(CONVOLUTIONS, ("Input", "Filter")),
    **dict.fromkeys(("pool2d", "pool3d"), ("X", "Kernel")),
    **dict.fromkeys(("mean", "max", "amax"), ("X", "Axis")),
    "batch_norm": ("X", "Mean", "Variance", "Scale", "Bias"),
    "prelu": ("X", "Alpha"),
    "clip": ("X", "Min", "Max"),
    "scale": ("X", "ScaleTensor"),
    "fc": ("Input", "W", "Bias"),
    "where": ("Condition", "X", "Y"),
}
"""Names of an operator's inputs in PIR's order; others are ``X`` and ``Y``."""
FIRST_OUTPUTS = ("Out", "Output", "Y")
"""Names of the output that is a result, where there are others."""


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of every block of a program.

    Raises:
        FileFormatError: a file is missing or broken.
    """
    files = find_files(path)
    constants = dict(read(path))
    try:
        return _read_pir(files.program, constants) if files.is_pir else _read_program(files.program, constants)
    except RecursionError:
        refuse(path, "has a program that is nested too deep", "an undamaged copy")


@dataclass
class _Operator:
    """One operator of either kind of program.

    Args:
        type: its name.
        inputs: names of tensors by the input's name.
        outputs: names of tensors, the result first.
        attributes: by name.
        name: of the node.
    """

    type: str
    inputs: dict[str, list[str]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass
class _Builder:
    """Collects the nodes of one block."""

    constants: dict[str, np.ndarray]
    literals: set[str] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, operator: _Operator) -> None:
        """Add the nodes of an operator, or the constant that it makes."""
        if operator.type in ("feed", "fetch", "data", "parameter") or not operator.outputs:
            return
        before = len(self.nodes)
        try:
            if self._add_constant(operator) or self._translate(operator):
                return
        except (TypeError, ValueError, KeyError, IndexError, OverflowError):  # attributes of another type
            pass
        del self.nodes[before:]
        names = [name for slot in operator.inputs.values() for name in slot]
        kind = f"paddle.{operator.type}"
        self.nodes.append(Node(kind, tuple(names), tuple(operator.outputs), {}, operator.name))

    def _node(self, op: str, inputs: list[str], operator: _Operator, **attributes: Any) -> None:
        self.nodes.append(Node(op, tuple(inputs), (operator.outputs[0],), attributes, operator.name))

    def _number(self, value: float) -> str:
        """Name a number of the program as a constant."""
        name = f"number {value!r}"
        self.constants[name] = np.asarray(value, np.float64)
        self.literals.add(name)
        return name

    def _add_constant(self, operator: _Operator) -> bool:
        """Add the constant that an operator makes of its attributes; whether it is one that does."""
        get = operator.attributes.get
        if operator.type == "full_int_array":
            values: Any = np.asarray(get("value"), np.int64)
        elif operator.type in ("fill_constant", "full") and not any(operator.inputs.values()):
            shape = tuple(int(length) for length in get("shape", ()))
            if any(length < 0 for length in shape) or np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
                return False
            values = np.broadcast_to(np.asarray(float(get("str_value") or get("value", 0.0)), np.float32), shape)
        else:
            return False
        self.constants[operator.outputs[0]] = values
        self.literals |= {operator.outputs[0]} if values.size == 1 else set()
        return True

    def _translate(self, operator: _Operator) -> bool:
        """Add the nodes of an operator of the tables; whether it is one."""
        op, get = operator.type, operator.attributes.get
        slots = {slot: names[0] for slot, names in operator.inputs.items() if names}
        x = slots.get("X", slots.get("Input", ""))
        if op in SAME:
            axes = get("axis", get("perm")) if SAME[op] == "transpose" else None
            self._node(SAME[op], [x], operator, **({"axes": tuple(map(int, axes))} if axes else {}))
        elif op in PAIRS:
            self._node(PAIRS[op], [x, slots["Y"]], operator)
        elif op in CONVOLUTIONS:
            axes = "OI" + "1" * (self._rank(slots["Filter"], 4) - 2)
            inputs = [x, slots["Filter"], *([slots["Bias"]] if "Bias" in slots else [])]
            self._node("conv", inputs, operator, weight=axes, groups=int(get("groups", 1)))
        elif op in POOLINGS:
            return self._pool(operator, x, slots)
        elif op in REDUCTIONS:
            return self._reduce(operator, x, slots)
        elif op == "batch_norm" and not get("trainable_statistics"):
            inputs = [x, *(slots[name] for name in ("Scale", "Bias", "Mean", "Variance"))]
            self._node("batch_norm", inputs, operator, epsilon=float(get("epsilon", 1e-5)))
        elif op in ("matmul", "matmul_v2", "mul", "fc"):
            return self._multiply(operator, x, slots)
        elif op == "scale":
            self._scale(operator, x, slots)
        elif op == "prelu":
            self._node("prelu", [x, slots["Alpha"]], operator)
        elif op == "where" and len(slots) == 3:
            self._node("where", [slots["Condition"], slots["X"], slots["Y"]], operator)
        else:
            return self._apply(operator, x, slots)
        return True

    def _rank(self, name: str, default: int) -> int:
        return self.constants[name].ndim if name in self.constants else default

    def _pool(self, operator: _Operator, x: str, slots: Mapping[str, str]) -> bool:
        get = operator.attributes.get
        window = get("ksize", get("kernel_size"))
        if window is None:
            window = self.constants[slots["Kernel"]].reshape(-1).tolist()
        kind = "max" if "max_pool" in operator.type else get("pooling_type", "max")
        if kind not in ("avg", "max"):
            return False
        if get("global_pooling") or (get("adaptive") and set(window) == {1}):
            self._node("pool", [x], operator, kind=kind)
            return True
        if get("adaptive") or any(get("paddings", ())) or get("ceil_mode") or get("padding_algorithm") == "SAME":
            return False
        self._node("pool", [x], operator, kind=kind, window=tuple(map(int, window)))
        return True

    def _reduce(self, operator: _Operator, x: str, slots: Mapping[str, str]) -> bool:
        get = operator.attributes.get
        axes = get("dim", get("axis"))
        if axes is None and "Axis" in slots:
            axes = self.constants[slots["Axis"]].reshape(-1).tolist()
        if not axes or get("reduce_all"):
            return False
        self._node("pool", [x], operator, kind=REDUCTIONS[operator.type], axes=tuple(map(int, axes)))
        return True

    def _multiply(self, operator: _Operator, x: str, slots: Mapping[str, str]) -> bool:
        get = operator.attributes.get
        turned = get("trans_x", get("transpose_x", get("transpose_X", False)))
        if turned or get("alpha", 1.0) != 1.0 or get("activation_type"):
            return False
        inputs = [x, slots["W"] if operator.type == "fc" else slots["Y"], *([slots["Bias"]] if "Bias" in slots else [])]
        transposed = bool(get("trans_y", get("transpose_y", get("transpose_Y", False))))
        self._node("matmul", inputs, operator, transposed=transposed)
        return True

    def _scale(self, operator: _Operator, x: str, slots: Mapping[str, str]) -> None:
        """Multiply by a number and add one, in one of both orders."""
        get = operator.attributes.get
        factor, offset = slots.get("ScaleTensor", ""), float(get("bias", 0.0))
        if not factor:
            factor = self._number(float(get("scale", 1.0)))
        one = (
            factor in self.constants and self.constants[factor].size == 1 and self.constants[factor].reshape(()) == 1.0
        )
        steps = [] if one else [("mul", factor)]
        steps += [("add", self._number(offset))] if offset else []
        if not get("bias_after_scale", True):
            steps.reverse()
        *first, (op, number) = steps or [("identity", "")]
        if first:
            between = f"{operator.outputs[0]} before the second step"
            self.nodes.append(Node(first[0][0], (x, first[0][1]), (between,), {}, operator.name))
            x = between
        self._node(op, [x, *([number] if number else [])], operator)

    def _apply(self, operator: _Operator, x: str, slots: Mapping[str, str]) -> bool:
        """Functions of one tensor and numbers."""
        op, get = operator.type, operator.attributes.get
        if op in ("hard_sigmoid", "hardsigmoid"):
            self._node("hard_sigmoid", [x], operator, slope=float(get("slope", 0.2)), offset=float(get("offset", 0.5)))
        elif op in ("hard_swish", "hardswish"):
            if (get("threshold", 6.0), get("scale", 6.0), get("offset", 3.0)) != (6.0, 6.0, 3.0):
                return False
            self._node("hard_swish", [x], operator)
        elif op == "swish" and get("beta", 1.0) == 1.0:
            self._node("silu", [x], operator)
        elif op == "leaky_relu":
            self._node("leaky_relu", [x], operator, slope=float(get("negative_slope", get("alpha", 0.02))))
        elif op == "elu":
            self._node("elu", [x], operator, alpha=float(get("alpha", 1.0)))
        elif op == "gelu":
            self._node("gelu_tanh" if get("approximate") else "gelu", [x], operator)
        elif op == "softplus" and get("beta", 1.0) == 1.0 and get("threshold", 20.0) >= 15.0:
            self._node("softplus", [x], operator)
        elif op in ("clip", "brelu", "hard_tanh", "hardtanh"):
            keys = ("min", "max") if op == "clip" else ("t_min", "t_max")
            low, high = (
                self.constants[slots[slot]].reshape(-1)[0] if slot in slots else operator.attributes[key]
                for slot, key in zip(("Min", "Max"), keys, strict=True)
            )
            self._node("clip", [x], operator, low=float(low), high=float(high))
        elif op == "pow":
            factor = slots.get("FactorTensor") or self._number(float(get("factor", get("y", 1.0))))
            self._node("pow", [x, factor], operator)
        elif op == "dropout":
            if get("dropout_implementation", get("mode", "downgrade_in_infer")) == "upscale_in_train":
                self._node("identity", [x], operator)
            else:  # every number is multiplied by the part that training keeps
                kept = self._number(1.0 - float(get("dropout_prob", get("p", 0.5))))
                self._node("mul", [x, kept], operator)
        else:
            return False
        return True

    def make_graph(self) -> Graph:
        """Return what was collected."""
        return Graph(tuple(self.nodes), self.constants, frozenset(self.literals), self.shapes)


# ProgramDesc


def _read_program(path: Path, constants: dict[str, np.ndarray]) -> list[Graph]:
    graphs: list[Graph] = []
    counter = PartCounter(path)
    for number, block in iterate_fields(path, memoryview(map_file(path))):
        if number == BLOCKS and isinstance(block, memoryview):
            graphs.append(_read_block(path, block, constants, counter))
            if len(graphs) > MAX_BLOCKS:
                refuse(path, "has more blocks than a network", f"at most {MAX_BLOCKS:,}")
    return graphs


def _read_block(path: Path, block: memoryview, constants: dict[str, np.ndarray], counter: PartCounter) -> Graph:
    builder = _Builder(constants)
    shapes: dict[str, tuple[int, ...]] = {}
    names: dict[str, str] = {}
    written: dict[str, int] = dict.fromkeys(constants, 0)
    for number, value in iterate_fields(path, block):
        if number == VARIABLES and isinstance(value, memoryview):
            name, shape = _read_variable(path, value)
            if shape is not None:
                shapes[name] = shape
    builder.shapes |= shapes
    for number, value in iterate_fields(path, block):
        if number != OPERATORS or not isinstance(value, memoryview):
            continue
        operator = _read_operator(path, value)
        counter.count(4 + sum(map(len, operator.inputs.values())) + len(operator.outputs) + len(operator.attributes))
        operator.inputs = {slot: [names.get(name, name) for name in used] for slot, used in operator.inputs.items()}
        outputs = []
        for name in operator.outputs:
            times = written[name] = written.get(name, -1) + 1
            version = f"{name} written again {times}" if times else name
            names[name] = version
            outputs.append(version)
            if times and name in shapes:
                builder.shapes[version] = shapes[name]
        operator.outputs = outputs
        builder.add(operator)
    return builder.make_graph()


def _read_variable(path: Path, message: memoryview) -> tuple[str, tuple[int, ...] | None]:
    name, shape = "", None
    for number, value in iterate_fields(path, message):
        if number == 1 and isinstance(value, memoryview):
            name = decode_name(path, value)
        elif number == 2 and isinstance(value, memoryview):
            for tensor in (v for n, v in iterate_fields(path, value) if n == 3 and isinstance(v, memoryview)):
                for one in (v for n, v in iterate_fields(path, tensor) if n == 1 and isinstance(v, memoryview)):
                    shape = _read_numbers(path, one, 2)
    return name, shape


def _read_numbers(path: Path, message: memoryview, field_number: int) -> tuple[int, ...]:
    numbers: list[int] = []
    for number, value in iterate_fields(path, message):
        if number == field_number:
            numbers += [to_int64(value)] if isinstance(value, int) else decode_varints(path, value).tolist()
    return tuple(numbers)


def _read_operator(path: Path, message: memoryview) -> _Operator:
    operator = _Operator("")
    outputs: dict[str, list[str]] = {}
    for number, value in iterate_fields(path, message):
        if not isinstance(value, memoryview):
            continue
        if number == 3:
            operator.type = decode_name(path, value)
        elif number in (1, 2):
            slot, names = _read_slot(path, value)
            (operator.inputs if number == 1 else outputs)[slot] = names
        elif number == 4:
            key, content = _read_attribute(path, value)
            operator.attributes[key] = content
    first = next((slot for slot in FIRST_OUTPUTS if outputs.get(slot)), "")
    # Statistics that a norm writes are its inputs again.
    operator.outputs = outputs[first] if first else [name for names in outputs.values() for name in names]
    operator.name = operator.outputs[0] if operator.outputs else ""
    return operator


def _read_slot(path: Path, message: memoryview) -> tuple[str, list[str]]:
    slot, names = "", []
    for number, value in iterate_fields(path, message):
        if isinstance(value, memoryview) and number == 1:
            slot = decode_name(path, value)
        elif isinstance(value, memoryview) and number == 2:
            names.append(decode_name(path, value))
    return slot, names


def _read_attribute(path: Path, message: memoryview) -> tuple[str, Any]:
    name, many = "", []
    content: Any = None
    for number, value in iterate_fields(path, message):
        match number, value:
            case 1, memoryview():
                name = decode_name(path, value)
            case 3, int():
                content = to_int64(value)
            case 4, bytes() if len(value) == 4:
                content = struct.unpack("<f", value)[0]
            case 19, bytes() if len(value) == 8:
                content = struct.unpack("<d", value)[0]
            case 5, memoryview():
                content = bytes(value[:256]).decode("utf-8", "replace")
            case 10, int():
                content = bool(value)
            case 13, int():
                content = to_int64(value)
            case ((6 | 15), int()):
                many.append(to_int64(value))
            case ((6 | 15), memoryview()):
                many += decode_varints(path, value).tolist()
            case 7, bytes() if len(value) == 4:
                many.append(struct.unpack("<f", value)[0])
    return name, content if content is not None else many


# PIR


def _read_pir(path: Path, constants: dict[str, np.ndarray]) -> list[Graph]:
    graphs: list[Graph] = []
    names: dict[int, str] = {}
    blocks: list[list[Any]] = [list(read_pir(path))]
    while blocks:
        builder = _Builder(constants)
        for operator in blocks.pop():
            if type(operator) is not dict:
                continue
            translated = _read_pir_operator(operator, names, builder.shapes)
            if translated is not None:
                builder.add(translated)
            blocks += _inner_blocks(operator)
        graphs.append(builder.make_graph())
        if len(graphs) > MAX_BLOCKS:
            refuse(path, "has more blocks than a network", f"at most {MAX_BLOCKS:,}")
    return graphs


def _inner_blocks(operator: dict[str, Any]) -> list[list[Any]]:
    """Return the operators of the blocks in an operator's regions: branches and loops."""
    found: list[list[Any]] = []
    for region in _items(operator.get("regions")):
        for block in _items(region.get("blocks") if type(region) is dict else None):
            operators = block.get("ops") if type(block) is dict else None
            found += [operators] if type(operators) is list else []
    return found


def _read_pir_operator(
    operator: dict[str, Any], names: dict[int, str], shapes: dict[str, tuple[int, ...]]
) -> _Operator | None:
    """Read an operator; None for one that makes a parameter or has no result."""
    kind, results = operator.get("#"), operator.get("O")
    results = [results] if type(results) is dict else _items(results)
    identities: list[Any] = [result.get("%") for result in results if type(result) is dict]
    parameter = pir_parameter_name(operator)
    if type(kind) is not str or not all(type(one) is int for one in identities):
        return None
    for identity, result in zip(identities, results, strict=True):
        names[identity] = parameter or f"%{identity}"
        shape = _read_pir_shape(result)
        if shape is not None and not parameter:
            shapes[names[identity]] = shape
    if parameter or not identities:
        return None
    op = kind.partition(".")[2].removesuffix("_")
    operands: list[Any] = [one.get("%") if type(one) is dict else None for one in _items(operator.get("I"))]
    used = [names.get(one, "") if type(one) is int else "" for one in operands]
    slots = SLOTS.get(op, ("X", "Y"))
    inputs = {slot: [name] for slot, name in zip(slots, used, strict=False) if name}
    inputs |= {f"more {place}": [name] for place, name in enumerate(used[len(slots) :]) if name}
    attributes: dict[str, Any] = {}
    for attribute in _items(operator.get("A")):
        match attribute:
            case {"N": str(name), "AT": dict(content)}:
                attributes[name] = _read_pir_value(content)
    scope = attributes.get("struct_name")
    outputs = [names[identity] for identity in identities]
    name = f"{scope}{op}" if type(scope) is str and scope.startswith("/") else outputs[0]
    return _Operator(op, inputs, outputs, attributes, name)


def _read_pir_value(content: dict[str, Any]) -> Any:
    value = content.get("D")
    if type(value) is list:
        return [one.get("D") if type(one) is dict else one for one in value]
    return value


def _read_pir_shape(result: Any) -> tuple[int, ...] | None:
    match result:
        case {"TT": {"D": [_, list(shape), *_]}} if len(shape) <= 32 and all(type(length) is int for length in shape):
            return tuple(shape)
    return None


def _items(value: Any) -> list[Any]:
    return value if type(value) is list else []
