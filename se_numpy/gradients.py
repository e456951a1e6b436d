"""The oracle's vector-Jacobian product, derived by hand: the chain rule of ``block.trace``, from its last line up.

With s = gain * g:  dg = gain * sum(dy * x),  dv = dg * gate'(v),  dW2 = dv^T h,  dh = dv W2,
du = dh * activation'(u),  dW1 = du^T z,  dz = du W1,  dx = dy * s (+ dy) + squeeze'(x) dz.
"""

import numpy as np

import se_spec
from se_spec import SESpec, ShapeError

from .block import Parameters, expand_over_space, trace
from .nonlinearities import Array, activate_derivative, gate_derivative


def vjp(
    x: np.ndarray, dy: np.ndarray, spec: SESpec, parameters: Parameters, *, data_format: str
) -> tuple[Array, dict[str, Array]]:
    """Compute the gradients of ``sum(dy * y)``, the vector-Jacobian product.

    Args:
        x: feature map as for ``squeeze_excitation``.
        dy: the gradient of y, in the shape of x, any float type.
        spec: which block.
        parameters: the canonical parameters.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        dx, float64 of x's shape, and a canonical dict of the parameters' gradients, float64. At kinks the derivative
        is that of SPEC V-3; maxima that several positions hold share evenly (V-4).

    Raises:
        InputError, ShapeError, ParameterError: as ``squeeze_excitation``; ShapeError also where dy has not x's shape.

    >>> x, dy = np.ones((1, 3, 2)), np.ones((1, 3, 2))
    >>> weights = {"reduce.weight": np.ones((1, 2)), "expand.weight": np.zeros((2, 1))}
    >>> dx, dweights = vjp(x, dy, SESpec(2, hidden=1), weights, data_format="channels_last")
    >>> dx.shape, dweights["expand.weight"].tolist()  # 3 positions, slope 1/4 of the sigmoid, hidden value 2
    ((1, 3, 2), [[1.5], [1.5]])
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _vjp(x, dy, spec, parameters, data_format)


def _vjp(
    x: np.ndarray, dy: np.ndarray, spec: SESpec, parameters: Parameters, data_format: str
) -> tuple[Array, dict[str, Array]]:
    t = trace(x, spec, parameters, data_format)
    if not isinstance(dy, np.ndarray):
        raise se_spec.inputs.foreign_array_error(dy, "numpy.ndarray", "convert it with numpy.asarray")
    if dy.shape != x.shape:
        raise ShapeError(f"dy has shape {dy.shape}, expected that of x, {x.shape}")
    x, dy = t.x, dy.astype(np.float64)
    axes = se_spec.inputs.spatial_axes(x.ndim, data_format)
    gradients: dict[str, Array] = {}

    dg = spec.gain * (dy * x).sum(axes)
    dlogits = dg * gate_derivative(t.logits, spec.gate)
    gradients["expand.weight"], gradients["expand.bias"] = dlogits.T @ t.h, dlogits.sum(0)
    dh = dlogits @ parameters["expand.weight"].astype(np.float64)
    if t.pre is None:
        dz = dh
    else:
        dpre = dh * activate_derivative(t.pre, spec.activation)
        gradients["reduce.weight"], gradients["reduce.bias"] = dpre.T @ t.z, dpre.sum(0)
        dz = dpre @ parameters["reduce.weight"].astype(np.float64)

    dx = dy * expand_over_space(spec.gain * t.g, x.ndim, data_format) + expand_over_space(
        dz, x.ndim, data_format
    ) * _dsqueeze(x, spec.squeeze, axes)
    return dx + dy if spec.residual else dx, {name: gradients[name] for name in se_spec.parameters.shapes(spec)}


def _dsqueeze(x: Array, kind: str, axes: tuple[int, ...]) -> Array | float:
    """Compute the share of z's gradient for each position of x; the result broadcasts against x."""
    mean = 1.0 / np.prod([x.shape[axis] for axis in axes])
    if kind == "avg":
        return mean
    tied = x == x.max(axes, keepdims=True)
    share = tied / tied.sum(axes, keepdims=True)  # V-4
    return share if kind == "max" else 0.5 * mean + 0.5 * share
