"""Absolute bounds on the rounding errors of a correct implementation, carried along the computation.

docs/ERROR_BOUNDS.md derives every line and names every assumption; B-n are its clauses. The analysis is Higham's
running error analysis (*Accuracy and Stability of Numerical Algorithms*, 2nd ed., sections 3.1 to 3.3), elementwise:
each value of the oracle's forward and backward pass has a bound on the error of a correct program's value, in any order
of summation, with or without fused multiply-adds.
"""

import math
from typing import NamedTuple

import numpy as np

import se_spec
from se_spec import SESpec, ShapeError, SpecError
from se_spec.formats import FORMATS, Format

from . import sensitivities
from .block import Parameters, Trace, expand_over_space, mean, scale_map, squeeze, trace
from .nonlinearities import Array
from .sensitivities import Nonlinearity, evaluate_derivative

PRODUCTS = {"dtype": 0.0, "tf32": 2.0**-10, "bfloat16": 2.0**-8}
"""The relative error of rounding an operand of a product (B-6); TF32 units may truncate instead of round."""


class Rounding(NamedTuple):
    """The roundings of an implementation (B-2).

    Args:
        storage: the format of x, parameters and y.
        arithmetic: the format of the computation.
        unit: unit roundoff of one operation, the oracle's included.
        stored: unit roundoff of an intermediate that is stored; 0 where intermediates are not stored.
        once: unit roundoff of z, and of the gate before the product, which may be rounded once.
        operand: relative error of an operand of a product.
    """

    storage: Format
    arithmetic: Format
    unit: float
    stored: float
    once: float
    operand: float

    @property
    def composed(self) -> float:
        """Unit roundoff of one elementwise operation whose result may be stored."""
        return self.unit + self.stored

    def gamma(self, n: float) -> float:
        """Bound n roundings in a row: n u / (1 - n u) (B-3)."""
        return n * self.unit / (1.0 - n * self.unit) if n * self.unit < 1.0 else float("inf")

    def store(self, value: Array, e: Array, unit: float | None = None) -> Array:
        """Add the rounding of storing a value, in the storage type where intermediates are stored (B-7)."""
        unit = self.stored if unit is None else unit
        if unit:
            e = e + unit * (np.abs(value) + e) + _underflow_unit(self.storage)
        return np.where(np.abs(value) + e <= (self.storage if unit else self.arithmetic).largest, e, np.inf)

    def limit_overflow(self, value: Array, e: Array) -> Array:
        """Return the error; inf where the value may overflow."""
        return np.where(np.abs(value) + e <= (self.storage if self.stored else self.arithmetic).largest, e, np.inf)


Weight = tuple[Array, Array | float]
"""A parameter, and the error of rounding it to the implementation's dtype."""


class Forward(NamedTuple):
    """The oracle's forward pass ``t``, and the bound on the error of each value; ``x`` and ``weights`` are inputs."""

    t: Trace
    x: Array | float
    z: Array
    pre: Array | None
    h: Array
    logits: Array
    g: Array
    weights: dict[str, Weight]


def error_bound(
    x: np.ndarray,
    spec: SESpec,
    parameters: Parameters,
    dtype: str = "float32",
    *,
    data_format: str,
    accumulation: str | None = None,
    products: str = "dtype",
    intermediates: str = "storage",
) -> Array:
    """Bound the distance of each element of a correct implementation's y from the oracle's.

    Args:
        x: feature map as for ``squeeze_excitation``. The bound includes the rounding of values to ``dtype``.
        spec: which block.
        parameters: the canonical parameters.
        dtype: the dtype of x, parameters and y: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        data_format: ``"channels_first"`` or ``"channels_last"``.
        accumulation: the dtype of the computation; None is float32, and float64 for float64. For half precision it may
            be ``dtype`` itself.
        products: ``"dtype"``, or the precision declared for the operands of both products: ``"tf32"``, ``"bfloat16"``.
        intermediates: ``"storage"`` if each may be rounded to the storage type, as timm's are; ``"float32"`` if they
            are kept in float32 (B-2).

    Returns:
        float64 array of the shape of x, at least 0; inf where rounding has no bound.

    Raises:
        SpecError: a dtype, accumulation, products or intermediates that is none of these.
        InputError, ShapeError, ParameterError: as ``squeeze_excitation``.

    >>> x = np.array([[[1.0], [3.0]]], np.float32)  # mean 2, u = 0, v = 0, g = 1/2
    >>> p = {"reduce.weight": np.zeros((1, 1), np.float32), "expand.weight": np.zeros((1, 1), np.float32)}
    >>> bound = error_bound(x, SESpec(1, hidden=1), p, "float32", data_format="channels_last")
    >>> (bound * 2.0**24).round(1).tolist()  # the sigmoid's own error, and one rounding of the product
    [[[5.0], [15.0]]]
    """
    r = make_rounding(dtype, accumulation, products, intermediates)
    return compute_bounds(x, None, spec, parameters, r, data_format).y


