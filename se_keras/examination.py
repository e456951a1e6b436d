"""Examination of one part of a model: is it an SE block by what it computes, and if not, why not?

A part is a layer, or the operations of a functional model from a map to the product with it. It is called on drawn
maps with drawn parameters (``stateless_call``), and its factors y / x are compared with those of every spec that
``se_spec.live`` allows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np

from se_spec import SESpec, live
from se_spec.live import LiveBlock, Reading

from .matching import Factors, compute_factors, match_spec
from .obstacles import compute_in_float32, list_layers, list_obstacles, list_shapes, list_slopes, name_variables

TOLERANCE = 3e-5
"""The largest relative error of factors in float32."""


@dataclass(frozen=True)
class Recognized:
    """A block, the layer or model that is the block, how its variables are read, and where it was found."""

    block: LiveBlock
    layer: Any
    reading: Reading
    layout: "Layout"
    place: Any = None


class Layout(NamedTuple):
    """The lengths of a map's spatial axes, and the place of its channels."""

    size: tuple[int, ...]
    data_format: str = "channels_last"

    def draw(self, samples: int, channels: int, seed: int, dtype: str = "float32") -> np.ndarray:
        """Draw a map without numbers near 0, by which its factors are divided; its channels are last."""
        random = np.random.default_rng(seed)
        sign = random.choice([-1.0, 1.0], (samples, *(1 for _ in self.size), channels))
        return (sign * random.uniform(0.5, 2.0, (samples, *self.size, channels))).astype(dtype)

    def call(self, layer: Any, values: Mapping[str, np.ndarray], x: np.ndarray, training: bool = False) -> Any:
        """Call the layer with other values of its variables, on a map whose channels are last here."""
        x = np.moveaxis(x, -1, 1) if self.data_format == "channels_first" else x
        y = call_with(layer, keras.ops.convert_to_tensor(x), values, training)
        return keras.ops.convert_to_numpy(y) if keras.ops.is_tensor(y) else None


def call_with(layer: Any, inputs: Any, values: Mapping[str, np.ndarray] | None = None, training: bool = False) -> Any:
    """Call a layer with other values of its variables, by their names; no variable changes."""
    held = name_variables(layer)
    given = {id(held[name]): keras.ops.convert_to_tensor(value) for name, value in (values or {}).items()}
    state = [(variable, given.get(id(variable), variable.value)) for variable in layer.variables]
    with keras.StatelessScope(state_mapping=state):
        return layer(inputs, training=training)


def examine_layer(
    layer: Any, hint: SESpec | None = None, *, size: tuple[int | None, ...] = (), is_named: bool | None = None
) -> Recognized | str | None:
    """Examine one layer, or a model of a part of a graph.

    Args:
        layer: built.
        hint: the spec to try first.
        size: lengths of the map's spatial axes where they are known.
        is_named: whether the layer is expected to be a block; None judges by the name of its class.

    Returns:
        The block; or the reason why it is none, although it resembles one; or None.
    """
    is_named = live.is_named_like_a_block(type(layer).__name__) if is_named is None else is_named
    shapes = list_shapes(layer)
    if len(shapes) > live.MOST_TENSORS or (not shapes and not is_named):
        return None
    readings = live.list_readings(shapes)
    obstacles = list_obstacles(layer)
    if not readings or obstacles:
        return _describe_failure(layer, shapes, obstacles, is_named)
    with compute_in_float32(layer):
        return _recognize(layer, readings, hint, size, is_named)


