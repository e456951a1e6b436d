"""The oracle: Squeeze-and-Excitation in float64, one clause of docs/SPEC.md per line.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507, eq. 2 to 4.
It shares no arithmetic with the implementations that it judges, and is written to be read, not to be fast.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import se_spec
from se_spec import SESpec

from .nonlinearities import Array, activate, apply_gate

if TYPE_CHECKING:
    from se_spec import NetworkSpec

Parameters = Mapping[str, np.ndarray]


class Trace(NamedTuple):
    """Every intermediate of a forward pass, for the gradients and the error bounds that follow it."""

    x: Array
    z: Array
    pre: Array | None
    h: Array
    logits: Array
    g: Array


def squeeze_excitation(x: np.ndarray, spec: SESpec, parameters: Parameters, *, data_format: str) -> Array:
    """Compute the block's output y.

    Args:
        x: feature map of 1, 2 or 3 spatial axes, any float type; (N, C, *spatial) or (N, *spatial, C).
        spec: which block.
        parameters: the canonical parameters, any float type.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        float64 array of the shape of x.

    Raises:
        InputError: x is not a NumPy array of floats.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.
        ParameterError: names or shapes do not fit the spec.

    >>> x = np.array([[[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]]])  # N = 1, four positions, C = 2; means 3 and 1
    >>> W1, W2 = np.array([[1.0, -1.0]]), np.array([[0.0], [np.log(3) / 2]])  # hidden 2, logits 0 and log 3
    >>> y = squeeze_excitation(
    ...     x, SESpec(2, hidden=1), {"reduce.weight": W1, "expand.weight": W2}, data_format="channels_last"
    ... )
    >>> y[0, :, 0], y[0, :, 1].round(12)  # gates 1/2 and 3/4
    (array([0., 1., 2., 3.]), array([0.75, 0.75, 0.75, 0.75]))
    """
    return scale_map(trace(x, spec, parameters, data_format), spec, data_format)


def excitation(x: np.ndarray, spec: SESpec, parameters: Parameters, *, data_format: str) -> Array:
    """Compute the gate g, without the gain.

    Args:
        x: feature map as for ``squeeze_excitation``.
        spec: which block.
        parameters: the canonical parameters, any float type.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        float64 array (N, C), in the range of the gate.

    Raises:
        InputError, ShapeError, ParameterError: as ``squeeze_excitation``.

    >>> x, weights = np.ones((2, 5, 8)), {"expand.weight": np.zeros((8, 8))}
    >>> spec = SESpec(8, single_projection=True)
    >>> excitation(x, spec, weights, data_format="channels_last")[0, 0]  # the sigmoid of 0
    np.float64(0.5)
    """
    return trace(x, spec, parameters, data_format).g


@np.errstate(over="ignore", invalid="ignore")  # N-3: inf and NaN follow IEEE, quietly
def trace(x: np.ndarray, spec: SESpec, parameters: Parameters, data_format: str) -> Trace:
    """Compute the forward pass up to the gate, with every intermediate."""
    x, weights = check_inputs(x, spec, parameters, data_format)
    axes = se_spec.inputs.spatial_axes(x.ndim, data_format)
    z = squeeze(x, spec.squeeze, axes)
    if spec.single_projection:
        pre, h = None, z  # E-4
    else:
        pre = z @ weights["reduce.weight"].T + weights.get("reduce.bias", 0.0)  # E-1
        h = activate(pre, spec.activation)  # E-2
    logits = h @ weights["expand.weight"].T + weights.get("expand.bias", 0.0)  # E-3
    return Trace(x, z, pre, h, logits, apply_gate(logits, spec.gate))


@np.errstate(over="ignore", invalid="ignore")
def scale_map(t: Trace, spec: SESpec, data_format: str) -> Array:
    """Scale the feature map by its gate."""
    y = t.x * expand_over_space(spec.gain * t.g, t.x.ndim, data_format)  # C-1, C-2
    return y + t.x if spec.residual else y  # C-3


def squeeze(x: Array, kind: str, axes: tuple[int, ...]) -> Array:
    """Compute z: one number per sample and channel, shape (N, C) (S-1 to S-3)."""
    match kind:
        case "avg":
            return mean(x, axes)  # S-1
        case "max":
            return x.max(axes)  # S-2
        case "avg_max":
            return 0.5 * mean(x, axes) + 0.5 * x.max(axes)  # S-3
    raise AssertionError(kind)


def mean(x: Array, axes: tuple[int, ...]) -> Array:
    """Compute the mean over neighbouring axes by pairwise sums, whose rounding grows with log n, not with n."""
    if axes[-1] == x.ndim - 1:
        return x.mean(axes)  # NumPy itself sums pairwise along the last axis
    terms = np.moveaxis(x, axes, range(len(axes)))
    n = int(np.prod(terms.shape[: len(axes)]))
    return _sum(terms.reshape(n, *terms.shape[len(axes) :])) / n


def _sum(terms: Array) -> Array:
    if len(terms) <= 128:
        return terms.sum(0)
    half = len(terms) // 2
    return _sum(terms[:half]) + _sum(terms[half:])


def expand_over_space(g: Array, rank: int, data_format: str) -> Array:
    """Add axes of length 1 to (N, C) where the feature map has its spatial axes."""
    return np.expand_dims(g, se_spec.inputs.spatial_axes(rank, data_format))


def check_inputs(
    x: Any, spec: "SESpec | NetworkSpec", parameters: Parameters, data_format: str
) -> tuple[Array, dict[str, Array]]:
    """Convert x and the parameters to float64, or raise the error that names what is wrong."""
    se_spec.inputs.check_data_format(data_format)
    if not isinstance(x, np.ndarray):
        raise se_spec.inputs.foreign_array_error(x, "numpy.ndarray", "convert it with numpy.asarray")
    se_spec.inputs.check(x.shape, x.dtype, spec, data_format)
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(spec))
    return np.asarray(x, np.float64), {name: np.asarray(array, np.float64) for name, array in parameters.items()}
