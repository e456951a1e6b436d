"""Seeded parameters for tests, examples and vectors."""

import math

import numpy as np

import se_spec
from se_spec import SESpec


def initialize(spec: SESpec, seed: int, *, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Canonical parameters drawn uniformly from ±1/sqrt(fan_in), weights and biases alike (K-4).

    Args:
        spec: which block.
        seed: of NumPy's default generator; the same seed gives the same bytes.
        dtype: of the result; the numbers are drawn in float64 and rounded once.

    >>> {name: array.shape for name, array in initialize(SESpec(64), seed=0).items()}
    {'reduce.weight': (4, 64), 'expand.weight': (64, 4)}
    """
    random = np.random.default_rng(seed)
    fan_in = {"reduce": spec.channels, "expand": spec.hidden}
    parameters = {}
    for name, shape in se_spec.parameters.shapes(spec).items():
        limit = 1.0 / math.sqrt(fan_in[name.partition(".")[0]])
        parameters[name] = random.uniform(-limit, limit, shape).astype(dtype)
    return parameters