def _recognize(
    layer: Any, readings: list[Reading], hint: SESpec | None, size: tuple[int | None, ...], is_named: bool
) -> Recognized | str | None:
    values = _draw_variables(layer, readings)
    reason, fault = None, ""
    for channels in dict.fromkeys(reading.channels for reading in readings):
        fitting = [reading for reading in readings if reading.channels == channels]
        for layout in list_layouts(layer, (channels, fitting[0].hidden), size):
            try:
                x, s, result = _observe(layer, values, layout, channels)
            except Exception as error:  # a layout for which the layer was not made; whatever its code raises
                fault = fault or f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                continue
            if s is None:
                resembles = is_named or result == "map"
                reason = reason or ("it does not scale each channel of a map by one number" if resembles else None)
                continue
            matched = match_spec(Factors(x, s, values), fitting, TOLERANCE, hint, list_slopes(layer))
            if matched is None:
                return "its factors are those of no spec"
            if result != "map":
                return (
                    "it returns the gate alone, and what scales the map is no layer" if _is_gate(matched[0]) else None
                )
            if layout.data_format == "channels_first":
                return "its channels are first, ours are last"
            spec, reading = matched
            changes = _compare_training(layer, values, layout, channels)
            changes = changes or _describe_departure(layer, values, spec, reading, layout, size)
            if changes:
                return changes
            names = {name: own.name for name, own in reading.tensors.items()}
            arrays = to_arrays(layer, reading.tensors)
            block = LiveBlock("", live.name_class(layer), spec, arrays, names, result, layout.data_format)
            return Recognized(add_zeros(block), layer, reading, layout)
    if reason is None and is_named:
        reason = f"a call with one feature map raises {fault}"
    return reason


def _is_gate(spec: SESpec) -> bool:
    return spec.gate not in ("identity", "relu")


def add_zeros(block: LiveBlock) -> LiveBlock:
    """Add zeros for the bias of one projection, where the other alone has one."""
    shapes = block.spec.parameter_shapes()
    kind = next(iter(block.parameters.values())).dtype
    zeros = {name: np.zeros(shape, kind) for name, shape in shapes.items() if name not in block.names}
    arrays = {**block.parameters, **zeros}
    return replace(block, parameters={name: arrays[name] for name in shapes})


def _draw_variables(layer: Any, readings: list[Reading]) -> dict[str, np.ndarray]:
    """Draw variables with which hidden values and logits reach every branch of their functions."""
    random = np.random.default_rng(0)
    drawn = {}
    for name, variable in name_variables(layer).items():
        numbers = random.standard_normal(tuple(variable.shape))
        widths = [
            reading.hidden if "expand" in role else reading.channels
            for reading in readings
            for role, own in reading.tensors.items()
            if own.name == name
        ]
        scale = 3.0 / max(widths) ** 0.5 if len(variable.shape) > 1 else 1.0
        drawn[name] = (numbers * scale).astype("float32")
    return drawn


def list_layouts(layer: Any, widths: tuple[int, int], size: tuple[int | None, ...]) -> Iterator[Layout]:
    """List the layouts in which a layer may be called, the likely ones first."""
    if size:
        chosen = zip(size, live.choose_sizes(widths, len(size)), strict=True)
        yield Layout(tuple(length or default for length, default in chosen))
        return
    kinds = [type(part).__name__ for part in list_layers(layer)]
    named = [rank for rank in (1, 2, 3) if any(kind.endswith(f"{rank}D") for kind in kinds)]
    for data_format in ("channels_last", "channels_first"):
        for rank in dict.fromkeys((*named, 2, 1, 3)):
            yield Layout(live.choose_sizes(widths, rank), data_format)


def _observe(layer: Any, values: Mapping[str, np.ndarray], layout: Layout, channels: int) -> Any:
    """Call the layer; return x, its factors (None if there are none), and the kind of result."""
    x = layout.draw(live.SAMPLES, channels, 1)
    s, result = _read_factors(x, layout.call(layer, values, x), layout)
    return x, s, result


def _read_factors(x: np.ndarray, y: Any, layout: Layout) -> tuple[np.ndarray | None, str]:
    """Read the factors (N, C) from a layer's result; None if it scales no channel by one number."""
    if y is None or y.shape == (len(x), x.shape[-1]):
        return y, "vector"
    y = np.moveaxis(y, 1, -1) if layout.data_format == "channels_first" and y.ndim == x.ndim else y
    if y.shape == (len(x), *(1 for _ in layout.size), x.shape[-1]):
        return y.reshape(len(x), -1), "gate"
    if y.shape != x.shape:
        return None, ""
    ratio = (y / x).reshape(len(x), -1, x.shape[-1])
    if not np.isfinite(ratio).all():
        return None, ""
    is_scaled = np.abs(ratio - ratio[:, :1]).max() <= 1e-5 * max(1.0, float(np.abs(ratio).max()))
    return (ratio[:, 0], "map") if is_scaled else (None, "")


