"""Find SE blocks in a graph: pool, product, activation, product, gate, and the multiplication with what was pooled.

The nodes are visited once, in their order. Every tensor that is computed from a pooled map alone is described by a
``Vector``: of which map, through which products and functions. Where a vector multiplies the map that it came from, it
is a block if its functions are those of a spec; what resembles a block and is none is a ``Lookalike`` with the reason.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from se_spec import SESpec
from se_spec.nonlinearities import Activation

from .constants import fold
from .functions import (
    FUNCTIONS,
    VARIABLE,
    Function,
    apply,
    as_activation,
    as_gate,
    as_line,
    constant,
    shortest,
    split_line,
)
from .graph import Graph, Node
from .paths import common_path

MAX_FUNCTION_SIZE = 200
"""Functions within one activation or gate; a GELU written out by tanh has 30."""
ALIASES = ("identity", "transpose", "reshape", "expand", "quantize", "dequantize")
"""Operators whose result has the values of their first input, in another order of axes or type."""
COMPARISONS = ("greater", "greater_equal", "less", "less_equal")
BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", *COMPARISONS)
MAX_FOLDED_NODES = 100
"""Nodes from which one constant is computed, those that are used twice counted twice."""
SQUEEZES = {(1.0, 0.0): "avg", (0.0, 1.0): "max", (0.5, 0.5): "avg_max"}
"""The squeeze, by the factors of mean and maximum."""
MIN_WINDOW = 4
"""Sides from which a pooling by windows may be one of the whole map, where the map's shape is not known."""
PARTIAL = "the map is pooled over a part of its axes"


