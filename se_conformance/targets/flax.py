"""``se_flax``, NNX and linen, as a function of NumPy arrays."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import se_flax
from se_flax.parameters import from_tree
from se_spec import SESpec

from ..cases import Inputs
from ..compare import Result


def run(spec: SESpec, inputs: Inputs, *, api: str, gradients: bool = True) -> Result:
    """Forward, gate and gradients under jit."""
    forward, gate, state = _API[api](spec, inputs.parameters, inputs.x.dtype)
    x, dy = jnp.asarray(inputs.x), jnp.asarray(inputs.dy)
    if not gradients:
        y, g = jax.jit(lambda state, x: (forward(state, x), gate(state, x)))(state, x)
        return Result(np.asarray(y), np.asarray(g))

    def everything(state: Any, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(forward, state, x)
        return y, gate(state, x), *back(dy)

    y, g, dstate, dx = jax.jit(everything)(state, x, dy)  # one compilation a case
    return Result(np.asarray(y), np.asarray(g), np.asarray(dx), from_tree(dstate))


Functions = tuple[Callable[[Any, jax.Array], jax.Array], Callable[[Any, jax.Array], jax.Array], Any]


def _nnx(spec: SESpec, parameters: dict[str, np.ndarray], dtype: np.dtype) -> Functions:
    block = se_flax.SqueezeExcitation(spec, param_dtype=dtype, rngs=nnx.Rngs(0))
    se_flax.set_parameters(block, parameters)
    graph, state = nnx.split(block)

    def merged(tree: Any) -> se_flax.SqueezeExcitation:
        copy = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(copy, tree)
        return nnx.merge(graph, copy)

    return (
        lambda tree, x: merged(tree)(x),
        lambda tree, x: merged(tree).excitation(x),
        nnx.to_pure_dict(state),
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


def versions() -> str:
    """As in ``jax 0.10.2, flax 0.12.8 (cpu)``."""
    return f"jax {jax.__version__}, flax {flax.__version__} ({jax.default_backend()})"
