"""Blocks in JAX under ``jax.jit``: ours in NNX and linen, plain functions, and Flax's own layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import se_flax

from .blocks import Run, Runs, Task


class Nnx(nnx.Module):
    """The block written with NNX's layers."""

    def __init__(self, channels: int, dtype: Any) -> None:
        options = {"use_bias": False, "dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.reduce = nnx.Linear(channels, channels // 16, **options)
        self.expand = nnx.Linear(channels // 16, channels, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to x, channels last."""
        g = nnx.sigmoid(self.expand(nnx.relu(self.reduce(x.mean((1, 2))))))
        return x * g[:, None, None]


class Linen(linen.Module):
    """The block written with linen's layers."""

    dtype: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to x, channels last."""
        options = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.dtype}
        h = linen.relu(linen.Dense(x.shape[-1] // 16, name="reduce", **options)(x.mean((1, 2))))
        g = linen.sigmoid(linen.Dense(x.shape[-1], name="expand", **options)(h))
        return x * g[:, None, None]


def plain(kernels: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Apply the block in three lines of JAX."""
    h = jax.nn.relu(x.mean((1, 2)) @ kernels["reduce"])
    return x * jax.nn.sigmoid(h @ kernels["expand"])[:, None, None]


def make_runs(task: Task) -> Runs:
    """Make the runs of a task; NNX's state is split outside ``jax.jit``, or left to ``nnx.jit``."""
    x, dy, parameters = task.draw()
    x, dy = (jnp.asarray(np.ascontiguousarray(np.moveaxis(value, 1, -1)), task.dtype) for value in (x, dy))
    kernels = {name: jnp.asarray(parameters[f"{name}.weight"].T, task.dtype) for name in ("reduce", "expand")}
    channels, dtype = task.shape[1], jnp.dtype(task.dtype)
    functions: dict[str, tuple[Callable[[Any, jax.Array], jax.Array], Any]] = {"plain": (plain, kernels)}
    found = {}
    for name, module in {
        "ours NNX": se_flax.SqueezeExcitation(channels, param_dtype=dtype, rngs=nnx.Rngs(0)),
        "NNX": Nnx(channels, dtype),
    }.items():
        for part, value in kernels.items():
            getattr(module, part).kernel[...] = value
        graph, state = nnx.split(module)
        functions[name] = (partial(_call_merged, graph), state)
        if not task.training:
            found[f"{name}, nnx.jit"] = _run(nnx.jit(lambda module, x: (module(x),)), module, x)
    nested = {"params": {name: {"kernel": value} for name, value in kernels.items()}}
    blocks: dict[str, linen.Module] = {
        "ours linen": se_flax.linen.SqueezeExcitation(task.spec),
        "linen": Linen(dtype),
    }
    for name, block in blocks.items():
        functions[name] = (block.apply, nested)
    for name, (function, state) in functions.items():
        step = jax.jit(
            _training(function) if task.training else lambda state, x, function=function: (function(state, x),)
        )
        found[f"{name}, jax.jit"] = _run(step, state, x, *([dy] if task.training else []))
    return found


def _call_merged(graph: Any, state: Any, x: jax.Array) -> Any:
    return nnx.merge(graph, state)(x)


def _training(function: Any) -> Any:
    def step(state: Any, x: jax.Array, dy: jax.Array) -> Any:
        y, back = jax.vjp(function, state, x)
        dstate, dx = back(dy)
        return y, dx, dstate

    return step


def _run(compiled: Any, *given: Any) -> Run:
    def call() -> Any:
        return jax.block_until_ready(compiled(*given))

    return Run(call, lambda: tuple(np.moveaxis(np.asarray(array, np.float64), -1, 1) for array in call()[:2]))
