"""Operations that NNX and linen share: the squeeze over devices, and images whose size is not known yet."""

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from se_spec import ShapeError
from se_spec.networks import layers as kinds
from se_spec.networks import output_sizes

AxisName = str | tuple[str, ...]


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
    """Refuse an image that the strides do not take (M-9), as far as its size is known while JAX traces.

    A symbolic length (``jax.export``) is left to ``check_meeting``; the two axes do not depend on each other.
    """
    known = [length for length in size if isinstance(length, int)]
    if known:
        output_sizes(layers, (known[0], known[-1]))


def check_meeting(layer: kinds.Layer, maps: Sequence[jax.Array]) -> None:
    """Refuse maps of different sizes where a layer takes several (M-9)."""
    if len({feature_map.shape[1:3] for feature_map in maps}) > 1:
        meeting = ", ".join(f"{name} {x.shape[1:3]}" for name, x in zip(layer.inputs, maps, strict=True))
        raise ShapeError(
            f"an image of a symbolic size does not fit the strides: at {layer.name} meet {meeting}; "
            "name a size that does, as in jax.export.symbolic_shape('n, 32*h, 32*w, 3')"
        )


def settle_size(y: jax.Array, x: jax.Array, layer: kinds.Layer) -> jax.Array:
    """Write a symbolic size of what a layer gives as ``(n - 1) // s + 1``, as symmetric padding does.

    JAX writes SAME's as ``-(-n // s)``, and does not know that both are one number where the two meet.
    """
    if getattr(layer, "padding", None) != "same" or not is_symbolic(y):
        return y
    wanted = [(length - 1) // layer.stride + 1 for length in x.shape[1:3]]  # type: ignore[attr-defined]
    height, width = (new - old for new, old in zip(wanted, y.shape[1:3], strict=True))
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (0, height, 0), (0, width, 0), (0, 0, 0)))


def is_symbolic(x: jax.Array) -> bool:
    """True where the height or width of a map is not known while JAX traces."""
    return not all(isinstance(length, int) for length in x.shape[1:3])


def max_pool(x: jax.Array, layer: kinds.Pooling) -> jax.Array:
    """Maxima that keep NaN, of a map whose size is not known: slices would have to compare symbolic lengths."""
    window, stride = (1, layer.kernel, layer.kernel, 1), (1, layer.stride, layer.stride, 1)
    padding = "SAME" if layer.padding == "same" else ((0, 0), layer.padding, layer.padding, (0, 0))

    def highest(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding)

    has_nan = highest(jnp.isnan(x).astype(x.dtype)) > 0
    return jnp.where(has_nan, jnp.nan, highest(x))