@dataclass(frozen=True)
class Layer:
    """A product with a matrix, or with a number for each channel, and the activation after it.

    Args:
        weight: (outputs, inputs); (channels,) for a number each.
        bias: (outputs,), or None.
        names: of the weight and the bias in the file; that of the bias is ``""`` if the file has none.
        changes: what was computed and not just moved.
        activation: after the product.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    names: tuple[str, str] = ("", "")
    changes: tuple[str, ...] = ()
    activation: Activation = "identity"

    @property
    def is_diagonal(self) -> bool:
        """Whether each output is computed from one input."""
        return self.weight.ndim == 1

    def then(self, factor: np.ndarray | float, offset: np.ndarray | float, change: str) -> "Layer":
        """Multiply the outputs and add to them: numbers, or one for each output."""
        factor, offset = np.asarray(factor, np.float64), np.asarray(offset, np.float64)
        columns = factor[:, None] if factor.ndim and not self.is_diagonal else factor
        bias = 0.0 if self.bias is None else np.asarray(self.bias, np.float64)
        bias = np.broadcast_to(bias * factor + offset, self.weight.shape[:1])
        no_bias = self.bias is None and not offset.any()
        weight = np.asarray(self.weight, np.float64) * columns
        return replace(self, weight=weight, bias=None if no_bias else bias, changes=(*self.changes, change))

    def after(self, first: "Layer") -> "Layer":
        """Merge with a diagonal whose outputs are its inputs."""
        bias = None if self.bias is None else np.asarray(self.bias, np.float64)
        weight = np.asarray(self.weight, np.float64)
        if first.bias is not None:
            bias = weight @ np.asarray(first.bias, np.float64) + (0.0 if bias is None else bias)
        changes = (*first.changes, *self.changes)
        return replace(self, weight=weight * np.asarray(first.weight, np.float64), bias=bias, changes=changes)


@dataclass(frozen=True, eq=False)
class Base:
    """The map that was pooled, its squeeze as factors of mean and maximum, and the layers so far."""

    map: str
    squeeze: tuple[float, float]
    layers: tuple[Layer, ...] = ()


class Vector(NamedTuple):
    """A tensor with a number for each sample and channel, computed from the mean or the maximum of a map.

    Args:
        base: of the function.
        function: of the base's last product, or of the pooled values where there is no product yet.
        problem: why no spec describes it; ``""`` if one may.
        limits: the lowest and highest value of the integers that hold the product, if it is quantized.
    """

    base: Base
    function: Function = VARIABLE
    problem: str = ""
    limits: tuple[float, float] | None = None


class Gated(NamedTuple):
    """A map that is multiplied by a vector: the map x, the vector, and what follows the product."""

    x: str
    vector: Vector
    node: Node
    gain: float = 1.0
    residual: bool = False


@dataclass(frozen=True)
class Match:
    """A block of a graph.

    Args:
        path: of the block: what its parameters' names have in common, or the name of its last node.
        spec: complete.
        parameters: canonical.
        names: canonical name to that of the file's constant, where the file has one.
        changes: what was computed and not just moved.
        input, output: names of the tensors x and y.
        gate: the name of the tensor that multiplies x.
    """

    path: str
    spec: SESpec
    parameters: dict[str, np.ndarray]
    names: dict[str, str]
    changes: tuple[str, ...]
    input: str
    output: str
    gate: str = ""


@dataclass(frozen=True)
class Lookalike:
    """A part of a graph that gates a map by what is computed from its mean or maximum, and is no block of a spec."""

    path: str
    reason: str
    output: str


@dataclass
class _State:
    """What is known about the tensors of a graph while its nodes are visited."""

    graph: Graph
    uses: Counter[str]
    roots: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, Vector] = field(default_factory=dict)
    folded: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    folded_nodes: dict[str, int] = field(default_factory=dict)
    """From how many nodes each of these is computed."""
    origins: dict[str, str] = field(default_factory=dict)
    gated: dict[str, Gated] = field(default_factory=dict)
    nan_masks: set[str] = field(default_factory=set)
    """Tensors that are computed from where a tensor is NaN, and from constants; their values are those of no NaN."""

    def root(self, name: str) -> str:
        """Return the tensor whose values this one has, in another shape or type."""
        return self.roots.get(name, name)

    def is_constant(self, name: str) -> bool:
        """Whether the file has the values, or what they are computed from."""
        return name in self.folded or name in self.graph.constants

    def read(self, name: str) -> np.ndarray:
        """Read a constant, or compute it."""
        return self.folded[name]() if name in self.folded else self.graph.constants[name]

    def fold(self, node: Node) -> None:
        """Note that a node's first output is computed from constants; nothing is computed before it is read."""
        y, count = node.outputs[0], 1 + sum(self.folded_nodes.get(name, 0) for name in node.inputs)

        def compute() -> np.ndarray:
            if count > MAX_FOLDED_NODES:
                raise ValueError(f"a constant is computed by more than {MAX_FOLDED_NODES} nodes")
            return fold(node, [self.read(name) for name in node.inputs if name])

        self.folded[y], self.folded_nodes[y] = compute, count

    def origin(self, name: str) -> str:
        """Return the constant of the file from which one is computed."""
        return self.origins.get(name, name)

    def changes(self, name: str) -> tuple[str, ...]:
        """Describe what is done to a constant of the file."""
        origin = self.origin(name)
        if origin in self.graph.quantized:
            return (f"{origin} dequantized",)
        values, stored = (np.sort(self.read(one), axis=None) for one in (name, origin))
        if name == origin or np.array_equal(values, stored, equal_nan=True):
            return ()  # at most moved
        return (f"{origin} with the arithmetic of the graph",)


def match_blocks(graph: Graph) -> tuple[list[Match], list[Lookalike]]:
    """Find every SE block of a graph.

    Returns:
        The blocks, and what only resembles one, in the order of the nodes; several may have one path.
    """
    state = _State(graph, Counter(name for node in graph.nodes for name in node.inputs))
    for node in graph.nodes:
        _visit(state, node)
    found = [_describe(state, output, gated) for output, gated in state.gated.items()]
    return [one for one in found if isinstance(one, Match)], [one for one in found if isinstance(one, Lookalike)]


