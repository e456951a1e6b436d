"""Error propagation of activations and gates, and errors of evaluating them: docs/ERROR_BOUNDS.md, B-9 to B-12, B-18.

Let f be evaluated at v, and let |t - v| <= e. ``bound_change`` bounds |f(t) - f(v)|, and ``bound_derivative_change``
bounds |f'(t) - f'(v)|. ``bound_evaluation`` and ``bound_derivative_evaluation`` bound the error of a correct program
for f(t) and f'(t), in arithmetic of unit roundoff u.
"""

import numpy as np
from numpy.typing import NDArray

from se_spec.nonlinearities import HardSigmoid, LeakyReLU, hard_sigmoid_numbers

from .nonlinearities import activate, activate_derivative, apply_gate, gate_derivative

Array = NDArray[np.float64]
Nonlinearity = str | LeakyReLU | HardSigmoid

SMOOTH = {
    # name: (largest |f'|, largest |f''|), rounded up
    "sigmoid": (0.25, 0.0963),
    "tanh": (1.0, 0.7699),
    "silu": (1.1, 0.5001),
    "gelu": (1.13, 0.798),
    "gelu_tanh": (1.13, 0.798),
}

ACCURACY = {"sigmoid": (1.0, 4.0), "tanh": (8.0, 1.0), "erf": (7.0, 1.0), "exp": (6.0, 1.0)}
"""(a, b): the error of a framework's function is at most (a |f| + b) u, over all float32 (docs/accuracy.json)."""
HALF_ACCURACY = {"sigmoid": (1.0, 1.0), "tanh": (1.0, 0.5), "erf": (1.0, 0.5), "exp": (1.0, 0.0)}
"""The same for bfloat16 and float16, over all their values."""


def bound_change(name: Nonlinearity, v: Array, e: Array) -> Array:
    """Bound the change of f for a change e of its argument, at most the width of f's range where that is finite."""
    if name in SMOOTH:
        first, second = SMOOTH[str(name)]
        moved = e * np.minimum(np.abs(evaluate_derivative(name, v)) + 0.5 * second * e, first)
    else:
        moved = e * _find_steepest_slope(name, v, e)
    bounds = _find_range(name)
    if bounds is None:
        return moved
    f = evaluate(name, v)
    return np.where(np.isinf(e), np.inf, np.minimum(moved, np.maximum(f - bounds[0], bounds[1] - f)))  # inf: or NaN


def bound_derivative_change(name: Nonlinearity, v: Array, e: Array) -> Array:
    """Bound the change of f' for a change e of its argument; across a kink it includes the jump."""
    if name in SMOOTH:
        first, second = SMOOTH[str(name)]
        off: Array = np.minimum(second * e, 2.0 * first)
        if name in ("sigmoid", "tanh"):  # |(ln f')'| is at most 1, and 2
            rate = 1.0 if name == "sigmoid" else 2.0
            off = np.minimum(off, evaluate_derivative(name, v) * np.expm1(np.minimum(rate * e, 700.0)))
        return np.where(np.isinf(e), np.inf, off)
    off = np.minimum(e / 3.0, 2.0) if name == "hard_swish" else np.zeros_like(v)
    for kink, jump in _list_kinks(name):
        off = off + np.where(np.abs(v - kink) <= e, jump, 0.0)
    return np.where(np.isinf(e), np.inf, off)


def bound_evaluation(name: Nonlinearity, v: Array, e: Array, u: float) -> Array:
    """Bound the error of computing f at any argument within e."""
    size: Array = np.abs(evaluate(name, v)) + bound_change(name, v, e)
    largest: Array = np.abs(v) + e
    (sa, sb), (ta, tb), (ea, eb) = (_select_accuracy(u)[function] for function in ("sigmoid", "tanh", "erf"))
    match name:
        case "relu" | "relu6" | "identity":
            return np.zeros_like(v)  # a comparison does not round
        case LeakyReLU():
            return 2.0 * u * size  # the slope, the product
        case "sigmoid":
            return u * (sa * size + sb)
        case "tanh":
            return u * (ta * size + tb)
        case "silu":
            return u * ((sa + 2.0) * size + sb * largest)
        case "hard_swish":
            return np.where(v < -3.0 - e, 0.0, 4.0 * u * largest * np.minimum(largest / 6.0 + 0.5, 1.5))
        case "gelu":
            # erf, its argument (t erf'(t) <= 0.49), 1 + erf: all of size 1 before the cancellation
            return u * (0.5 * largest * (ea + eb + 4.0) + 3.0 * size)
        case "gelu_tanh":
            return u * (0.5 * largest * (ta + tb + 6.0) + 3.0 * size)  # t tanh'(t) <= 0.45, t to 5 u
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            line = 4.0 * u * (abs(numbers.slope) * largest + abs(numbers.offset))
            middle = numbers.slope * v + numbers.offset
            far = abs(numbers.slope) * e + line
            clipped = (middle + far <= numbers.low) | (middle - far >= numbers.high)
            return np.where(clipped, 0.0, line) + 2.0 * u * size
    raise AssertionError(name)


