"""Transformations of values between a file and the canonical parameters, where a permutation is not enough.

They are computed in float64 and rounded once, so a value that goes both ways is right to the last unit, and only that.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """A transformation and its inverse.

    Args:
        load: from (tensor, the tensors that it needs, the network's epsilon) to the canonical values.
        save: from (canonical values, epsilon) to the tensor.
        needed_values: one number for each needed tensor, to fill it with when it is written.
        description: for the report.
    """

    load: Callable[[np.ndarray, tuple[np.ndarray, ...], float], np.ndarray]
    save: Callable[[np.ndarray, float], np.ndarray]
    needed_values: tuple[float, ...]
    description: str


def _divide_by_factor(value: np.ndarray, needed: tuple[np.ndarray, ...], epsilon: float) -> np.ndarray:
    factor = float(needed[0].ravel()[0])
    return value / factor if factor else np.zeros_like(value)


TRANSFORMS = {
    # Caffe sums statistics; the factor is the divisor, and 0 before the first step of training.
    "factor": Transform(_divide_by_factor, lambda value, epsilon: value, (1.0,), "divided by Caffe's stored factor"),
    # The column of sigmas in MatConvNet holds sqrt(variance + epsilon).
    "sigma": Transform(
        lambda value, needed, epsilon: value**2 - epsilon,
        lambda value, epsilon: np.sqrt(value + epsilon),
        (),
        "squared, less epsilon: MatConvNet keeps sigma with epsilon inside",
    ),
}