def _visit(state: _State, node: Node) -> None:
    """Describe a node's first output."""
    inputs = [name for name in node.inputs if name]
    if not inputs or not node.outputs:
        return
    x, y = inputs[0], node.outputs[0]
    if node.op == "isnan":
        state.nan_masks.add(y)
        state.folded[y] = lambda: np.zeros((), np.bool_)
        return
    if all(map(state.is_constant, inputs)):
        state.fold(node)
        state.origins[y] = state.origin(x)
        state.nan_masks |= {y} if state.nan_masks.intersection(inputs) else set()
        return
    if len(inputs) == 3 and node.op == "where" and inputs[0] in state.nan_masks:
        x = _select(state, inputs)
        if not x:
            return
        node = Node("identity", (x,), node.outputs)
    if node.op in ALIASES:
        state.roots[y] = state.root(x)
        if x in state.vectors:
            state.vectors[y] = _quantize(state, node) if node.op == "quantize" else state.vectors[x]
        return
    try:
        vector = _compute(state, node)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        vector = _spoil(state, node, f"{node.op} cannot be computed ({error})")
    if vector is not None:
        state.vectors[y] = vector


def _select(state: _State, inputs: list[str]) -> str:
    """Select what a tensor is where nothing is NaN; ``""`` if the mask has both values.

    A mask that an unknown operator computes, as "any", has the value of no NaN.
    """
    try:
        mask = state.read(inputs[0])
    except ValueError:
        return inputs[2]
    return inputs[2] if not mask.any() else inputs[1] if mask.all() else ""


def _compute(state: _State, node: Node) -> Vector | None:
    """Return the vector that a node computes; None if its result is none."""
    vectors = [state.vectors[name] for name in node.inputs if name in state.vectors]
    if node.op == "pool":
        return _pool(state, node)
    if node.op in BINARY:
        return _combine(state, node)
    if not vectors:
        return None
    if node.op == "where" and len(node.inputs) == 3:
        return _choose(state, node)
    first = vectors[0]
    if first.problem:
        return first
    if node.op in ("conv", "matmul"):
        return _multiply_matrix(state, node)
    if node.op == "batch_norm" and len(node.inputs) == 5:
        scale, offset, mean, variance = (np.asarray(state.read(name), np.float64) for name in node.inputs[1:])
        factor = scale / np.sqrt(variance + node.attributes["epsilon"])
        return _transform(first, factor, offset - mean * factor, "batch norm folded")
    if node.op == "prelu" and len(node.inputs) == 2:
        slopes = np.unique(state.read(node.inputs[1]))
        if slopes.size == 1:
            return _apply(first, "leaky_relu", slope=float(slopes[0]))
        return first._replace(problem=f"a PReLU with {slopes.size} slopes is between the projections")
    if node.op in FUNCTIONS and len(node.inputs) == 1:
        return _apply(first, node.op, **node.attributes)
    return _spoil(state, node, f"{node.op} is between the pooling and the product")


def _spoil(state: _State, node: Node, problem: str) -> Vector | None:
    """Return the vector of a node whose result no spec describes; None if it depends on more than vectors."""
    vectors = [state.vectors[name] for name in node.inputs if name in state.vectors]
    if any(name and name not in state.vectors and not state.is_constant(name) for name in node.inputs):
        return None
    return vectors[0]._replace(problem=problem) if vectors else None


def _quantize(state: _State, node: Node) -> Vector:
    """Note the limits of a product's integers: where they begin at 0, a quantizer has removed a ReLU before them."""
    vector = state.vectors[node.inputs[0]]
    constants = [state.read(name) for name in node.inputs[1:] if state.is_constant(name)]
    if len(constants) != 2 or not vector.function.is_variable or any(value.size != 1 for value in constants):
        return vector
    scale, zero = (value.reshape(()) for value in constants)
    if zero.dtype.kind not in "iu":
        return vector
    kind = np.iinfo(zero.dtype)
    low, high = (float(scale) * (limit - int(zero)) for limit in (kind.min, kind.max))
    return vector._replace(limits=(low, high))