def bound_derivative_evaluation(name: Nonlinearity, v: Array, e: Array, u: float) -> Array:
    """Bound the error of computing f' from the argument or from the value that the forward pass stored."""
    largest = np.abs(v) + e
    sigmoid, tanh, erf = (sum(_select_accuracy(u)[function]) for function in ("sigmoid", "tanh", "erf"))
    match name:
        case "relu" | "relu6" | "identity":
            return np.zeros_like(v)
        case LeakyReLU(slope):
            return np.full_like(v, u * abs(slope))
        case "hard_sigmoid" | HardSigmoid():
            return np.full_like(v, 2.0 * u * abs(hard_sigmoid_numbers(name).slope))
        case "hard_swish":
            return 4.0 * u * np.minimum(largest / 3.0 + 0.5, 2.0)
        case "sigmoid" | "tanh":  # f (1 - f), (1 - f)(1 + f): the value's own error, then three roundings
            f, df = evaluate(name, v), evaluate_derivative(name, v)
            steep = np.abs(1.0 - 2.0 * f) if name == "sigmoid" else 2.0 * np.abs(f)
            a, b = _select_accuracy(u)[str(name)]
            own = u * (a * np.abs(f) + b)
            return own * (steep + own) + 4.0 * u * (df + bound_derivative_change(name, v, e) + u)
        case "silu" | "gelu":
            return u * ((sigmoid if name == "silu" else erf) + 6.0) * (1.0 + largest)
        case "gelu_tanh":
            return u * (2.0 * tanh + 10.0) * (1.0 + 0.8 * largest * (1.0 + 0.134 * largest**2))
    raise AssertionError(name)


def bound_intermediates(name: Nonlinearity, v: Array, e: Array) -> Array:
    """Bound the intermediates of usual formulas of f; v (v + 3) / 6 and v (1 + erf) / 2 divide last."""
    largest: Array = np.abs(v) + e
    return {"hard_swish": 6.0, "gelu": 2.0, "gelu_tanh": 2.0}.get(str(name), 1.0) * largest


def bound_derivative_intermediates(name: Nonlinearity, v: Array, e: Array) -> Array:
    """Bound the intermediates of usual formulas of f'; a cube of inf in gelu_tanh meets 1 - tanh^2 = 0."""
    largest: Array = np.abs(v) + e
    return largest**3 if name == "gelu_tanh" else bound_intermediates(name, v, e)


def _select_accuracy(u: float) -> dict[str, tuple[float, float]]:
    return ACCURACY if u < 2.0**-20 else HALF_ACCURACY


def evaluate(name: Nonlinearity, v: Array) -> Array:
    """Evaluate an activation or a gate by name."""
    if isinstance(name, HardSigmoid) or name == "hard_sigmoid":
        return apply_gate(v, name)
    return activate(v, name)


def evaluate_derivative(name: Nonlinearity, v: Array) -> Array:
    """Evaluate the derivative of an activation or a gate by name."""
    if isinstance(name, HardSigmoid) or name == "hard_sigmoid":
        return gate_derivative(v, name)
    return activate_derivative(v, name)


def _find_steepest_slope(name: Nonlinearity, v: Array, e: Array) -> Array:
    """Compute the largest |f'| of a piecewise polynomial between v - e and v + e."""
    low, high = v - e, v + e
    match name:
        case "identity":
            return np.ones_like(v)
        case "relu":
            return np.where(high > 0.0, 1.0, 0.0)
        case "relu6":
            return np.where((high > 0.0) & (low < 6.0), 1.0, 0.0)
        case LeakyReLU(slope):
            return np.maximum(np.where(high > 0.0, 1.0, 0.0), np.where(low <= 0.0, abs(slope), 0.0))
        case "hard_swish":
            inside = [np.abs(np.clip(end, -3.0, 3.0) / 3.0 + 0.5) for end in (low, high)]
            curved = np.where((high > -3.0) & (low < 3.0), np.maximum(*inside), 0.0)
            return np.maximum(curved, np.where(high >= 3.0, 1.0, 0.0))
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            ends = np.sort([numbers.slope * end + numbers.offset for end in (low, high)], axis=0)
            return np.where((ends[1] > numbers.low) & (ends[0] < numbers.high), abs(numbers.slope), 0.0)
    raise AssertionError(name)


def _list_kinks(name: Nonlinearity) -> list[tuple[float, float]]:
    """List the kinks: the argument, and the jump of f' there."""
    match name:
        case "relu":
            return [(0.0, 1.0)]
        case "relu6":
            return [(0.0, 1.0), (6.0, 1.0)]
        case LeakyReLU(slope):
            return [(0.0, abs(1.0 - slope))]
        case "hard_swish":
            return [(-3.0, 0.5), (3.0, 0.5)]
        case "hard_sigmoid" | HardSigmoid():
            n = hard_sigmoid_numbers(name)
            return [((edge - n.offset) / n.slope, abs(n.slope)) for edge in (n.low, n.high) if n.slope]
    return []


def _find_range(name: Nonlinearity) -> tuple[float, float] | None:
    match name:
        case "sigmoid":
            return (0.0, 1.0)
        case "tanh":
            return (-1.0, 1.0)
        case "relu6":
            return (0.0, 6.0)
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            return (numbers.low, numbers.high)
    return None
