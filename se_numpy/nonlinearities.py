"""Activations, gates and their derivatives in float64, without a warning at any size of argument.

At a kink the derivative is 0 for relu, relu6 and the hard sigmoid, and the slope for leaky ReLU (SPEC V-3).
"""

import math

import numpy as np
from numpy.typing import NDArray

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers

Array = NDArray[np.float64]

_erfc = np.frompyfunc(math.erfc, 1, 1)


def activate(h: Array, activation: Activation) -> Array:
    """Apply the activation to hidden values (A-1 to A-8); the shape stays."""
    match activation:
        case "relu":
            return np.maximum(h, 0.0)
        case "silu":
            return h * sigmoid(h)
        case "hard_swish":
            return h * np.clip(h + 3.0, 0.0, 6.0) / 6.0
        case "gelu":
            return h * normal_cdf(h)
        case "gelu_tanh":
            return h * sigmoid(2.0 * _tanh_argument(h))  # (1 + tanh u) / 2 = sigmoid(2 u), without cancellation
        case LeakyReLU(slope):
            return np.where(h > 0.0, h, slope * h)
        case "relu6":
            return np.clip(h, 0.0, 6.0)
        case "sigmoid" | "tanh" | "identity":
            return apply_gate(h, activation)
    raise AssertionError(activation)


def activate_derivative(h: Array, activation: Activation) -> Array:
    """Compute the derivative of ``activate``; the shape stays."""
    match activation:
        case "relu":
            return np.where(h > 0.0, 1.0, _zero_or_nan(h))
        case "silu":
            return sigmoid(h) * (1.0 + h * sigmoid(-h))
        case "hard_swish":
            return np.where(np.abs(h) < 3.0, h / 3.0 + 0.5, np.where(h >= 3.0, 1.0, _zero_or_nan(h)))
        case "gelu":
            return normal_cdf(h) + h * np.exp(-0.5 * h * h) / math.sqrt(2.0 * math.pi)
        case "gelu_tanh":
            twice = 2.0 * _tanh_argument(h)
            slope = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * h * h)
            return sigmoid(twice) * (1.0 + h * sigmoid(-twice) * slope)
        case LeakyReLU(slope):
            return np.where(h > 0.0, 1.0, slope + _zero_or_nan(h))
        case "relu6":
            return np.where((h > 0.0) & (h < 6.0), 1.0, _zero_or_nan(h))
        case "sigmoid" | "tanh" | "identity":
            return gate_derivative(h, activation)
    raise AssertionError(activation)


def apply_gate(v: Array, gate: Gate) -> Array:
    """Apply the gate to logits (G-1 to G-5); the shape stays."""
    match gate:
        case "sigmoid":
            return sigmoid(v)  # G-1
        case "tanh":
            return np.tanh(v)  # G-2
        case "relu":
            return np.maximum(v, 0.0)  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(gate)
            return np.clip(numbers.slope * v + numbers.offset, numbers.low, numbers.high)  # G-5
    raise AssertionError(gate)


def gate_derivative(v: Array, gate: Gate) -> Array:
    """Compute the derivative of ``apply_gate``; the shape stays."""
    match gate:
        case "sigmoid":
            return sigmoid(v) * sigmoid(-v)
        case "tanh":
            return (1.0 - np.tanh(v)) * (1.0 + np.tanh(v))
        case "relu":
            return np.where(v > 0.0, 1.0, _zero_or_nan(v))
        case "identity":
            return 1.0 + _zero_or_nan(v)
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(gate)
            line = numbers.slope * v + numbers.offset
            return np.where((line > numbers.low) & (line < numbers.high), numbers.slope, _zero_or_nan(v))
    raise AssertionError(gate)


def sigmoid(v: Array) -> Array:
    """Compute 1 / (1 + exp(-v)) from exp(-|v|), which cannot overflow."""
    e = np.exp(-np.abs(v))
    return np.where(v < 0.0, e, 1.0) / (1.0 + e)


def normal_cdf(h: Array) -> Array:
    """Compute the standard normal distribution function by erfc; 1 + erf would cancel for h < 0."""
    return 0.5 * np.asarray(_erfc(-h / math.sqrt(2.0)), np.float64)


def _tanh_argument(h: Array) -> Array:
    return math.sqrt(2.0 / math.pi) * (h + 0.044715 * h * h * h)


def _zero_or_nan(v: Array) -> Array:
    """Return 0, and NaN where v is NaN, since a comparison turns NaN into a number."""
    return np.where(np.isnan(v), np.nan, 0.0)