def _pool(state: _State, node: Node) -> Vector | None:
    """Pool a map, or a vector that was pooled over a part of its axes."""
    x, kind, axes = node.inputs[0], node.attributes["kind"], node.attributes.get("axes")
    squeeze = (1.0, 0.0) if kind == "avg" else (0.0, 1.0)
    shape = state.graph.shapes.get(x)
    earlier = state.vectors.get(x)
    if (
        earlier is not None
        and not earlier.base.layers
        and earlier.function.is_variable
        and (earlier.problem in ("", PARTIAL))
    ):
        return Vector(earlier.base) if earlier.base.squeeze == squeeze else _spoil(state, node, "two kinds of pooling")
    problem, window = "", node.attributes.get("window")
    if window is not None:
        spatial = None if shape is None else {tuple(shape[1:-1]), tuple(shape[2:])}
        if (
            min(window) < MIN_WINDOW
            if spatial is None or any(-1 in part for part in spatial)
            else (tuple(window) not in spatial)
        ):
            return None
    if axes is not None and shape is not None:
        axes = tuple(sorted(axis % len(shape) for axis in axes))
        whole = {tuple(range(1, len(shape) - 1)), tuple(range(2, len(shape)))}
        problem = "" if axes in whole else PARTIAL
    return None if axes is not None and 0 in axes else Vector(Base(state.root(x), squeeze), problem=problem)


def _multiply_matrix(state: _State, node: Node) -> Vector:
    """Append the product with a constant matrix, that of a 1x1 convolution or a dense layer."""
    x, w, *rest = node.inputs
    if x not in state.vectors:
        x, w = w, x
    vector = state.vectors[x]
    if not state.is_constant(w):
        return vector._replace(problem="a projection's weight is computed from the input")
    weight, outputs_first = state.read(w), node.attributes.get("transposed", False)
    if node.op == "conv":
        axes = node.attributes["weight"]
        spatial = [length for axis, length in zip(axes, weight.shape, strict=True) if axis not in "OI"]
        if node.attributes.get("groups", 1) != 1 or any(length != 1 for length in spatial):
            return vector._replace(problem=f"a convolution of kernel {spatial} stands for a projection")
        weight, outputs_first = (
            weight.reshape(*(n for a, n in zip(axes, weight.shape, strict=True) if a in "OI")),
            (axes.index("O") < axes.index("I")),
        )
    elif w == node.inputs[0]:
        outputs_first = not outputs_first
    if weight.ndim != 2:
        return vector._replace(problem=f"a projection's weight has the shape {weight.shape}")
    bias = rest[0] if rest and rest[0] else ""
    changes = (*state.changes(w), *(state.changes(bias) if bias else ()))
    layer = Layer(
        weight if outputs_first else weight.T,
        state.read(bias).reshape(-1) if bias else None,
        (state.origin(w), state.origin(bias) if bias else ""),
        changes,
    )
    return _append(vector, layer)


def _append(vector: Vector, layer: Layer) -> Vector:
    """Put a layer behind the last; the function before it becomes the last layer's activation."""
    base, problem = _complete(vector)
    if problem:
        return vector._replace(problem=problem)
    layers = base.layers
    if layers and layers[-1].weight.shape[0] != layer.weight.shape[-1]:
        return vector._replace(problem=f"weights {layers[-1].weight.shape} and {layer.weight.shape} follow each other")
    if layers and layers[-1].is_diagonal and layers[-1].activation == "identity":
        layer, layers = layer.after(layers[-1]), layers[:-1]
    return Vector(replace(base, layers=(*layers, layer)))


