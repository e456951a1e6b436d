"""Transformations of values on their way from a file, and back; everything else that a layout does is a permutation.

Computed in float64 and rounded once, so a way there and back is right to the last unit, and only that.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Change(NamedTuple):
    """Both directions.

    Args:
        load: (tensor, those beside it, the network's epsilon) to the canonical values.
        save: (canonical values, epsilon) to the tensor.
        beside: what is written for those beside it; a number each.
        said: for the report.
    """

    load: Callable[[np.ndarray, tuple[np.ndarray, ...], float], np.ndarray]
    save: Callable[[np.ndarray, float], np.ndarray]
    beside: tuple[float, ...]
    said: str


def _divide(value: np.ndarray, beside: tuple[np.ndarray, ...], epsilon: float) -> np.ndarray:
    factor = float(beside[0].ravel()[0])
    return value / factor if factor else np.zeros_like(value)


CHANGES = {
    # Caffe adds statistics up, and the factor is by how many they are to be divided; 0 before the first.
    "factor": Change(_divide, lambda value, epsilon: value, (1.0,), "divided by Caffe's stored factor"),
    # MatConvNet's column of sigmas holds sqrt(variance + epsilon).
    "sigma": Change(
        lambda value, beside, epsilon: value**2 - epsilon,
        lambda value, epsilon: np.sqrt(value + epsilon),
        (),
        "squared, less epsilon: MatConvNet keeps sigma with epsilon inside",
    ),
}
