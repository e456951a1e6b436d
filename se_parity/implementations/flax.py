"""Runs ``se_flax``, NNX and linen, on NumPy arrays."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import se_flax
from se_conformance.cases import Inputs
from se_conformance.comparison import Result
from se_flax.parameters import from_tree
from se_spec import NetworkSpec, SESpec

from .base import NetworkBuilder, Predictor


def run(spec: SESpec, inputs: Inputs, *, api: str, mode: str = "eager", gradients: bool = True) -> Result:
    """Compute y, the gate and gradients, op by op or under one jit."""
    forward, gate, state = _API[api](spec, inputs.parameters, inputs.x.dtype)

    def outputs(state: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        return forward(state, x), gate(state, x)

    def everything(state: Any, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(forward, state, x)
        return y, gate(state, x), *back(dy)

    compiled = jax.jit if mode == "jit" else lambda function: function
    x, dy = jnp.asarray(inputs.x), jnp.asarray(inputs.dy)
    if not gradients:
        y, g = compiled(outputs)(state, x)
        return Result(np.asarray(y), np.asarray(g))
    y, g, dstate, dx = compiled(everything)(state, x, dy)
    tree = nnx.to_pure_dict(dstate) if api == "nnx" else dstate
    return Result(np.asarray(y), np.asarray(g), np.asarray(dx), from_tree(tree))


Functions = tuple[Callable[[Any, jax.Array], jax.Array], Callable[[Any, jax.Array], jax.Array], Any]


def _nnx(spec: SESpec, parameters: dict[str, np.ndarray], dtype: np.dtype) -> Functions:
    block = nnx.eval_shape(lambda: se_flax.SqueezeExcitation(spec, param_dtype=dtype, rngs=nnx.Rngs(0)))
    se_flax.set_parameters(block, parameters)
    graph, state = nnx.split(block)

    return (
        lambda state, x: nnx.merge(graph, state)(x),
        lambda state, x: nnx.merge(graph, state).excitation(x),
        state,
    )


def _linen(spec: SESpec, parameters: dict[str, np.ndarray], dtype: np.dtype) -> Functions:
    block = se_flax.linen.SqueezeExcitation(spec, param_dtype=dtype)
    variables = se_flax.linen.set_parameters(block, parameters)
    return (
        lambda tree, x: block.apply({"params": tree}, x),
        lambda tree, x: block.apply({"params": tree}, x, method="excitation"),
        variables["params"],
    )


_API = {"nnx": _nnx, "linen": _linen}


def network(net: NetworkSpec, dtype: str, *, api: str, mode: str = "eager") -> NetworkBuilder:
    """Build a network that runs op by op or under one jit."""
    forward, state_of = _NETWORK[api](net, dtype)
    compiled = jax.jit(forward) if mode == "jit" else forward

    def with_parameters(parameters: dict[str, np.ndarray]) -> Predictor:
        state = state_of(parameters)
        return lambda x: np.asarray(compiled(state, jnp.asarray(x)))

    return with_parameters


Network = tuple[Callable[[Any, jax.Array], jax.Array], Callable[[dict[str, np.ndarray]], Any]]
"""``(state, images) -> logits`` and ``(parameters) -> state``."""


def _nnx_network(net: NetworkSpec, dtype: str) -> Network:
    model = empty_network(net, dtype)
    model.eval()
    graph, _, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)  # the rest is abstract: keys of dropout

    def state_of(parameters: dict[str, np.ndarray]) -> Any:
        se_flax.set_parameters(model, parameters)
        return nnx.state(model, (nnx.Param, nnx.BatchStat))

    return lambda state, x: nnx.merge(graph, state, rest)(x), state_of


def _linen_network(net: NetworkSpec, dtype: str) -> Network:
    model = se_flax.linen.SENet(net, param_dtype=dtype)
    return model.apply, partial(se_flax.linen.set_parameters, model)


def empty_network(net: NetworkSpec, dtype: str) -> se_flax.SENet:
    """Make an NNX network without initial parameters."""
    model: se_flax.SENet = nnx.eval_shape(lambda: se_flax.SENet(net, param_dtype=dtype, rngs=nnx.Rngs(0)))
    return model


_NETWORK = {"nnx": _nnx_network, "linen": _linen_network}


def versions() -> str:
    """Versions and device, as in ``jax 0.10.2, flax 0.12.8 (cpu)``."""
    return f"jax {jax.__version__}, flax {flax.__version__} ({jax.default_backend()})"