def _complete(vector: Vector) -> tuple[Base, str]:
    """Return the base with the function as its last layer's activation; or the problem."""
    base, function = vector.base, vector.function
    if function.is_variable and base.layers and vector.limits and vector.limits[0] == 0.0:
        highest = vector.limits[1]
        function = apply("relu6" if abs(highest - 6.0) <= highest / 255.0 else "relu", VARIABLE)
    if function.is_variable:
        return base, ""
    if not base.layers:
        line = as_line(function)
        if line is None or line[1]:
            return base, "a function is between the pooling and the projection"
        return replace(base, squeeze=(base.squeeze[0] * line[0], base.squeeze[1] * line[0])), ""
    slope, offset = 1.0, 0.0
    activation = as_activation(function)
    if activation is None:
        slope, offset, function = split_line(function)
        activation = as_activation(function)
    if activation is None:
        return base, "the function between the projections is no activation of a spec"
    last = base.layers[-1]
    if (slope, offset) != (1.0, 0.0):
        last = last.then(slope, offset, f"{slope:g} v + {offset:g} folded into a projection")
    return replace(base, layers=(*base.layers[:-1], replace(last, activation=activation))), ""


def _transform(vector: Vector, factor: np.ndarray | float, offset: np.ndarray | float, change: str) -> Vector:
    """Multiply each channel and add to it."""
    line = as_line(vector.function)
    if line is None or not vector.base.layers:
        width = max(np.size(factor), np.size(offset))
        weight, bias = (np.broadcast_to(np.asarray(value, np.float64), (width,)) for value in (factor, offset))
        return _append(vector, Layer(weight, bias, changes=(change,)))
    slope, constant_term = line
    last = vector.base.layers[-1].then(np.multiply(factor, slope), np.multiply(factor, constant_term) + offset, change)
    return Vector(replace(vector.base, layers=(*vector.base.layers[:-1], last)))


def _apply(vector: Vector, op: str, *others: Function, reverse: bool = False, **numbers: float) -> Vector:
    """Apply a function of ``FUNCTIONS``, further inputs behind the vector's, or before it in ``reverse``."""
    inputs = (*others, vector.function) if reverse else (vector.function, *others)
    function = apply(op, *inputs, **numbers)
    if function.size > MAX_FUNCTION_SIZE:
        return vector._replace(problem=f"more than {MAX_FUNCTION_SIZE} functions follow each other")
    return vector._replace(function=function)


def _combine(state: _State, node: Node) -> Vector | None:
    """Combine two tensors, element by element: vectors, constants, maps."""
    left, right = node.inputs[:2]
    a, b = state.vectors.get(left), state.vectors.get(right)
    if node.op == "mul" and _gate_map(state, node):
        return None
    if a is None and b is None:
        _follow_product(state, node)
        return None
    if a is not None and b is not None:
        return _combine_vectors(a, b, node.op)
    (vector, other), reverse = ((a, right), False) if a is not None else ((b, left), True)
    assert vector is not None
    if not state.is_constant(other):
        return None
    if vector.problem:
        return vector
    values = state.read(other)
    if values.size == 1:
        return _apply(vector, node.op, _to_constant(values), reverse=reverse)
    return _combine_channels(state, vector, node.op, other, values, reverse)


def _to_constant(values: np.ndarray) -> Function:
    return constant(float(values.reshape(-1)[0]), values.dtype == np.float16)


def _choose(state: _State, node: Node) -> Vector | None:
    """One of two functions, or numbers, by a third that is a comparison, all of one product."""
    first = next(state.vectors[name] for name in node.inputs if name in state.vectors)
    functions = []
    for name in node.inputs:
        vector = state.vectors.get(name)
        if vector is not None and vector.base is first.base and not vector.problem:
            functions.append(vector.function)
        elif vector is None and state.is_constant(name) and state.read(name).size == 1:
            functions.append(_to_constant(state.read(name)))
        else:
            return _spoil(state, node, "where is between the pooling and the product")
    function = apply("where", *functions)
    if function.size > MAX_FUNCTION_SIZE:
        return first._replace(problem=f"more than {MAX_FUNCTION_SIZE} functions follow each other")
    return first._replace(function=function)


