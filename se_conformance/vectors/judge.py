"""One answer against one frozen vector."""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_numpy import error_bounds
from se_spec import SESpec

from ..calls import call_function
from ..cases import Inputs
from ..comparison import compare_arrays
from .frozen import Vector


def wrong_with(function: Callable[[np.ndarray, dict[str, np.ndarray], SESpec], Any], vector: Vector) -> str:
    """What is wrong with ``function(x, parameters, spec)`` on a vector; empty if nothing is.

    >>> from se_conformance import vectors
    >>> wrong_with(lambda x, p, spec: 2 * x, vectors.load()[0]).split(":")[0]
    'y[0, 1, 2, 1]'
    """
    inputs = Inputs(vector.x, np.zeros_like(vector.x), vector.parameters)
    outcome = call_function(lambda x, parameters: function(x, parameters, vector.spec), inputs)
    if outcome.raised:
        return f"raised {outcome.raised}"
    if outcome.y is None:
        return f"returned {outcome.returned}, expected an array"
    if (outcome.y.shape, outcome.y.dtype) != (vector.y.shape, vector.y.dtype):
        return f"{outcome.y.dtype} {outcome.y.shape}, expected {vector.y.dtype} {vector.y.shape}"
    r = error_bounds.rounding(vector.dtype, None, "dtype", "storage")
    bound = error_bounds.bounds(vector.x, None, vector.spec, vector.parameters, r, "channels_last", exact=True).y
    want = vector.y.astype(np.float64)
    bound = bound + error_bounds.FORMATS[vector.dtype].unit * np.abs(want)  # what is expected was rounded, too
    one = compare_arrays("y", outcome.y, want, bound, np.full_like(bound, np.inf))
    if one.passed:
        return ""
    return f"y{list(one.where)}: got {one.got:.9g}, want {one.want:.9g}, bound {one.bound:.2g}, ratio {one.ratio:.3g}"
