"""Activations and gates in Keras' own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5).

Written out where Keras' own falls short of float64: ``ops.gelu`` and ``ops.leaky_relu`` keep float32 constants on
TensorFlow (errors of 1e-9 to 4e-8), and ``ops.tanh`` computes in float32 on the jax backend.
"""

import math
from typing import Any

import keras
from keras import ops

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers

from .ops import clip, with_nan_of


def activate(h: Any, name: Activation) -> Any:
    """The activation of hidden values; same shape."""
    match name:
        case "relu":
            return with_nan_of(h, ops.relu(h))
        case "silu":
            return ops.silu(h)
        case "hard_swish":
            return h * ops.clip(h + 3.0, 0.0, 6.0) / 6.0
        case "gelu":
            y = 0.5 * h * (1.0 + ops.erf(h * math.sqrt(0.5)))
            return ops.where(y < -1.0, 0.0 * h, y)  # XLA's erf(-inf) is not quite -1
        case "gelu_tanh":
            return 0.5 * h * (1.0 + _tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h * h * h)))
        case LeakyReLU():
            return ops.where(h > 0.0, h, name.slope * h)
        case "relu6":
            return with_nan_of(h, ops.relu6(h))
        case _:
            return gate(h, name)


def gate(v: Any, name: Gate) -> Any:
    """The gate of logits; same shape."""
    match name:
        case "sigmoid":
            return ops.sigmoid(v)  # G-1
        case "tanh":
            return _tanh(v)  # G-2
        case "relu":
            return with_nan_of(v, ops.relu(v))  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            return clip(numbers.slope * v + numbers.offset, numbers.low, numbers.high)  # G-5
    raise AssertionError(name)


def _tanh(v: Any) -> Any:
    if keras.backend.standardize_dtype(v.dtype) != "float64":
        return ops.tanh(v)
    e = ops.elu(-2.0 * ops.abs(v))  # expm1, and ops.expm1 is float32 as well
    return ops.sign(v) * -e / (2.0 + e)
