"""Activations and gates in PyTorch's own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5).

The functions take a name and its numbers, and branch by ``if``: ``torch.jit.script`` compiles no more than that.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from se_spec import nonlinearities
from se_spec.nonlinearities import HardSigmoid, LeakyReLU, hard_sigmoid_numbers

Activation = tuple[str, float]
"""A name, and the slope of ``leaky_relu``."""
Gate = tuple[str, float, float, float, float]
"""A name, and slope, offset, low and high of ``hard_sigmoid``."""


def spell_activation(activation: nonlinearities.Activation) -> Activation:
    """Return the activation's name and slope; 0 if it has none."""
    return ("leaky_relu", activation.slope) if isinstance(activation, LeakyReLU) else (activation, 0.0)


def spell_gate(gate: nonlinearities.Gate) -> Gate:
    """Return the gate's name and numbers; zeros if it has none."""
    if gate == "hard_sigmoid" or isinstance(gate, HardSigmoid):
        numbers = hard_sigmoid_numbers(gate)
        return "hard_sigmoid", numbers.slope, numbers.offset, numbers.low, numbers.high
    return gate, 0.0, 0.0, 0.0, 0.0


def activate(h: Tensor, activation: Activation) -> Tensor:
    """Apply the activation to hidden values; the shape stays."""
    name, slope = activation
    if name == "relu":
        return F.relu(h)
    if name == "silu":
        return F.silu(h)
    if name == "hard_swish":
        return F.hardswish(h)
    if name == "gelu":
        return F.gelu(h, approximate="none")
    if name == "gelu_tanh":
        return F.gelu(h, approximate="tanh")
    if name == "leaky_relu":
        return F.leaky_relu(h, slope)
    if name == "relu6":
        return F.relu6(h)
    return apply_gate(h, (name, 0.0, 0.0, 0.0, 0.0))


def apply_gate(v: Tensor, gate: Gate) -> Tensor:
    """Apply the gate to logits; the shape stays."""
    name, slope, offset, low, high = gate
    if name == "sigmoid":
        return torch.sigmoid(v)  # G-1
    if name == "tanh":
        return torch.tanh(v)  # G-2
    if name == "relu":
        return F.relu(v)  # G-3
    if name == "identity":
        return v  # G-4
    if name == "hard_sigmoid":
        return (slope * v + offset).clamp(low, high)  # G-5
    raise AssertionError(name)
