"""Compares a block's answer with a frozen vector."""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_numpy import error_bounds
from se_spec import SESpec
from se_spec.formats import FORMATS

from ..calls import call_function
from ..cases import Inputs
from ..comparison import compare_arrays
from .frozen import Vector


def find_error(function: Callable[[np.ndarray, dict[str, np.ndarray], SESpec], Any], vector: Vector) -> str:
    """Compare ``function(x, parameters, spec)`` with a vector.

    Args:
        function: returns y, (N, *space, C), in the vector's dtype.
        vector: the inputs and the right answer.

    Returns:
        What is wrong, in one line; empty if nothing is.

    Example:
        >>> from se_conformance import vectors
        >>> find_error(lambda x, p, spec: 2 * x, vectors.load()[0]).split(":")[0]
        'y[0, 1, 2, 1]'
    """
    inputs = Inputs(vector.x, np.zeros_like(vector.x), vector.parameters)
    call = call_function(lambda x, parameters: function(x, parameters, vector.spec), inputs)
    if call.raised:
        return f"raised {call.raised}"
    if call.y is None:
        return f"returned {call.returned}, expected an array"
    if (call.y.shape, call.y.dtype) != (vector.y.shape, vector.y.dtype):
        return f"{call.y.dtype} {call.y.shape}, expected {vector.y.dtype} {vector.y.shape}"
    r = error_bounds.make_rounding(vector.dtype, None, "dtype", "storage")
    bound = error_bounds.compute_bounds(
        vector.x, None, vector.spec, vector.parameters, r, "channels_last", exact=True
    ).y
    want = vector.y.astype(np.float64)
    bound = bound + FORMATS[vector.dtype].unit * np.abs(want)  # the expected y was rounded once
    found = compare_arrays("y", call.y, want, bound, np.full_like(bound, np.inf))
    if found.passed:
        return ""
    numbers = f"got {found.got:.9g}, want {found.want:.9g}, bound {found.bound:.2g}, ratio {found.ratio:.3g}"
    return f"y{list(found.where)}: {numbers}"
