"""Examination of one module: is it an SE block by what it computes, and if not, why not? NNX and linen share it.

The module is called on drawn maps with drawn parameters, and its factors y / x are compared with those of every spec
that ``se_spec.live`` allows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from se_spec import SESpec, live
from se_spec.live import LiveBlock, Reading

from .matching import Factors, compute_factors, compute_factors_of, match_spec

TOLERANCES = {"float64": 3e-5, "float32": 3e-5, "float16": 0.01, "bfloat16": 0.05}
"""The largest relative error of factors, by the dtype in which the module computes."""

Values = Mapping[str, np.ndarray]


class Candidate(NamedTuple):
    """A module that may be a block.

    Args:
        kind: the name of its class.
        parameters: its parameters by its own names.
        call: ``(values, x, training) -> y``, the module with other values of its parameters.
        parts: the classes of the modules inside, by path.
        obstacles: the reasons, as clauses, for which no block of ours can stand in its place.
        size: the lengths of the spatial axes with which it is called, if that is known.
    """

    kind: str
    parameters: Mapping[str, Any]
    call: Callable[[Values, jax.Array, bool], Any]
    parts: Mapping[str, str]
    obstacles: list[str]
    size: tuple[int, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters; those of 1x1 kernels are (I, O)."""
        shapes = {name: tuple(value.shape) for name, value in self.parameters.items()}
        return {name: shape[-2:] if set(shape[:-2]) == {1} else shape for name, shape in shapes.items()}


class Layout(NamedTuple):
    """The lengths of a map's spatial axes, and the place of its channels."""

    size: tuple[int, ...]
    data_format: str = "channels_last"

    def draw(self, samples: int, channels: int, seed: int) -> np.ndarray:
        """Draw a map without numbers near 0, by which its factors are divided; its channels are last."""
        random = np.random.default_rng(seed)
        sign = random.choice([-1.0, 1.0], (samples, *(1 for _ in self.size), channels))
        return (sign * random.uniform(0.5, 2.0, (samples, *self.size, channels))).astype("float32")

    def call(self, candidate: Candidate, values: Values, x: np.ndarray, training: bool = False) -> Any:
        """Call the module on a map whose channels are last here."""
        x = np.moveaxis(x, -1, 1) if self.data_format == "channels_first" else x
        with jax.default_matmul_precision("highest"):
            return candidate.call(values, jnp.asarray(x), training)


class Match(NamedTuple):
    """The spec of a module, how its parameters are read, its result, and the layout of its map."""

    spec: SESpec
    reading: Reading
    result: str
    layout: Layout


def examine(candidate: Candidate, hint: SESpec | None = None, *, is_named: bool | None = None) -> Match | str | None:
    """Examine one module.

    Args:
        candidate: the module.
        hint: the spec to try first.
        is_named: whether the module is expected to be a block; None judges by the name of its class.

    Returns:
        What it computes; or the reason why it is no block, although it resembles one; or None.
    """
    is_named = live.is_named_like_a_block(candidate.kind.rpartition(".")[2]) if is_named is None else is_named
    if len(candidate.shapes) > live.MOST_TENSORS or (not candidate.shapes and not is_named):
        return None
    readings = live.list_readings(candidate.shapes)
    if not readings or candidate.obstacles:
        return _describe_failure(candidate, is_named)
    return _recognize(candidate, readings, hint, is_named)


def _recognize(
    candidate: Candidate, readings: list[Reading], hint: SESpec | None, is_named: bool
) -> Match | str | None:
    values = _draw_parameters(candidate, readings)
    reason, fault = None, ""
    for channels in dict.fromkeys(reading.channels for reading in readings):
        fitting = [reading for reading in readings if reading.channels == channels]
        for layout in list_layouts(candidate, (channels, fitting[0].hidden)):
            try:
                x, s, result, kind = _observe(candidate, values, layout, channels)
            except Exception as error:  # a layout for which the module was not made; whatever its code raises
                fault = fault or f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                continue
            if s is None:
                reason = reason or (
                    "it does not scale each channel of a map by one number" if is_named or result == "map" else None
                )
                continue
            matched = match_spec(Factors(x, s, values), fitting, TOLERANCES[kind], hint, ())
            if matched is None:
                return "its factors are those of no spec"
            if result != "map" and matched[0].gate in ("identity", "relu"):
                return None
            if changes := _compare_training(candidate, values, layout, channels):
                return changes
            match = Match(*matched, result, layout)
            return _describe_departure(candidate, values, match, TOLERANCES[kind]) or match
    if reason is None and is_named:
        reason = f"a call with one feature map raises {fault}"
    return reason


