"""The block in exact arithmetic: fractions, and decimals where a value is irrational; rounded once, at the end.

This module shares no line with the oracle and uses neither the machine's floating point nor its libm or BLAS, so that
every machine computes the same bytes. It is slow and meant for small inputs: every number is a ``Fraction``.
"""

import decimal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

import se_spec
from se_spec import HardSigmoid, InputError, LeakyReLU, SESpec
from se_spec.formats import FORMATS
from se_spec.nonlinearities import Activation, Gate

DIGITS = 90
"""Decimal digits of the arithmetic; 60 digits of every value are right, for arguments up to a few thousand."""

ZERO, HALF, ONE = Fraction(0), Fraction(1, 2), Fraction(1)


class Exact(NamedTuple):
    """Every intermediate value, as object arrays of ``Fraction``; pre is None with a single projection."""

    z: np.ndarray
    pre: np.ndarray | None
    h: np.ndarray
    logits: np.ndarray
    g: np.ndarray
    y: np.ndarray


def block(x: np.ndarray, spec: SESpec, parameters: Mapping[str, np.ndarray]) -> Exact:
    """Compute the block exactly where the spec's functions are rational, else to 1e-60 of each function's value.

    Args:
        x: the feature map, (N, *space, C), of any float dtype.
        spec: which block.
        parameters: the canonical parameters, of any float dtype.

    Raises:
        InputError: x or a parameter holds NaN or inf, or x is not of floats.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.
        ParameterError: names or shapes do not fit the spec.

    >>> x = np.array([[[1.0], [2.0], [6.0]]])
    >>> weights = {"reduce.weight": np.ones((1, 1)), "expand.weight": np.ones((1, 1))}
    >>> block(x, SESpec(1, gate="hard_sigmoid"), weights).y.ravel()
    array([Fraction(1, 1), Fraction(2, 1), Fraction(6, 1)], dtype=object)
    """
    se_spec.inputs.check(x.shape, x.dtype, spec, "channels_last")
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(spec))
    values = _to_fractions("x", x)
    weights = {name: _to_fractions(name, array) for name, array in parameters.items()}
    z = _squeeze(values.reshape(x.shape[0], -1, spec.channels), spec.squeeze)
    pre, h = None, z  # E-4
    if not spec.single_projection:
        pre = z @ weights["reduce.weight"].T + weights.get("reduce.bias", ZERO)  # E-1
        h = np.frompyfunc(lambda u: activate(u, spec.activation), 1, 1)(pre)  # E-2
    logits = h @ weights["expand.weight"].T + weights.get("expand.bias", ZERO)  # E-3
    g = np.frompyfunc(lambda v: gate(v, spec.gate), 1, 1)(logits)
    scale = np.expand_dims(Fraction(spec.gain) * g, tuple(range(1, x.ndim - 1)))  # C-2
    y = values * scale + (values if spec.residual else ZERO)  # C-1, C-3
    return Exact(z, pre, h, logits, g, y)


