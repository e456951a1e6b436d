"""Blocks in Keras: ours, the tutorials' five layers, and those of Keras' EfficientNet; eager, traced, compiled."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

import se_keras

from .blocks import Run, Runs, Task


def _ours(x: Any) -> Any:
    return se_keras.squeeze_excitation(x)


def _tutorial(x: Any) -> Any:
    """Apply dense layers to the mean, as most tutorials do."""
    channels = x.shape[-1]
    g = layers.GlobalAveragePooling2D()(x)
    g = layers.Dense(channels // 16, activation="relu", use_bias=False)(g)
    g = layers.Dense(channels, activation="sigmoid", use_bias=False)(g)
    return layers.Multiply()([x, layers.Reshape((1, 1, channels))(g)])


def _applications(x: Any) -> Any:
    """Apply 1 x 1 convolutions to the reshaped mean, as ``keras.applications.efficientnet`` does."""
    channels = x.shape[-1]
    g = layers.Reshape((1, 1, channels))(layers.GlobalAveragePooling2D()(x))
    g = layers.Conv2D(channels // 16, 1, padding="same", activation="relu", use_bias=False)(g)
    g = layers.Conv2D(channels, 1, padding="same", activation="sigmoid", use_bias=False)(g)
    return layers.multiply([x, g])


BLOCKS: dict[str, Callable[[Any], Any]] = {"ours": _ours, "tutorial": _tutorial, "applications": _applications}


def make_runs(task: Task) -> Runs:
    """Make the runs of a task by block and mode; ours is timed as a model, like the others, and as a layer."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(task.dtype)
    try:
        return _make_runs(task)
    finally:
        keras.config.set_dtype_policy(before)


def _make_runs(task: Task) -> Runs:
    *arrays, parameters = task.draw()
    x, dy = (
        keras.ops.convert_to_tensor(np.ascontiguousarray(np.moveaxis(value, 1, -1), np.float32), dtype=task.dtype)
        for value in arrays
    )
    kernels = [parameters[f"{part}.weight"].T.astype(np.float32) for part in ("reduce", "expand")]
    ways = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}[keras.backend.backend()]
    found = {}
    for name, block in BLOCKS.items():
        inputs = keras.Input((None, None, task.shape[1]), dtype=task.dtype)
        model = keras.Model(inputs, block(inputs))
        for weight, value in zip(model.weights, kernels, strict=True):
            weight.assign(value.reshape(weight.shape))
        for label, built in {name: model, **({"ours layer": model.layers[-1]} if name == "ours" else {})}.items():
            for how, call in ways(built, x, dy, task.training).items():
                found[f"{label}, {how}"] = Run(call, partial(_take_two, call))
    return found


def _take_two(call: Callable[[], Any]) -> tuple[np.ndarray, ...]:
    return tuple(_to_numpy(array) for array in call()[:2])


def _to_numpy(y: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))), -1, 1)


def _of_tensorflow(model: Any, given: Any, back: Any, training: bool) -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    def forward(x: Any) -> Any:
        return (model(x),)

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
        return y, *tape.gradient(y, [x, *[weight.value for weight in model.weights]], back)

    function = step if training else forward
    ways = {"eager": function, "tf.function": tf.function(function), "XLA": tf.function(function, jit_compile=True)}
    return {mode: partial(way, given) for mode, way in ways.items()}


def _of_jax(model: Any, given: Any, back: Any, training: bool) -> dict[str, Callable[[], Any]]:
    import jax

    values = [weight.value for weight in model.trainable_variables]

    def forward(values: Any, x: Any) -> Any:
        return model.stateless_call(values, [], x)[0]

    def step(values: Any, x: Any, dy: Any) -> Any:
        y, pull = jax.vjp(forward, values, x)
        dvalues, dx = pull(dy)
        return y, dx, dvalues

    if training:
        compiled = jax.jit(step)
        return {"jax.jit": lambda: jax.block_until_ready(compiled(values, given, back))}
    compiled = jax.jit(forward)
    return {"jax.jit": lambda: (jax.block_until_ready(compiled(values, given)),)}


def _of_torch(model: Any, given: Any, back: Any, training: bool) -> dict[str, Callable[[], Any]]:
    import torch

    leaves = [given.requires_grad_(), *(weight.value for weight in model.weights)] if training else []

    def forward() -> Any:
        with torch.no_grad():
            return (model(given),)

    def step() -> Any:
        y = model(given)
        return y, *torch.autograd.grad(y, leaves, back)

    return {"eager": step if training else forward}