def excitation_error_bound(
    x: np.ndarray,
    spec: SESpec,
    parameters: Parameters,
    dtype: str = "float32",
    *,
    data_format: str,
    accumulation: str | None = None,
    products: str = "dtype",
    intermediates: str = "storage",
) -> Array:
    """Bound the distance of each element of a correct implementation's gate from the oracle's.

    Args:
        x: feature map as for ``squeeze_excitation``.
        spec: which block.
        parameters: the canonical parameters.
        dtype: the dtype of x, parameters and y, as for ``error_bound``.
        data_format: ``"channels_first"`` or ``"channels_last"``.
        accumulation: as for ``error_bound``.
        products: as for ``error_bound``.
        intermediates: as for ``error_bound``.

    Returns:
        float64 array (N, C), at least 0; inf where rounding has no bound.

    Raises:
        SpecError, InputError, ShapeError, ParameterError: as ``error_bound``.

    >>> x, p = np.ones((1, 2, 1), np.float32), {"expand.weight": np.zeros((1, 1), np.float32)}
    >>> spec = SESpec(1, single_projection=True)
    >>> (excitation_error_bound(x, spec, p, data_format="channels_last") * 2.0**24).round(1).tolist()
    [[4.5]]
    """
    r = make_rounding(dtype, accumulation, products, intermediates)
    return compute_bounds(x, None, spec, parameters, r, data_format).g


def vjp_error_bound(
    x: np.ndarray,
    dy: np.ndarray,
    spec: SESpec,
    parameters: Parameters,
    dtype: str = "float32",
    *,
    data_format: str,
    accumulation: str | None = None,
    products: str = "dtype",
    intermediates: str = "storage",
) -> tuple[Array, dict[str, Array]]:
    """Bound the distance of each element of a correct implementation's gradients from the oracle's.

    Where rounding may cross a kink or make a tie of maxima, any subgradient is right (V-3, V-4), and the bound includes
    the whole jump.

    Args:
        x: feature map as for ``squeeze_excitation``.
        dy: the gradient of y, in the shape of x.
        spec: which block.
        parameters: the canonical parameters.
        dtype: the dtype of x, parameters and y, as for ``error_bound``.
        data_format: ``"channels_first"`` or ``"channels_last"``.
        accumulation: as for ``error_bound``.
        products: as for ``error_bound``.
        intermediates: as for ``error_bound``.

    Returns:
        The bound of dx, float64 in the shape of x, and a canonical dict of the bounds of the parameters' gradients.

    Raises:
        SpecError, InputError, ShapeError, ParameterError: as ``error_bound``; ShapeError also where dy has not x's
            shape.

    >>> x, p = np.ones((1, 2, 1), np.float32), {"expand.weight": np.zeros((1, 1), np.float32)}
    >>> dx, dp = vjp_error_bound(x, x, SESpec(1, single_projection=True), p, data_format="channels_last")
    >>> dx.shape, dp["expand.weight"].shape
    ((1, 2, 1), (1, 1))
    """
    if dy.shape != x.shape:
        raise ShapeError(f"dy has shape {dy.shape}, expected that of x, {x.shape}")
    r = make_rounding(dtype, accumulation, products, intermediates)
    found = compute_bounds(x, dy, spec, parameters, r, data_format)
    assert found.dx is not None
    return found.dx, found.dparameters