def _draw_parameters(candidate: Candidate, readings: list[Reading]) -> dict[str, np.ndarray]:
    """Draw parameters with which hidden values and logits reach every branch of their functions."""
    random = np.random.default_rng(0)
    drawn = {}
    for name, value in candidate.parameters.items():
        widths = [
            reading.hidden if "expand" in role else reading.channels
            for reading in readings
            for role, own in reading.tensors.items()
            if own.name == name
        ]
        scale = 3.0 / max(widths) ** 0.5 if len(value.shape) > 1 else 1.0
        drawn[name] = (random.standard_normal(tuple(value.shape)) * scale).astype("float32")
    return drawn


def list_layouts(candidate: Candidate, widths: tuple[int, int]) -> Iterator[Layout]:
    """List the layouts in which a module may be called, the likely ones first."""
    if candidate.size:
        yield Layout(candidate.size)
        yield Layout(candidate.size, "channels_first")
        return
    for data_format in ("channels_last", "channels_first"):
        for rank in (2, 1, 3):
            yield Layout(live.choose_sizes(widths, rank), data_format)


def _observe(candidate: Candidate, values: Values, layout: Layout, channels: int) -> Any:
    """Call the module; return x, its factors (None if there are none), the kind of result, and its dtype."""
    x = layout.draw(live.SAMPLES, channels, 1)
    y = layout.call(candidate, values, x)
    s, result = _read_factors(x, y, layout)
    return x, s, result, str(getattr(y, "dtype", ""))


def _read_factors(x: np.ndarray, y: Any, layout: Layout) -> tuple[np.ndarray | None, str]:
    """Read the factors (N, C) from a module's result; None if it scales no channel by one number."""
    if not isinstance(y, jax.Array | np.ndarray) or str(y.dtype) not in TOLERANCES:
        return None, ""
    tolerance = TOLERANCES[str(y.dtype)] / 3
    y = np.asarray(y, "float32")
    if y.shape == (len(x), x.shape[-1]):
        return y, "vector"
    y = np.moveaxis(y, 1, -1) if layout.data_format == "channels_first" and y.ndim == x.ndim else y
    if y.shape == (len(x), *(1 for _ in layout.size), x.shape[-1]):
        return y.reshape(len(x), -1), "gate"
    if y.shape != x.shape:
        return None, ""
    ratio = (y / x).reshape(len(x), -1, x.shape[-1])
    if not np.isfinite(ratio).all():
        return None, ""
    is_scaled = np.abs(ratio - ratio[:, :1]).max() <= tolerance * max(1.0, float(np.abs(ratio).max()))
    return (ratio[:, 0], "map") if is_scaled else (None, "")


def _compare_training(candidate: Candidate, values: Values, layout: Layout, channels: int) -> str | None:
    """Return how the module's answer differs in training mode, in which ours is the same."""
    x = layout.draw(live.SAMPLES, channels, 1)
    want = layout.call(candidate, values, x)
    drops = [path for path, kind in candidate.parts.items() if "Dropout" in kind]
    try:
        got = layout.call(candidate, values, x, training=True)
    except Exception as error:
        return f"its call in training mode raises {type(error).__name__}"
    want, got = (np.asarray(y, "float32") for y in (want, got))
    if np.abs(got - want).max() <= 1e-4 * max(1.0, float(np.abs(want).max())):
        return None
    return f"it has dropout ({', '.join(drops)})" if drops else "its answer in training mode is another"


def _describe_departure(candidate: Candidate, values: Values, match: Match, tolerance: float) -> str | None:
    """Describe on which other maps the module answers otherwise than ours; None if on none."""
    layout, spec = match.layout, match.spec
    for name, x in _list_maps(layout, spec.channels):
        try:
            got = np.asarray(layout.call(candidate, values, x), "float32")
        except Exception:  # a map that it refuses; ours accepts more
            continue
        s = compute_factors(x, spec, match.reading, values)
        wide = s.reshape(len(x), *(1 for _ in layout.size), -1)
        want = {"map": x * wide, "gate": wide, "vector": s}[match.result]
        got = np.moveaxis(got, 1, -1) if layout.data_format == "channels_first" and got.ndim == x.ndim else got
        if got.shape != want.shape or np.abs(got - want).max() > 3 * tolerance * max(1.0, float(np.abs(want).max())):
            return f"on {name} its answer is another than that of {spec}"
    return None if _have_equal_gradients(candidate, values, match, tolerance) else "its gradients are others than ours"


