"""Activations and gates in PyTorch's own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5)."""

from torch import Tensor
from torch.nn import functional as F

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers


def activate(h: Tensor, name: Activation) -> Tensor:
    """The activation of hidden values; same shape."""
    match name:
        case "relu":
            return F.relu(h)
        case "silu":
            return F.silu(h)
        case "hard_swish":
            return F.hardswish(h)
        case "gelu":
            return F.gelu(h, approximate="none")
        case "gelu_tanh":
            return F.gelu(h, approximate="tanh")
        case LeakyReLU():
            return F.leaky_relu(h, name.slope)
        case "relu6":
            return F.relu6(h)
        case _:
            return gate(h, name)


def gate(v: Tensor, name: Gate) -> Tensor:
    """The gate of logits; same shape."""
    match name:
        case "sigmoid":
            return v.sigmoid()  # G-1
        case "tanh":
            return v.tanh()  # G-2
        case "relu":
            return v.relu()  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            return (numbers.slope * v + numbers.offset).clamp(numbers.low, numbers.high)  # G-5
    raise AssertionError(name)