class Bounds(NamedTuple):
    """The bounds of y, the gate and the gradients, and the forward pass ``t`` from which they follow."""

    t: Trace
    y: Array
    g: Array
    dx: Array | None
    dparameters: dict[str, Array]


@np.errstate(all="ignore")
def compute_bounds(
    x: np.ndarray,
    dy: np.ndarray | None,
    spec: SESpec,
    parameters: Parameters,
    r: Rounding,
    data_format: str,
    *,
    exact: bool = False,
) -> Bounds:
    """Compute the bounds of y and the gate, and of the gradients if ``dy`` is given; ``exact``: B-17 holds."""
    f = _forward(x, spec, parameters, r, data_format, exact=exact)
    y, g = _finish(_bound_scaling(f, spec, r, data_format)), _finish(r.store(f.t.g, f.g))
    if dy is None:
        return Bounds(f.t, y, g, None, {})
    dx, found = _backward(f, dy, spec, r, data_format)
    return Bounds(f.t, y, g, _finish(dx), {name: _finish(found[name]) for name in se_spec.parameters.shapes(spec)})


def round_values(values: Array, dtype: str) -> Array:
    """Round float64 values to the nearest of a narrower format, halves to even; beyond its largest, inf.

    >>> round_values(np.array([1 + 2**-9, 1 + 3 * 2**-9, 1e-8, 7e4]), "float16").tolist()
    [1.001953125, 1.005859375, 0.0, inf]
    """
    form = FORMATS[dtype]
    if form.digits == 53:
        return values
    _, exponents = np.frexp(values)
    quantum = np.ldexp(1.0, np.maximum(exponents - form.digits, form.lowest - form.digits + 1))
    nearest = np.rint(values / quantum) * quantum
    return np.where(np.abs(nearest) > form.largest, np.copysign(np.inf, values), nearest)


def make_rounding(dtype: str, accumulation: str | None, products: str, intermediates: str) -> Rounding:
    """Make the roundings for these arguments of ``error_bound``, or raise ``SpecError``."""
    for field, given, allowed in (
        ("dtype", dtype, tuple(FORMATS)),
        ("accumulation", accumulation, (None, *FORMATS)),
        ("products", products, tuple(PRODUCTS)),
        ("intermediates", intermediates, ("storage", "float32")),
    ):
        if given not in allowed:
            raise SpecError(f"{field}={given!r} is not allowed; it must be one of {', '.join(map(repr, allowed))}")
    storage = FORMATS[dtype]
    arithmetic = FORMATS[accumulation or ("float64" if dtype == "float64" else "float32")]
    if products != "dtype" and arithmetic.digits > 24:
        raise SpecError(f"products={products!r} is not allowed with float64 arithmetic; it must be 'dtype'")
    narrower = storage.digits < arithmetic.digits
    return Rounding(
        storage,
        arithmetic,
        unit=arithmetic.unit + FORMATS["float64"].unit,  # B-1: the oracle's own included
        stored=storage.unit if narrower and intermediates == "storage" else 0.0,
        once=storage.unit if narrower else 0.0,
        operand=PRODUCTS[products],
    )


def _forward(
    x: np.ndarray, spec: SESpec, parameters: Parameters, r: Rounding, data_format: str, *, exact: bool
) -> Forward:
    t = trace(x, spec, parameters, data_format)
    axes = se_spec.inputs.spatial_axes(x.ndim, data_format)
    dx = _bound_input_error(t.x, x.dtype.name, r)
    wide = {name: parameters[name].astype(np.float64) for name in se_spec.parameters.shapes(spec)}
    weights = {name: (w, _bound_input_error(w, parameters[name].dtype.name, r)) for name, w in wide.items()}

    exact = exact and not any(isinstance(e, np.ndarray) for e in (dx, *(e for _, e in weights.values())))
    exact = exact and r.operand == 0.0
    # B-17; otherwise N-1: z may be rounded once even where intermediates are in float32
    z = np.zeros_like(t.z) if exact else r.store(t.z, _bound_squeeze(t, dx, spec.squeeze, axes, r), r.once)
    if spec.single_projection or t.pre is None:
        pre, h = None, z
    elif exact:
        pre = np.zeros_like(t.pre)
        exact = spec.activation in ("relu", "relu6", "identity")
        h = np.zeros_like(t.h) if exact else r.store(t.h, _bound_nonlinearity(spec.activation, t.pre, pre, r))
    else:
        pre = _bound_projection(t.z, z, t.pre, weights["reduce.weight"], weights.get("reduce.bias"), r)
        h = r.store(t.h, _bound_nonlinearity(spec.activation, t.pre, pre, r))
    if exact:
        logits = np.zeros_like(t.logits)
    else:
        logits = _bound_projection(t.h, h, t.logits, weights["expand.weight"], weights.get("expand.bias"), r)
    g = _bound_nonlinearity(spec.gate, t.logits, logits, r)
    return Forward(t, dx, z, pre, h, logits, g, weights)