def _have_equal_gradients(candidate: Candidate, values: Values, match: Match, tolerance: float) -> bool:
    """Return whether the module and our formula have the same gradient of the map."""
    layout, x = match.layout, match.layout.draw(2, match.spec.channels, 9)

    def compute_ours(x: jax.Array) -> jax.Array:
        s = compute_factors_of(x, match.spec, match.reading, values)
        wide = jnp.expand_dims(s, tuple(range(1, x.ndim - 1)))
        return {"map": x * wide, "gate": wide, "vector": s}[match.result]

    def weigh(call: Callable[[jax.Array], Any], is_first: bool, x: jax.Array) -> jax.Array:
        y = call(jnp.moveaxis(x, -1, 1) if is_first else x)
        y = jnp.moveaxis(y, 1, -1) if is_first and y.ndim > 2 else y
        return jnp.sum(y * jnp.linspace(-1.0, 1.0, y.size, dtype=y.dtype).reshape(y.shape))

    is_first = layout.data_format == "channels_first"
    try:
        with jax.default_matmul_precision("highest"):
            got = jax.grad(partial(weigh, lambda x: candidate.call(values, x, False), is_first))(jnp.asarray(x))
            want = jax.grad(partial(weigh, compute_ours, False))(jnp.asarray(x))
    except Exception:  # a module that cannot be differentiated
        return False
    return bool(jnp.abs(got - want).max() <= 3 * tolerance * max(1.0, float(jnp.abs(want).max())))


def _list_maps(layout: Layout, channels: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "a larger map", layout._replace(size=live.choose_large_sizes(len(layout.size))).draw(2, channels, 5)
    if channels <= live.MOST_WIDTH:
        square = layout._replace(size=(channels,) * len(layout.size))
        yield "a map that is as wide as it has channels", square.draw(1, channels, 8)
    x = layout.draw(2, channels, 6)
    x[:, 0] = 0.0
    yield "a map with zeros", x
    yield "one sample", x[:1]


def _describe_failure(candidate: Candidate, is_named: bool) -> str | None:
    """Describe why a module is no block, if it resembles one."""
    weights = [shape for shape in candidate.shapes.values() if len(shape) == 2]
    if not is_named and not (live.has_pair(weights) and _pools(candidate)):
        return None
    if candidate.obstacles:
        return "; ".join(candidate.obstacles[:3])
    counted = ", ".join(f"{name} {shape}" for name, shape in list(candidate.shapes.items())[:6])
    return f"its parameters are not those of one or two projections: {counted}"


def _pools(candidate: Candidate) -> bool:
    """Return whether a call gives a map each of whose channels is scaled by one number, or one for each channel."""
    values = {name: np.asarray(value, "float32") for name, value in candidate.parameters.items()}
    for channels in dict.fromkeys(shape[0] for shape in candidate.shapes.values() if len(shape) == 2):
        for layout in list_layouts(candidate, (channels, channels)):
            x = layout.draw(2, channels, 1)
            try:
                s, _ = _read_factors(x, layout.call(candidate, values, x), layout)
            except Exception:  # a layout for which the module was not made
                continue
            if s is not None:
                return True
    return False


def make_block(path: str, candidate: Candidate, match: Match) -> LiveBlock:
    """Make the record of a block, with its parameters; zeros for the bias that one projection alone lacks."""
    tensors = match.reading.tensors
    arrays = {name: to_canonical(candidate.parameters[own.name], own.is_transposed) for name, own in tensors.items()}
    shapes = match.spec.parameter_shapes()
    kind = next(iter(arrays.values())).dtype
    arrays = {name: arrays.get(name, np.zeros(shape, kind)) for name, shape in shapes.items()}
    names = {name: own.name for name, own in tensors.items()}
    return LiveBlock(path, candidate.kind, match.spec, arrays, names, match.result, match.layout.data_format)


def to_canonical(value: Any, is_transposed: bool) -> np.ndarray:
    """Convert a parameter of a block to the canonical array."""
    array = np.asarray(value)
    array = array.reshape(array.shape[-2:]) if array.ndim > 1 else array
    return np.array(array.T if is_transposed else array, order="C")


def to_native(array: np.ndarray, is_transposed: bool, like: Any) -> jax.Array:
    """Convert a canonical array to the shape and dtype of a block's own parameter."""
    return jnp.asarray((array.T if is_transposed else array).reshape(like.shape), like.dtype)


def move_path(block: LiveBlock, path: str) -> LiveBlock:
    """Return the record with another path."""
    return replace(block, path=path)


def compare(want: Any, got: Any) -> float:
    """Return the largest difference of two trees of arrays as a share of the largest value."""
    worst = 0.0
    for pair in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        a, b = (np.asarray(value).astype(np.float64) for value in pair)
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        worst = max(worst, float(np.abs(a - b).max(initial=0.0) / (np.abs(a).max(initial=0.0) or 1.0)))
    return worst


def limit_of(tree: Any) -> float:
    """Return the largest difference by rounding: half of the digits, since many layers follow a block."""
    floats = [value.dtype for value in jax.tree.leaves(tree) if jnp.issubdtype(value.dtype, jnp.floating)]
    return max((float(jnp.finfo(dtype).eps) ** 0.5 for dtype in floats), default=0.0)
