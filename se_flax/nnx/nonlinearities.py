"""Activations and gates in NNX's own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5)."""

import jax
import jax.numpy as jnp
from flax import nnx

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers


def activate(h: jax.Array, name: Activation) -> jax.Array:
    """The activation of hidden values; same shape."""
    match name:
        case "relu":
            return nnx.relu(h)
        case "silu":
            return nnx.silu(h)
        case "hard_swish":
            return nnx.hard_swish(h)
        case "gelu":
            return nnx.gelu(h, approximate=False)
        case "gelu_tanh":
            return nnx.gelu(h, approximate=True)
        case LeakyReLU():
            return nnx.leaky_relu(h, name.slope)
        case "relu6":
            return nnx.relu6(h)
        case _:
            return gate(h, name)


def gate(v: jax.Array, name: Gate) -> jax.Array:
    """The gate of logits; same shape."""
    match name:
        case "sigmoid":
            return nnx.sigmoid(v)  # G-1
        case "tanh":
            return nnx.tanh(v)  # G-2
        case "relu":
            return nnx.relu(v)  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(name)
            return jnp.clip(numbers.slope * v + numbers.offset, numbers.low, numbers.high)  # G-5
    raise AssertionError(name)