def _bound_squeeze(t: Trace, dx: Array | float, kind: str, axes: tuple[int, ...], r: Rounding) -> Array:
    n = int(np.prod([t.x.shape[axis] for axis in axes]))
    size = mean(np.abs(t.x) + dx, axes)
    avg = r.gamma(n + 1) * size + n * _underflow_unit(r.arithmetic)  # B-4: n - 1 additions, 1/n, its product
    avg = avg + mean(dx, axes) if isinstance(dx, np.ndarray) else avg
    avg = np.where(n * size <= r.arithmetic.largest, avg, np.inf)
    if kind == "avg":
        return avg
    top = dx.max(axes) if isinstance(dx, np.ndarray) else np.zeros_like(avg)  # B-5: a comparison does not round
    if kind == "max":
        return top
    both = np.abs(squeeze(t.x, "avg", axes)) + np.abs(squeeze(t.x, "max", axes))
    return (
        r.limit_overflow(both, avg + top) * 0.5 + r.composed * (both + avg + top) + 2.0 * _underflow_unit(r.arithmetic)
    )


def _bound_projection(
    h: Array,
    e: Array,
    out: Array,
    weight: Weight,
    bias: Weight | None,
    r: Rounding,
) -> Array:
    """Bound a projection: |error| |weight|, the operands' rounding, gamma of the sum of magnitudes, storing (B-6)."""
    w, dw = np.abs(weight[0]), weight[1]
    k = w.shape[1]
    size = np.abs(h) + e
    terms, moved = size @ w.T, e @ w.T
    if isinstance(dw, np.ndarray):
        terms, moved = terms + size @ dw.T, moved + size @ dw.T
    operands = (1.0 + r.operand) ** 2
    error = moved + (operands - 1.0) * terms + k * _underflow_unit(r.arithmetic)
    if bias is None:
        error = error + r.gamma(k) * operands * terms
    else:
        b, db = np.abs(bias[0]), bias[1]
        error = error + db + r.gamma(k + 1) * (operands * terms + b + db)
        error = error + r.stored * terms  # the product may be stored before the bias is added
    return r.store(out, np.where(terms <= r.arithmetic.largest, error, np.inf))


def _bound_nonlinearity(name: Nonlinearity, v: Array, e: Array, r: Rounding) -> Array:
    error = (
        sensitivities.bound_change(name, v, e)
        + sensitivities.bound_evaluation(name, v, e, r.composed)
        + _underflow_unit(r.arithmetic)
    )
    return r.limit_overflow(sensitivities.bound_intermediates(name, v, e), error)


def _bound_scaling(f: Forward, spec: SESpec, r: Rounding, data_format: str) -> Array:
    s = _bound_gate(f, spec, r)
    g, e = (expand_over_space(array, f.t.x.ndim, data_format) for array in (np.abs(spec.gain * f.t.g), s))
    size = np.abs(f.t.x)
    error = size * e + (f.x + r.unit * (size + f.x)) * (g + e) + _underflow_unit(r.arithmetic)  # B-8
    if spec.residual:  # x g + x, or x (1 + g)
        error = r.limit_overflow(size * (1.0 + g), error) + f.x + 2.0 * r.composed * (size + f.x) * (1.0 + g + e)
    return r.store(scale_map(f.t, spec, data_format), error, r.once)


