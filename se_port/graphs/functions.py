"""Functions of one number that a graph computes: their evaluation, and the activation or gate of the spec they are.

A graph writes one function in many ways: ``x * sigmoid(x)``, ``clip(x + 3, 0, 6) / 6``, ``hard_sigmoid`` with numbers
of its own. Therefore a function is recognised by its values. It is evaluated in float64 on 1,201 points between -12
and 12, and is the spec's function whose values are within 1e-6 of them, relative to the larger of 1 and the value; the
tolerance is 1e-3 where a file has numbers of the function in float16.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_numpy.nonlinearities import activate, apply_gate, normal_cdf, sigmoid
from se_spec.nonlinearities import ACTIVATIONS, GATES, HARD_SIGMOID, Activation, Gate, HardSigmoid, LeakyReLU

Array = NDArray[np.float64]

POINTS = np.linspace(-12.0, 12.0, 1201)
TOLERANCE = 1e-6
ROUNDING = 6e-8
"""Of a number to float32, relative to it."""
HALF_TOLERANCE, HALF_ROUNDING = 1e-3, 2.0**-11
"""The same where a file has its numbers in float16."""
TINY = 1e-12
"""Rounding of a line that goes through 0."""
FAR = 1e4
"""An argument beyond every kink: the limits of a hard sigmoid are read here."""

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "relu": lambda v: np.maximum(v, 0.0),
    "relu6": lambda v: np.clip(v, 0.0, 6.0),
    "clip": lambda v, low=-math.inf, high=math.inf: np.clip(v, low, high),
    "leaky_relu": lambda v, slope: np.where(v > 0.0, v, slope * v),
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda v, slope, offset: np.clip(slope * v + offset, 0.0, 1.0),
    "hard_swish": lambda v: v * np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    "silu": lambda v: v * sigmoid(v),
    "gelu": lambda v: v * normal_cdf(v),
    "gelu_tanh": lambda v: activate(v, "gelu_tanh"),
    "mish": lambda v: v * np.tanh(np.logaddexp(0.0, v)),
    "elu": lambda v, alpha=1.0: np.where(v > 0.0, v, alpha * np.expm1(np.minimum(v, 0.0))),
    "softplus": lambda v: np.logaddexp(0.0, v),
    "softsign": lambda v: v / (1.0 + np.abs(v)),
    "tanh": np.tanh,
    "exp": np.exp,
    "log": np.log,
    "erf": lambda v: 2.0 * normal_cdf(math.sqrt(2.0) * v) - 1.0,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda v: 1.0 / np.sqrt(v),
    "square": np.square,
    "sign": np.sign,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "reciprocal": np.reciprocal,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "not": np.logical_not,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "where": lambda mask, x, y: np.asarray(np.where(np.not_equal(mask, 0.0), x, y)),
}  # fmt: skip
"""Each function of a graph, in float64; further arguments are numbers."""


@dataclass(frozen=True)
class Function:
    """An expression of one variable.

    Args:
        op: a key of ``FUNCTIONS``; ``"v"`` is the variable, ``"constant"`` a number.
        inputs: of the function.
        numbers: further arguments; the value of a constant is ``numbers["value"]``.
        size: how many functions it has, those that are used twice counted twice.
        is_half: whether a number of it was rounded to float16.
    """

    op: str
    inputs: tuple["Function", ...] = ()
    numbers: tuple[tuple[str, float], ...] = ()
    size: int = 1
    is_half: bool = False

    @property
    def is_variable(self) -> bool:
        """Whether it is the variable itself."""
        return self.op == "v"

    def __call__(self, v: Array) -> Array:
        """Evaluate at the points v, in float64; warnings are off."""
        if self.is_variable:
            return v
        numbers = dict(self.numbers)
        if self.op == "constant":
            return np.full_like(v, numbers["value"])
        with np.errstate(all="ignore"):
            return np.asarray(FUNCTIONS[self.op](*(part(v) for part in self.inputs), **numbers), np.float64)


VARIABLE = Function("v")


def constant(value: float, is_half: bool = False) -> Function:
    """Make a function whose value is a number; ``is_half`` if it was rounded to float16."""
    return Function("constant", numbers=(("value", float(value)),), is_half=is_half)


def apply(op: str, *inputs: Function, **numbers: float) -> Function:
    """Apply a function of ``FUNCTIONS`` to others."""
    size, is_half = 1 + sum(part.size for part in inputs), any(part.is_half for part in inputs)
    return Function(op, inputs, tuple(numbers.items()), size, is_half)


def split_line(function: Function) -> tuple[float, float, Function]:
    """Write a function as f(slope * v + offset), with all that a graph computes of v before f in the line.

    >>> slope, offset, rest = split_line(apply("sigmoid", apply("mul", VARIABLE, constant(2))))
    >>> slope, offset, as_activation(rest)
    (2.0, 0.0, 'sigmoid')
    """
    slope, offset = 1.0, 0.0
    while True:
        parents = _parents_of_variable(function)
        line = as_line(next(iter(parents))) if len(parents) == 1 else None
        if line is None or function.is_variable:
            return slope, offset, function
        slope, offset = line[0] * slope, line[0] * offset + line[1]
        function = _replace(function, next(iter(parents)))


def _parents_of_variable(function: Function) -> set[Function]:
    if VARIABLE in function.inputs:
        rest = [part for part in function.inputs if not part.is_variable]
        return {function}.union(*map(_parents_of_variable, rest))
    return set().union(*map(_parents_of_variable, function.inputs))


def _replace(function: Function, part: Function) -> Function:
    """Put the variable in place of a part."""
    if function == part:
        return VARIABLE
    return apply(function.op, *(_replace(one, part) for one in function.inputs), **dict(function.numbers))


def as_line(function: Function) -> tuple[float, float] | None:
    """Slope and offset if the function is a straight line, else None."""
    if function.is_variable:
        return 1.0, 0.0
    zero, unit = (float(function(np.array([point]))[0]) for point in (0.0, 1.0))
    slope = unit - zero
    return (slope, zero) if _agrees(function(POINTS), slope * POINTS + zero) else None


def as_activation(function: Function) -> Activation | None:
    """Recognise the activation of a spec that the function is; None if it is none.

    >>> as_activation(apply("mul", VARIABLE, apply("sigmoid", VARIABLE)))
    'silu'
    """
    values, is_half = function(POINTS), function.is_half
    name = _nearest(values, {name: activate(POINTS, name) for name in ACTIVATIONS}, is_half)
    if name:
        return name
    slope = float(-function(np.array([-1.0]))[0])
    if math.isfinite(slope) and _agrees(values, activate(POINTS, LeakyReLU(slope)), is_half):
        return LeakyReLU(shortest(slope, is_half))
    return None


def as_gate(function: Function) -> tuple[Gate, float, bool] | None:
    """Recognise gate, gain and residual of a spec that the function is; None if it is none.

    >>> three = apply("clip", apply("add", VARIABLE, constant(3)), low=0, high=6)
    >>> as_gate(apply("div", three, constant(6)))
    ('hard_sigmoid', 1.0, False)
    """
    for residual in (False, True):
        rest = apply("sub", function, constant(1.0)) if residual else function
        far = float(rest(np.array([FAR]))[0])
        gain = shortest(far, function.is_half) if 1e-3 < abs(far) < FAR / 2 and abs(far - 1.0) > 1e-3 else 1.0
        inner, last = _split_factor(rest)
        candidates = (
            (1.0, _named_gate(rest)),
            (gain, _named_gate(apply("div", rest, constant(gain)))),
            (last, _named_gate(inner) or _unit_hard_sigmoid(inner)),
            (1.0, _hard_sigmoid(rest)),
        )
        for factor, gate in candidates:
            if gate is not None:
                return gate, factor, residual
    return None


def _split_factor(function: Function) -> tuple[Function, float]:
    """Split off the number by which a function is multiplied last; 1 if there is none."""
    if function.op == "mul":
        for number, rest in (function.inputs, function.inputs[::-1]):
            if number.op == "constant":
                return rest, shortest(dict(number.numbers)["value"])
    return function, 1.0


def _unit_hard_sigmoid(function: Function) -> Gate | None:
    """Recognise the hard sigmoid from 0 to 1 that the function is."""
    gate = _hard_sigmoid(function)
    return gate if isinstance(gate, HardSigmoid) and (gate.low, gate.high) == (0.0, 1.0) else None


def _named_gate(function: Function) -> Gate | None:
    return _nearest(function(POINTS), {name: apply_gate(POINTS, name) for name in GATES}, function.is_half) or None


def _hard_sigmoid(function: Function) -> Gate | None:
    """Recognise a hard sigmoid by its two limits and the line between them."""
    values, is_half = function(POINTS), function.is_half
    low, high, middle = (float(function(np.array([point]))[0]) for point in (-FAR, FAR, 0.0))
    inside = (values > low) & (values < high)
    if not _agrees(
        function(np.array([-2 * FAR, 2 * FAR])), np.array([low, high])
    ):  # a line without end, such as a relu
        return None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and inside.sum() > 1):
        return None
    slope, offset = (float(number) for number in np.polyfit(POINTS[inside], values[inside], 1))
    offset = middle if low < middle < high else offset
    slope, offset, low, high = (shortest(number, is_half) for number in (slope, offset, low, high))
    gate = HardSigmoid(_sixth(slope), offset, low, high)
    if not _agrees(values, apply_gate(POINTS, gate), is_half):
        return None
    return "hard_sigmoid" if gate == HARD_SIGMOID else gate


def _sixth(slope: float) -> float:
    """1/6 where the slope is that in float32."""
    return 1 / 6 if abs(slope - 1 / 6) <= 1e-8 else slope


def shortest(value: float, is_half: bool = False) -> float:
    """Return the decimal number that a file has rounded to float32, or float16: 0.2 for 0.20000000298.

    >>> shortest(float(np.float32(0.2))), shortest(3 * float(np.float32(0.16667))), shortest(1 / 3)
    (0.2, 0.50001, 0.3333333333333333)
    """
    if abs(value) < TINY:
        return 0.0
    decimals = (float(f"{value:.{digits}g}") for digits in range(1, 8))
    rounding = HALF_ROUNDING if is_half else ROUNDING
    return next((short for short in decimals if abs(short - value) <= rounding * abs(value)), value)


def _nearest(values: Array, named: dict[str, Array], is_half: bool) -> str:
    """Return the name of the nearest of these values; ``""`` if all are beyond the tolerance."""
    errors = {name: _error(values, others) for name, others in named.items()}
    name = min(errors, key=lambda name: errors[name])
    return name if errors[name] <= (HALF_TOLERANCE if is_half else TOLERANCE) else ""


def _agrees(values: Any, others: Any, is_half: bool = False) -> bool:
    return _error(values, others) <= (HALF_TOLERANCE if is_half else TOLERANCE)


def _error(values: Any, others: Any) -> float:
    """Return the largest error, relative to the larger of 1 and the value; infinity where a value is none."""
    with np.errstate(invalid="ignore"):
        error = float((np.abs(values - others) / np.maximum(1.0, np.abs(others))).max())
    return error if math.isfinite(error) else math.inf