def round_fractions(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round fractions once to a storage type of SPEC K-1, half to even; large values become inf, 0 becomes +0.

    >>> round_fractions(np.array([Fraction(1, 3), Fraction(2**24 + 1), Fraction(10**6)]), "float16").tolist()
    [0.333251953125, inf, inf]
    """
    width, mantissa = FORMATS[dtype]
    bits = [_encode(value, width, mantissa) for value in values.ravel().tolist()]
    words = np.array(bits, f"uint{width}").reshape(values.shape)
    if dtype == "bfloat16":
        import ml_dtypes

        return words.view(ml_dtypes.bfloat16)
    return words.view(dtype)


def activate(u: Fraction, name: Activation) -> Fraction:
    """Apply the activation to one hidden value (A-1 to A-8)."""
    match name:
        case "relu":
            return max(u, ZERO)
        case "silu":
            return u * _sigmoid(u)
        case "hard_swish":
            return u * min(max(u + 3, ZERO), Fraction(6)) / 6
        case "gelu":
            return u * _normal_cdf(u)
        case "gelu_tanh":
            return u * _sigmoid(_twice_tanh_argument(u))  # (1 + tanh w) / 2 = sigmoid(2 w), without cancellation
        case LeakyReLU(slope):
            return u if u > 0 else Fraction(slope) * u
        case "relu6":
            return min(max(u, ZERO), Fraction(6))
    return gate(u, name)


def gate(v: Fraction, name: Gate) -> Fraction:
    """Apply the gate to one logit (G-1 to G-5); ``hard_sigmoid`` has the slope 1/6 exactly."""
    match name:
        case "sigmoid":
            return _sigmoid(v)
        case "tanh":
            return _tanh(v)
        case "relu":
            return max(v, ZERO)
        case "identity":
            return v
        case "hard_sigmoid":
            return min(max(v / 6 + HALF, ZERO), ONE)
        case HardSigmoid(slope, offset, low, high):
            return min(max(Fraction(slope) * v + Fraction(offset), Fraction(low)), Fraction(high))
    raise AssertionError(name)


def _to_fractions(what: str, array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InputError(f"{what} holds NaN or inf, which are no fractions; exact arithmetic takes finite numbers only")
    return np.array([Fraction(value) for value in wide.ravel().tolist()], object).reshape(wide.shape)


def _squeeze(flat: np.ndarray, kind: str) -> np.ndarray:
    """(N, positions, C) to (N, C): S-1 to S-3."""
    mean: np.ndarray = flat.sum(1) / Fraction(flat.shape[1])
    top: np.ndarray = flat.max(1)
    return {"avg": mean, "max": top, "avg_max": (mean + top) / 2}[kind]


def _encode(value: Fraction, width: int, mantissa: int) -> int:
    """Compute the bits of the nearest float; a carry of the significand increments the exponent by itself."""
    if value == 0:
        return 0
    top, bottom = abs(value.numerator), value.denominator
    lowest = 3 - mantissa - 2 ** (width - mantissa - 1)  # the smallest subnormal is 2**lowest
    exponent = top.bit_length() - bottom.bit_length()  # 2**exponent is at most twice too large
    if top << max(-exponent, 0) < bottom << max(exponent, 0):
        exponent -= 1
    place = max(exponent - mantissa + 1, lowest)
    bottom <<= max(place, 0)
    whole, rest = divmod(top << max(-place, 0), bottom)
    whole += 2 * rest > bottom or (2 * rest == bottom and whole % 2)
    infinity = (2 ** (width - mantissa) - 1) << (mantissa - 1)
    sign = int(value < 0) << (width - 1)
    return sign | min(((place - lowest) << (mantissa - 1)) + whole, infinity)


def _set_digits(count: int) -> AbstractContextManager[decimal.Context]:
    """Set decimal arithmetic to ``count`` digits and any exponent, whatever the caller has set."""
    return decimal.localcontext(decimal.Context(prec=count, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX))


def _to_decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _sigmoid(v: Fraction) -> Fraction:
    """Compute the sigmoid from exp(-|v|), which is at most 1."""
    with _set_digits(DIGITS):
        e = (-abs(_to_decimal(v))).exp()
        return Fraction((e if v < 0 else 1) / (1 + e))


def _tanh(v: Fraction) -> Fraction:
    """Compute (1 - e) / (1 + e) with e = exp(-2 |v|), with as many additional digits as 1 - e cancels."""
    lost = max(0, v.denominator.bit_length() - v.numerator.bit_length()) // 3
    with _set_digits(DIGITS + lost):
        e = (-2 * abs(_to_decimal(v))).exp()
        return Fraction((1 - e) / (1 + e)) * (-1 if v < 0 else 1)


def _normal_cdf(u: Fraction) -> Fraction:
    """Compute 1/2 + density * sum of u^(2k+1) / (2k+1)!!, whose terms have one sign; for abs(u) up to a hundred.

    For u < 0 the two terms cancel to about exp(-u^2 / 2), so that more digits are carried.
    """
    with _set_digits(DIGITS + (int(u * u / 4) if u < 0 else 0)):
        square = _to_decimal(u * u)
        total, term, k = Decimal(0), _to_decimal(u), 1
        while total + term != total:
            total, term, k = total + term, term * square / (2 * k + 1), k + 1
        density = (-square / 2).exp() / (2 * _pi(decimal.getcontext().prec)).sqrt()
        return Fraction(Decimal(1) / 2 + density * total)


def _twice_tanh_argument(u: Fraction) -> Fraction:
    """Compute 2 sqrt(2/pi) (u + 0.044715 u^3) of A-5."""
    with _set_digits(DIGITS):
        root = (2 / _pi(DIGITS)).sqrt()
    return 2 * Fraction(root) * (u + Fraction(44715, 10**6) * u**3)


@cache
def _pi(digits: int) -> Decimal:
    """Compute pi by Euler's series: pi / 2 is the sum of k! / (2k+1)!!."""
    with _set_digits(digits + 10):
        total, term, k = Decimal(0), Decimal(2), 1
        while total + term != total:
            total, term, k = total + term, term * k / (2 * k + 1), k + 1
        return total