def _bound_gate(f: Forward, spec: SESpec, r: Rounding) -> Array:
    """Bound gain * g as a factor of the product with x; it may have been rounded once (N-1)."""
    g = np.abs(f.t.g)
    if spec.gain == 1.0:
        return r.store(g, f.g, r.once)
    return r.store(abs(spec.gain) * g, _bound_gain(g, r.store(g, f.g), spec, r), r.once)


def _bound_gain(value: Array, e: Array, spec: SESpec, r: Rounding) -> Array:
    """Bound gain * value: the gain and the product are rounded, unless the gain is a power of two."""
    gain = abs(spec.gain)
    is_power_of_two = math.frexp(gain)[0] == 0.5
    return gain * e + (0.0 if is_power_of_two else r.unit + r.composed) * gain * (np.abs(value) + e)


def _backward(
    f: Forward, dy: np.ndarray, spec: SESpec, r: Rounding, data_format: str
) -> tuple[Array, dict[str, Array]]:
    """Compute the chain rule of ``gradients.vjp``, with a bound on the error of each value (B-13 to B-16)."""
    t, axes = f.t, se_spec.inputs.spatial_axes(dy.ndim, data_format)
    n = int(np.prod([t.x.shape[axis] for axis in axes]))
    up = dy.astype(np.float64)
    dup = _bound_input_error(up, dy.dtype.name, r)
    size, magnitude = np.abs(t.x) + f.x, np.abs(up) + dup
    found: dict[str, Array] = {}

    terms = (magnitude * size).sum(axes)
    ds = (up * t.x).sum(axes)
    e = (magnitude * f.x + dup * size).sum(axes) + (r.gamma(n) + r.stored) * terms + n * _underflow_unit(r.arithmetic)
    e = r.store(ds, np.where(terms <= r.arithmetic.largest, e, np.inf))
    dg = spec.gain * ds
    e = r.limit_overflow(dg, _bound_gain(ds, e, spec, r))

    dv, e = _differentiate_nonlinearity(spec.gate, t.logits, f.logits, f.g, dg, e, r)
    found["expand.weight"], found["expand.bias"] = _bound_outer_product(dv, e, t.h, f.h, r), _bound_sum(dv, e, r)
    weight, dweight = f.weights["expand.weight"]
    dh = dv @ weight
    e = _bound_projection(dv, e, dh, (weight.T, _transpose(dweight)), None, r)
    if t.pre is None or f.pre is None:
        dz = dh
    else:
        du, e = _differentiate_nonlinearity(spec.activation, t.pre, f.pre, f.h, dh, e, r)
        found["reduce.weight"], found["reduce.bias"] = _bound_outer_product(du, e, t.z, f.z, r), _bound_sum(du, e, r)
        weight, dweight = f.weights["reduce.weight"]
        dz = du @ weight
        e = _bound_projection(du, e, dz, (weight.T, _transpose(dweight)), None, r)

    gate, gate_error, dz, e = (
        expand_over_space(a, up.ndim, data_format) for a in (spec.gain * t.g, _bound_gate(f, spec, r), dz, e)
    )
    parts = [
        (up * gate, magnitude * gate_error + dup * np.abs(gate) + r.composed * magnitude * (np.abs(gate) + gate_error))
    ]
    if spec.residual:
        parts.append((up, np.broadcast_to(dup, up.shape)))
    parts += _differentiate_squeeze(t.x, f.x, dz, e, spec.squeeze, axes, n, r)
    total, error = parts[0][0], parts[0][1]
    for value, own in parts[1:]:  # B-16: branches are added in any order
        error = error + r.limit_overflow(value, own)
        total = np.abs(total) + np.abs(value)
    error = error + (len(parts) - 1) * r.composed * (np.abs(total) + error) + _underflow_unit(r.arithmetic)
    return r.store(total, error, r.once), found


