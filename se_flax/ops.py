"""What NNX and linen share: initializers, types, the squeeze, maxima, images of unknown size, records of calls."""

from collections.abc import Iterable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from se_spec import InputError, ShapeError
from se_spec.networks import layers as kinds
from se_spec.networks import output_length, output_sizes, resolve_padding
from se_spec.records import Record, summarize

AxisName = str | tuple[str, ...]
Initializer = jax.nn.initializers.Initializer
FAN_IN_UNIFORM = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Initializer U(±1/√fan_in) for a weight (K-4)."""


def uniform(fan_in: int) -> jax.nn.initializers.Initializer:
    """Make the initializer U(±1/√fan_in) for a bias (K-4); fan_in cannot be read from the bias's shape."""
    limit = fan_in**-0.5

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def draw_seed() -> int:
    """Draw a seed from NumPy's global generator, so that ``numpy.random.seed`` makes new parameters repeatable."""
    return int(np.random.randint(2**31))


def widen(x: jax.Array) -> jax.Array:
    """Convert half precision to float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_jvp
def reconvert(wide: jax.Array, x: jax.Array) -> jax.Array:
    """Convert bfloat16 x again instead of reusing ``wide``; otherwise XLA materialises the float32 copy."""
    return lax.optimization_barrier(x).astype(wide.dtype) if x.dtype == jnp.bfloat16 else wide


@reconvert.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return reconvert(*primals), tangents[0]  # the tangent of wide, so that dx is summed in float32


def to_flax_padding(padding: kinds.Padding) -> Any:
    """Convert a record's padding to the argument of Flax's layers."""
    return "SAME" if padding == "same" else (padding, padding)


def mean(x: jax.Array, axes: Sequence[int], axis_name: AxisName | None = None) -> jax.Array:
    """Average x over its spatial axes, and over devices along ``axis_name``, which hold parts of equal size (S-1)."""
    z = x.mean(axes)
    return z if axis_name is None else lax.pmean(z, axis_name)


def maximum(x: jax.Array, axes: Sequence[int], axis_name: AxisName | None = None) -> jax.Array:
    """Take the maximum of x over its spatial axes and over the devices along ``axis_name``, keeping NaN (S-2)."""
    has_nan, highest = jnp.isnan(x).any(axes), x.max(axes)  # a compiled x.max alone would drop NaN
    if axis_name is not None:
        has_nan = lax.psum(has_nan.astype(jnp.int32), axis_name) > 0
        ties = (x == jnp.expand_dims(highest, axes)).sum(axes)
        highest = _maximum_of_devices(highest, ties.astype(x.dtype), axis_name)
    return jnp.where(has_nan, jnp.nan, highest)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _maximum_of_devices(highest: jax.Array, ties: jax.Array, axis_name: AxisName) -> jax.Array:
    """``lax.pmax``, which has no derivative of its own."""
    return lax.pmax(highest, axis_name)


@_maximum_of_devices.defjvp
def _(
    axis_name: AxisName, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Share among all ties, so that each position has the share that it has on one device (V-4)."""
    highest, ties = primals
    result = _maximum_of_devices(highest, ties, axis_name)
    ties = jnp.where(highest == result, ties, 0)
    return result, lax.psum(ties / lax.psum(ties, axis_name) * tangents[0], axis_name)


def check_size(layers: Iterable[kinds.Layer], size: tuple[int, int]) -> None:
    """Refuse an image that is too small for the strides (M-9), as far as its size is known while JAX traces.

    A symbolic length (``jax.export``) is left to ``check_meeting``; the two axes do not depend on each other.
    """
    known = [length for length in size if isinstance(length, int)]
    if known:
        output_sizes(layers, (known[0], known[-1]))


def check_meeting(layer: kinds.Layer, maps: Sequence[jax.Array]) -> None:
    """Refuse maps of different sizes as the inputs of one layer (M-9)."""
    if len({feature_map.shape[1:3] for feature_map in maps}) > 1:
        meeting = ", ".join(f"{name} {x.shape[1:3]}" for name, x in zip(layer.inputs, maps, strict=True))
        raise ShapeError(
            f"an image of a symbolic size does not fit the strides: at {layer.name} meet {meeting}; "
            "name a size that does, as in jax.export.symbolic_shape('n, 32*h, 32*w, 3')"
        )


def settle_size(y: jax.Array, x: jax.Array, layer: kinds.Layer) -> jax.Array:
    """Rewrite the symbolic size of a layer's result as ``(n - 1) // s + 1``, the form of symmetric padding.

    JAX has ``-(-n // s)`` for SAME, and does not know that both forms are one number where maps are added.
    """
    if getattr(layer, "padding", None) != "same" or not is_symbolic(y):
        return y
    wanted = [(length - 1) // layer.stride + 1 for length in x.shape[1:3]]  # type: ignore[attr-defined]
    height, width = (new - old for new, old in zip(wanted, y.shape[1:3], strict=True))
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (0, height, 0), (0, width, 0), (0, 0, 0)))


def is_symbolic(x: jax.Array) -> bool:
    """Return whether the height or width of a map is unknown while JAX traces."""
    return not all(isinstance(length, int) for length in x.shape[1:3])


def max_pool(x: jax.Array, layer: kinds.Pooling) -> jax.Array:
    """Take the maxima of windows that ignore padding, and keep NaN.

    Flax's max_pool drops NaN of some windows, as XLA's reductions do. The maximum of shifted maps keeps it, and is four
    times as fast on a CPU; where the size is not known, its slices would have to compare symbolic lengths.
    """
    return _max_pool_symbolic(x, layer) if is_symbolic(x) else reduce(jnp.maximum, _windows(x, layer))


def _windows(x: jax.Array, layer: kinds.Pooling) -> list[jax.Array]:
    """List the map of each position within the window, minus infinity in the padding."""
    kernel, stride = layer.kernel, layer.stride
    rows, columns = (resolve_padding(length, kernel, stride, layer.padding) for length in x.shape[1:3])
    height, width = (output_length(length, kernel, stride, layer.padding) for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
    return [
        x[:, row : row + stride * height : stride, column : column + stride * width : stride]
        for row in range(kernel)
        for column in range(kernel)
    ]


def _max_pool_symbolic(x: jax.Array, layer: kinds.Pooling) -> jax.Array:
    window, stride = (1, layer.kernel, layer.kernel, 1), (1, layer.stride, layer.stride, 1)
    padding = "SAME" if layer.padding == "same" else ((0, 0), layer.padding, layer.padding, (0, 0))

    def highest(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding)

    has_nan = highest(jnp.isnan(x).astype(x.dtype)) > 0
    return jnp.where(has_nan, jnp.nan, highest(x))


def record_call(block: Any, x: jax.Array, path: str) -> Record:
    """Record what a block of NNX or linen does to a map.

    Args:
        block: either one.
        x: shape (N, *spatial, C), the map.
        path: the block's, for the error.

    Raises:
        InputError: the call is under a transformation, where the gates have no values.
    """
    g = block.excitation(x)
    if isinstance(g, jax.core.Tracer):
        raise InputError(f"{path} is called under a transformation, such as jit, where its gates have no values")
    g = np.asarray(g)
    return summarize(np.asarray(widen(x)), g, block.spec.gain * g + float(block.spec.residual))
