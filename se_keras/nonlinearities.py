"""Activations and gates in Keras' own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5).

A function is written out where Keras' own is not exact in float64: ``ops.gelu`` and ``ops.leaky_relu`` keep float32
constants on TensorFlow (errors of 1e-9 to 4e-8), and ``ops.tanh`` computes in float32 on the jax backend.
"""

import math
from typing import Any

import keras
from keras import ops

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers

from .ops import clip, restore_nan


def activate(h: Any, activation: Activation) -> Any:
    """Apply the activation to hidden values; the shape stays."""
    match activation:
        case "relu":
            return restore_nan(h, ops.relu(h))
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
            return ops.where(h > 0.0, h, activation.slope * h)
        case "relu6":
            return restore_nan(h, ops.relu6(h))
        case _:
            return apply_gate(h, activation)


def apply_gate(v: Any, gate: Gate) -> Any:
    """Apply the gate to logits; the shape stays."""
    match gate:
        case "sigmoid":
            return ops.sigmoid(v)  # G-1
        case "tanh":
            return _tanh(v)  # G-2
        case "relu":
            return restore_nan(v, ops.relu(v))  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(gate)
            return clip(numbers.slope * v + numbers.offset, numbers.low, numbers.high)  # G-5
    raise AssertionError(gate)


def _tanh(v: Any) -> Any:
    if keras.backend.standardize_dtype(v.dtype) != "float64":
        return ops.tanh(v)
    e = ops.elu(-2.0 * ops.abs(v))  # expm1, and ops.expm1 is float32 as well
    return ops.sign(v) * -e / (2.0 + e)