def _combine_channels(state: _State, vector: Vector, op: str, name: str, values: np.ndarray, reverse: bool) -> Vector:
    """Combine a vector with a constant that has a number for each channel."""
    values = values.reshape(-1)
    last = vector.base.layers[-1] if vector.base.layers else None
    if (
        op == "add"
        and last is not None
        and vector.function.is_variable
        and last.bias is None
        and (values.shape == last.weight.shape[:1])
    ):
        changes = (*last.changes, *state.changes(name))
        layer = replace(last, bias=values, names=(last.names[0], state.origin(name)), changes=changes)
        return Vector(replace(vector.base, layers=(*vector.base.layers[:-1], layer)))
    wide = values.astype(np.float64)
    lines: dict[tuple[str, bool], tuple[np.ndarray | float, np.ndarray | float]] = {
        ("add", False): (1.0, wide),
        ("add", True): (1.0, wide),
        ("sub", False): (1.0, -wide),
        ("sub", True): (-1.0, wide),
        ("mul", False): (wide, 0.0),
        ("mul", True): (wide, 0.0),
        ("div", False): (1.0 / wide, 0.0),
    }
    if (op, reverse) not in lines:
        return vector._replace(problem=f"{op} with {values.size} numbers is between the pooling and the product")
    return _transform(vector, *lines[op, reverse], f"{state.origin(name)} folded into a projection")


def _combine_vectors(a: Vector, b: Vector, op: str) -> Vector:
    """Combine two vectors: functions of one product, or a sum of mean and maximum."""
    if a.problem or b.problem:
        return a if a.problem else b
    if a.base is b.base:
        return _apply(a, op, b.function)
    lines = as_line(a.function), as_line(b.function)
    pooled = not a.base.layers and not b.base.layers and a.base.map == b.base.map
    if op == "add" and pooled and all(line is not None and not line[1] for line in lines):
        factors = [line[0] for line in lines if line is not None]
        squeezes = (a.base.squeeze, b.base.squeeze)
        squeeze = tuple(sum(f * s[i] for f, s in zip(factors, squeezes, strict=True)) for i in (0, 1))
        return Vector(Base(a.base.map, (squeeze[0], squeeze[1])))
    if a.base.map == b.base.map and a.base.layers and b.base.layers:
        return a._replace(problem="two paths of projections are combined, as in CBAM's channel attention")
    return a._replace(problem=f"{op} of vectors from two maps")


def _gate_map(state: _State, node: Node) -> bool:
    """Record a product of a map and a vector that was pooled from a map; return whether it is one."""
    for x, s in (node.inputs[:2], node.inputs[1::-1]):
        vector, other = state.vectors.get(s), state.vectors.get(x)
        if vector is None or state.is_constant(x) or (other is not None and state.root(x) != vector.base.map):
            continue
        if vector.base.layers or (vector.problem and state.root(x) == vector.base.map):
            state.gated[node.outputs[0]] = Gated(x, vector, node)
            return True
    return False


def _follow_product(state: _State, node: Node) -> None:
    """Note a gain behind a gated map, or x that is added to it."""
    for y, other in (node.inputs[:2], node.inputs[1::-1]):
        gated = state.gated.get(state.root(y))
        if gated is None or state.uses[y] != 1:
            continue
        if node.op == "add" and state.root(other) == state.root(gated.x) and not gated.residual:
            changed = gated._replace(residual=True)
        elif node.op == "mul" and other in state.graph.literals and not gated.residual:
            changed = gated._replace(gain=gated.gain * float(state.read(other).reshape(-1)[0]))
        else:
            continue
        del state.gated[state.root(y)]
        state.gated[node.outputs[0]] = changed
        return


