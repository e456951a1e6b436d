"""Correct blocks in NumPy that round differently; the bound must accept all of them.

They compute in the arithmetic of a storage type or of float32, with different orders of sums, forms of the sigmoid and
precisions of intermediates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from se_conformance.cases import Inputs, round_to
from se_conformance.comparison import Precision, Result
from se_numpy.nonlinearities import activate, activate_derivative, apply_gate, gate_derivative
from se_spec import SESpec

Array = np.ndarray
ROUNDED_INTERMEDIATES = Precision()


@dataclass(frozen=True)
class Style:
    """The orders of sums, forms of functions and precisions of a correct block.

    Args:
        mean: ``"sum/n"``, ``"x/n"`` (each multiplied by 1/n first), ``"sequential"``, ``"kahan"``, ``"blocked"``.
        product: ``"matmul"``, ``"convolution"`` (1x1, over a map of one position), ``"sequential"``, ``"permuted"``.
        sigmoid: ``"stable"``, ``"naive"``: 1 / (1 + exp(-v)), ``"tanh"``: (1 + tanh(v / 2)) / 2.
        precision: the precision that it declares; ``accumulation`` is its arithmetic.
    """

    mean: str = "sum/n"
    product: str = "matmul"
    sigmoid: str = "stable"
    precision: Precision = ROUNDED_INTERMEDIATES


STYLES = {
    "numpy": Style(),
    "mean of x/n": Style(mean="x/n"),
    "sequential sums": Style(mean="sequential", product="sequential"),
    "Kahan's sum": Style(mean="kahan"),
    "blocked sum": Style(mean="blocked"),
    "1x1 convolution": Style(product="convolution"),
    "hidden units permuted": Style(product="permuted"),
    "naive sigmoid": Style(sigmoid="naive"),
    "sigmoid by tanh": Style(sigmoid="tanh"),
    "kept in float32": Style(precision=Precision(intermediates="float32")),
    "own accumulation": Style(mean="sequential", precision=Precision(accumulation="storage")),
}


def run(spec: SESpec, inputs: Inputs, style: Style) -> Result:
    """Compute y, the gate and gradients; x and dy are channels last."""
    with np.errstate(all="ignore"):
        return _run(spec, inputs, style)


def _run(spec: SESpec, inputs: Inputs, style: Style) -> Result:
    storage = inputs.x.dtype
    wide = np.dtype("float64" if storage == np.float64 else "float32")
    arithmetic = storage if style.precision.accumulation else wide
    x, dy = (array.astype(arithmetic) for array in inputs[:2])
    weights = {name: array.astype(arithmetic) for name, array in inputs.parameters.items()}
    dot = _PRODUCTS[style.product]
    axes, n = tuple(range(1, x.ndim - 1)), int(np.prod(x.shape[1:-1]))
    stores = storage != arithmetic and style.precision.intermediates == "storage"

    def store(array: Array) -> Array:
        return (round_to(array, storage.name) if stores else array).astype(arithmetic)

    def wide_gate(v: Array) -> Array:
        if spec.gate != "sigmoid" or style.sigmoid == "stable":
            return apply_gate(v, spec.gate).astype(arithmetic)
        if style.sigmoid == "naive":
            return 1 / (1 + np.exp(-v))
        return (1 + np.tanh(v / 2)) / 2

    def over(array: Array) -> Array:
        return np.expand_dims(array, axes)

    avg = store(_MEANS[style.mean](x.reshape(len(x), n, x.shape[-1]))) if spec.squeeze != "max" else None
    top = x.max(axes) if spec.squeeze != "avg" else None
    z: Any = avg if top is None else top if avg is None else store((avg + top) / 2)
    if spec.single_projection:
        u, h = None, z
    else:
        u = store(dot(z, weights["reduce.weight"]) + weights.get("reduce.bias", arithmetic.type(0)))
        h = store(activate(u, spec.activation).astype(arithmetic))
    v = store(dot(h, weights["expand.weight"]) + weights.get("expand.bias", arithmetic.type(0)))
    g = store(wide_gate(v))
    s = store(arithmetic.type(spec.gain) * g) if spec.gain != 1 else g
    y = store(x * over(s)) + x if spec.residual else x * over(s)

    ds = store(np.sum(dy * x, axes, dtype=arithmetic))
    dv = store(store(arithmetic.type(spec.gain) * ds) * gate_derivative(v, spec.gate).astype(arithmetic))
    gradients = {"expand.weight": dv.T @ h, "expand.bias": dv.sum(0, dtype=arithmetic)}
    dz = store(dot(dv, weights["expand.weight"].T.copy()))
    if u is not None:
        du = store(dz * activate_derivative(u, spec.activation).astype(arithmetic))
        gradients |= {"reduce.weight": du.T @ z, "reduce.bias": du.sum(0, dtype=arithmetic)}
        dz = store(dot(du, weights["reduce.weight"].T.copy()))
    half = 2 if spec.squeeze == "avg_max" else 1
    dx = store(dy * over(s))
    if avg is not None:
        dx = dx + over(store(dz / n / half))
    if top is not None:
        tied = x == over(top)
        dx = dx + tied / tied.sum(axes, keepdims=True).astype(arithmetic) * over(dz) / half
    if spec.residual:
        dx = dx + dy
    stored = {name: round_to(gradients[name], storage.name) for name in inputs.parameters}
    return Result(round_to(y, storage.name), g, round_to(dx, storage.name), stored)


def _kahan(x: Array) -> Array:
    total, lost = np.zeros_like(x[:, 0]), np.zeros_like(x[:, 0])
    for position in range(x.shape[1]):
        term = x[:, position] - lost
        new = total + term
        lost, total = (new - total) - term, new
    return total / x.dtype.type(x.shape[1])


def _sequential(x: Array) -> Array:
    total = np.zeros_like(x[:, 0])
    for position in range(x.shape[1]):
        total = total + x[:, position]
    return total / x.dtype.type(x.shape[1])


def _average_in_blocks(x: Array) -> Array:
    blocks = [x[:, start : start + 16].sum(1) for start in range(0, x.shape[1], 16)]
    return np.stack(blocks).sum(0) / x.dtype.type(x.shape[1])


def _sequential_product(h: Array, w: Array) -> Array:
    total = np.zeros((len(h), len(w)), h.dtype)
    for column in range(w.shape[1]):
        total = total + h[:, column, None] * w[:, column]
    return total


_MEANS: dict[str, Callable[[Array], Array]] = {
    "sum/n": lambda x: x.sum(1, dtype=x.dtype) / x.dtype.type(x.shape[1]),
    "x/n": lambda x: (x * (x.dtype.type(1) / x.dtype.type(x.shape[1]))).sum(1, dtype=x.dtype),
    "sequential": _sequential,
    "kahan": _kahan,
    "blocked": _average_in_blocks,
}
_PRODUCTS: dict[str, Callable[[Array, Array], Array]] = {
    "matmul": lambda h, w: h @ w.T,
    "convolution": lambda h, w: np.einsum("npc,oc->npo", h[:, None], w)[:, 0],
    "sequential": _sequential_product,
    "permuted": lambda h, w: h[:, ::-1].copy() @ w[:, ::-1].T.copy(),
}
