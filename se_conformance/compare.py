"""How far an implementation's answer is from the oracle's, beside how far it may be."""

import math
from typing import NamedTuple

import numpy as np

import se_numpy
from se_spec import SESpec

from .cases import Inputs
from .tolerances import allowed


class Result(NamedTuple):
    """What an implementation returned, as NumPy arrays of the dtypes that it returned; feature maps channels last."""

    y: np.ndarray
    g: np.ndarray
    dx: np.ndarray | None = None
    dparameters: dict[str, np.ndarray] | None = None


class Comparison(NamedTuple):
    """One array against another: the largest difference, relative to the largest magnitude wanted."""

    quantity: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is within what is allowed; NaN is not."""
        return self.error <= self.allowed


def reference(inputs: Inputs, spec: SESpec, *, gradients: bool = True) -> Result:
    """The oracle's answer, float64."""
    x, dy, parameters = inputs
    y = se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last")
    g = se_numpy.excitation(x, spec, parameters, data_format="channels_last")
    if not gradients:
        return Result(y, g)
    return Result(y, g, *se_numpy.vjp(x, dy, spec, parameters, data_format="channels_last"))


def compare(got: Result, want: Result, dtype: str) -> list[Comparison]:
    """Every quantity that both have, against what ``tolerances`` allows in ``dtype``."""
    pairs = {"y": (got.y, want.y), "g": (got.g, want.g)}
    if got.dx is not None and want.dx is not None:
        pairs["dx"] = (got.dx, want.dx)
    if got.dparameters is not None and want.dparameters is not None:
        if got.dparameters.keys() != want.dparameters.keys():
            raise AssertionError(f"gradients of {list(got.dparameters)}, expected {list(want.dparameters)}")
        pairs |= {f"d {name}": (got.dparameters[name], want.dparameters[name]) for name in want.dparameters}
    positions = math.prod(want.y.shape[1:-1])
    return [Comparison(name, difference(*pair), allowed(name, dtype, positions)) for name, pair in pairs.items()]


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want|; inf where shapes differ, or NaN and inf stand in different places.

    >>> difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    """
    if got.shape != want.shape:
        return float("inf")
    got = got.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    scale = float(np.abs(want[finite]).max(initial=0.0))
    error = float(np.abs(got[finite] - want[finite]).max(initial=0.0))
    return error / scale if scale else float(error and np.inf)