def _describe(state: _State, output: str, gated: Gated) -> Match | Lookalike:
    """Return the block that gates a map, or why it is none."""
    x, vector, node, outer_gain, residual = gated
    base = vector.base
    path = common_path([name for layer in base.layers for name in layer.names[:1]], node.name or output)
    problem = vector.problem
    if not problem and state.root(x) != base.map:
        problem = "another map is multiplied than the one that was pooled"
    if problem:
        return Lookalike(path, problem, output)
    try:
        spec, layers, changes = _make_spec(base, vector.function, outer_gain, residual)
    except ValueError as error:
        return Lookalike(path, str(error), output)
    parameters, names = {}, {}
    for projection, layer in layers.items():
        dtype = np.float32 if layer.weight.dtype == np.float64 and layer.changes else layer.weight.dtype
        zeros = np.zeros(layer.weight.shape[0])
        for leaf, value, name in zip(
            ("weight", "bias"), (layer.weight, zeros if layer.bias is None else layer.bias), layer.names, strict=True
        ):
            if leaf == "weight" or spec.bias:
                parameters[f"{projection}.{leaf}"] = np.ascontiguousarray(value.astype(dtype, copy=False))
                if name:
                    names[f"{projection}.{leaf}"] = name
    multiplied = next((name for name in node.inputs if name != x), x)
    return Match(path, spec, parameters, names, changes, x, output, multiplied)


def _make_spec(
    base: Base, function: Function, outer_gain: float, residual: bool
) -> tuple[SESpec, dict[str, Layer], tuple[str, ...]]:
    """Make the spec of the layers, with the last function as its gate.

    Raises:
        ValueError: there is none; the message is the reason.
    """
    *firsts, last = base.layers
    gate = as_gate(function)
    if gate is None:
        slope, offset, function = split_line(function)
        gate = as_gate(function)
        if gate is not None:
            last = last.then(slope, offset, f"{slope:g} v + {offset:g} folded into a projection")
    if gate is None:
        raise ValueError("the function behind the projections is no gate of a spec")
    layers = [*firsts, last]
    if len(layers) > 2 or any(layer.is_diagonal for layer in layers):
        diagonals = sum(layer.is_diagonal for layer in layers)
        raise ValueError(f"{len(layers) - diagonals} projections and {diagonals} products by channel, where 1 or 2 are")
    factor = sum(base.squeeze)
    if not factor or tuple(part / factor for part in base.squeeze) not in SQUEEZES:
        raise ValueError(f"the squeeze is {base.squeeze[0]:g} mean + {base.squeeze[1]:g} maximum")
    if factor != 1.0:
        first = layers[0]
        weight = np.asarray(first.weight, np.float64) * factor
        change = f"the squeeze's factor {factor:g} folded into a projection"
        layers[0] = replace(first, weight=weight, changes=(*first.changes, change))
    channels = layers[-1].weight.shape[0]
    if layers[0].weight.shape[1] != channels:
        raise ValueError(f"the projections lead from {layers[0].weight.shape[1]} to {channels} channels")
    bias = any(layer.bias is not None for layer in layers)
    fields: dict[str, Any] = {"single_projection": True} if len(layers) == 1 else {"hidden": layers[0].weight.shape[0]}
    if len(layers) == 2:
        fields["activation"] = layers[0].activation
    name, gain, one_more = gate
    squeeze = SQUEEZES[base.squeeze[0] / factor, base.squeeze[1] / factor]
    spec = SESpec(
        channels,
        bias=bias,
        gate=name,
        squeeze=squeeze,
        gain=shortest(gain * outer_gain),
        residual=residual or one_more,
        **fields,
    )
    names = ("expand",) if len(layers) == 1 else ("reduce", "expand")
    changes = [change for layer in layers for change in layer.changes]
    if bias and any(layer.bias is None for layer in layers):
        changes.append("zeros for the bias that one projection lacks")
    return spec, dict(zip(names, layers, strict=True)), tuple(dict.fromkeys(changes))
