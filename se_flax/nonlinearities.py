"""Activations and gates in JAX's own terms, each with its numbers spelled out (SPEC A-1 to A-8, G-1 to G-5)."""

import jax
import jax.numpy as jnp

from se_spec.nonlinearities import Activation, Gate, HardSigmoid, LeakyReLU, hard_sigmoid_numbers


def activate(h: jax.Array, activation: Activation) -> jax.Array:
    """Apply the activation to hidden values; the shape stays."""
    match activation:
        case "relu":
            return jax.nn.relu(h)
        case "silu":
            return jax.nn.silu(h)
        case "hard_swish":
            return jax.nn.hard_swish(h)
        case "gelu":
            return jax.nn.gelu(h, approximate=False)
        case "gelu_tanh":
            return jax.nn.gelu(h, approximate=True)
        case LeakyReLU():
            return jax.nn.leaky_relu(h, activation.slope)
        case "relu6":
            return jax.nn.relu6(h)
        case _:
            return apply_gate(h, activation)


def apply_gate(v: jax.Array, gate: Gate) -> jax.Array:
    """Apply the gate to logits; the shape stays."""
    match gate:
        case "sigmoid":
            return jax.nn.sigmoid(v)  # G-1
        case "tanh":
            return jnp.tanh(v)  # G-2
        case "relu":
            return jax.nn.relu(v)  # G-3
        case "identity":
            return v  # G-4
        case "hard_sigmoid" | HardSigmoid():
            numbers = hard_sigmoid_numbers(gate)
            return jnp.clip(numbers.slope * v + numbers.offset, numbers.low, numbers.high)  # G-5
    raise AssertionError(gate)