def _compare_training(layer: Any, values: Mapping[str, np.ndarray], layout: Layout, channels: int) -> str | None:
    """Return how the layer's answer differs in training mode, in which ours is the same."""
    x = layout.draw(live.SAMPLES, channels, 1)
    want = layout.call(layer, values, x)
    try:
        got = layout.call(layer, values, x, training=True)
    except Exception as error:
        return f"its call in training mode raises {type(error).__name__}"
    if np.abs(got - want).max() <= TOLERANCE * max(1.0, float(np.abs(want).max())):
        return None
    drops = [part.name for part in list_layers(layer) if "Drop" in type(part).__name__]
    return f"it has dropout ({', '.join(drops)})" if drops else "its answer in training mode is another"


def _describe_departure(
    layer: Any,
    values: Mapping[str, np.ndarray],
    spec: SESpec,
    reading: Reading,
    layout: Layout,
    size: tuple[int | None, ...],
) -> str | None:
    """Describe on which other maps the layer answers otherwise than ours; None if on none."""
    for name, x in _list_maps(layout, spec.channels, size):
        try:
            got = layout.call(layer, values, x)
        except Exception:  # a map that it refuses; ours accepts more
            continue
        want = x * compute_factors(x, spec, reading, values).reshape(len(x), *(1 for _ in layout.size), -1)
        is_near = got is not None and got.shape == want.shape
        if not is_near or np.abs(got - want).max() > 3 * TOLERANCE * max(1.0, float(np.abs(want).max())):
            return f"on {name} its answer is another than that of {spec}"
    return None


def _list_maps(layout: Layout, channels: int, size: tuple[int | None, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if all(length is None for length in size):
        yield "a larger map", layout._replace(size=live.choose_large_sizes(len(layout.size))).draw(2, channels, 5)
        if channels <= live.MOST_WIDTH:
            square = layout._replace(size=(channels,) * len(layout.size))
            yield "a map that is as wide as it has channels", square.draw(1, channels, 8)
    x = layout.draw(2, channels, 6)
    x[:, 0] = 0.0
    yield "a map with zeros", x
    yield "one sample", x[:1]


def _describe_failure(
    layer: Any, shapes: dict[str, tuple[int, ...]], obstacles: list[str], is_named: bool
) -> str | None:
    """Describe why a layer is no block, if it resembles one."""
    weights = [shape for shape in shapes.values() if len(shape) == 2]
    if not is_named and not (live.has_pair(weights) and _pools(layer)):
        return None
    if obstacles:
        return "; ".join(obstacles[:3])
    counted = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:6])
    return f"its variables are not those of one or two projections: {counted}"


def _pools(layer: Any) -> bool:
    return any(type(part).__name__.startswith("Global") for part in list_layers(layer))


def to_arrays(layer: Any, tensors: Mapping[str, live.Tensor]) -> dict[str, np.ndarray]:
    """Copy variables to canonical arrays."""
    values = name_variables(layer)
    arrays = {}
    for name, own in tensors.items():
        array = keras.ops.convert_to_numpy(values[own.name].value)
        array = array.reshape(array.shape[-2:])
        arrays[name] = np.array(array.T if own.is_transposed else array, order="C")
    return arrays


def match_variables(found: Recognized) -> dict[str, Any]:
    """Return a block's own variable of each canonical parameter."""
    held = name_variables(found.layer)
    return {name: held[own.name] for name, own in found.reading.tensors.items()}


def assign_parameters(found: Recognized, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block's own variables."""
    for name, variable in match_variables(found).items():
        array = parameters[name]
        array = array.T if found.reading.tensors[name].is_transposed else array
        variable.assign(array.reshape(tuple(variable.shape)).astype(variable.dtype))