def _differentiate_nonlinearity(
    name: Nonlinearity, v: Array, e_v: Array, e_f: Array, d: Array, e: Array, r: Rounding
) -> tuple[Array, Array]:
    """Compute d f'(v) and its bound; f' is computed from v, or from the value f that the forward pass stored (B-14)."""
    slope = evaluate_derivative(name, v)
    off = sensitivities.bound_derivative_change(name, v, e_v) + sensitivities.bound_derivative_evaluation(
        name, v, e_v, r.composed
    )
    if name in ("sigmoid", "tanh"):
        f = sensitivities.evaluate(name, v)
        stored = r.store(f, e_f)  # f (1 - f) has derivative 1 - 2 f, (1 - f)(1 + f) has -2 f
        off = off + stored * (np.abs(1.0 - 2.0 * f) if name == "sigmoid" else 2.0 * np.abs(f)) + stored**2
    size = (np.abs(d) + e) * (np.abs(slope) + off)
    error = np.abs(d) * off + e * (np.abs(slope) + off) + 2.0 * r.composed * size + _underflow_unit(r.arithmetic)
    error = r.limit_overflow(sensitivities.bound_derivative_intermediates(name, v, e_v), error)
    return d * slope, r.store(d * slope, error)


def _bound_outer_product(d: Array, e: Array, h: Array, e_h: Array, r: Rounding) -> Array:
    """Bound d^T h, a sum over the samples; its operands are rounded as those of the products (B-15)."""
    operands = (1.0 + r.operand) ** 2
    terms = (np.abs(d) + e).T @ (np.abs(h) + e_h)
    error = e.T @ (np.abs(h) + e_h) + np.abs(d).T @ e_h
    error = error + (operands - 1.0 + r.gamma(len(d)) * operands) * terms + len(d) * _underflow_unit(r.arithmetic)
    return r.store(d.T @ h, error, r.once)


def _bound_sum(d: Array, e: Array, r: Rounding) -> Array:
    """Bound the sum over the samples."""
    return r.store(d.sum(0), e.sum(0) + r.gamma(len(d)) * (np.abs(d) + e).sum(0), r.once)


def _differentiate_squeeze(
    x: Array, dx: Array | float, dz: Array, e: Array, kind: str, axes: tuple[int, ...], n: int, r: Rounding
) -> list[tuple[Array, Array]]:
    """Compute the gradient of x through the squeeze: a value and its bound for each branch."""
    branches = []
    half = 0.5 if kind == "avg_max" else 1.0
    if kind != "max":
        value = half * dz / n
        error = half * e / n + 3.0 * r.composed * (np.abs(value) + half * e / n) + _underflow_unit(r.storage)
        branches.append((value, error))
    if kind != "avg":
        top = x.max(axes, keepdims=True)
        near = x + 2.0 * np.max(dx) >= top
        count = near.sum(axes, keepdims=True)
        share = half * near / count
        any_share = np.where(near & (count > 1), half, 0.0)  # V-4
        error = half * near * e + any_share * (np.abs(dz) + e) + 3.0 * r.composed * share * (np.abs(dz) + e)
        branches.append((share * dz, error + near * _underflow_unit(r.storage)))
    return branches


def _bound_input_error(values: Array, given: str, r: Rounding) -> Array | float:
    """Compute the error of rounding inputs to the implementation's dtypes; 0 where no value changes (B-2)."""
    narrowest = min(r.storage, r.arithmetic)
    if given in FORMATS and FORMATS[given].digits <= narrowest.digits and FORMATS[given].lowest >= narrowest.lowest:
        return 0.0
    names = [name for name, form in FORMATS.items() if form in (r.storage, r.arithmetic)]
    stored = values
    for name in sorted(names, key=lambda name: -FORMATS[name].digits):
        stored = round_values(stored, name)
    error = np.abs(values - stored)
    return np.where(np.isfinite(stored) | ~np.isfinite(values), error, np.inf)


def _transpose(e: Array | float) -> Array | float:
    return e.T if isinstance(e, np.ndarray) else e


def _underflow_unit(form: Format) -> float:
    """Return the absolute error of one operation below the smallest normal number, which may be flushed to 0 (B-3)."""
    return 2.0 ** (form.lowest - (11 if form.digits == 11 else 0))


def _finish(bound: Array) -> Array:
    """Widen the bound by the rounding of its own computation; NaN, from inf - inf or 0 inf, becomes inf."""
    return np.where(np.isnan(bound), np.inf, bound * (1.0 + 2.0**-20))
