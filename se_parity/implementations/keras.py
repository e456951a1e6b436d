"""Runs ``se_keras`` on NumPy arrays, on the backend of the process."""

import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import ops

import se_keras
from se_conformance.cases import Inputs
from se_conformance.comparison import Result
from se_spec import NetworkSpec, SESpec

from .base import NetworkBuilder, Predictor

BACKEND = keras.backend.backend()


def run(spec: SESpec, inputs: Inputs, *, mode: str = "eager", gradients: bool = True) -> Result:
    """Compute y, the gate and gradients of the functional block inside a model."""
    model = model_of(spec, inputs.parameters, len(inputs.x.shape), inputs.x.dtype.name)
    layer = model.get_layer("se")
    x, dy = ops.convert_to_tensor(inputs.x), ops.convert_to_tensor(inputs.dy)
    g = _numpy(layer.excitation(x))
    if not gradients:
        return Result(_numpy(_forward(model, mode)(x)), g)
    y, dx, dvariables = _VJP[BACKEND](model, x, dy, mode)
    names = {variable.path: name for name, variable in _canonical(layer).items()}
    by_name = {names[variable.path]: _numpy(d).T for variable, d in zip(layer.weights, dvariables, strict=True)}
    return Result(_numpy(y), g, _numpy(dx), {name: by_name[name] for name in inputs.parameters})


def model_of(spec: SESpec, parameters: dict[str, np.ndarray], rank: int, dtype: str) -> keras.Model:
    """Make a functional model of one block named ``se`` that holds these parameters and accepts any spatial size."""
    x = keras.Input((*(None for _ in range(rank - 2)), spec.channels), dtype=dtype)
    model = keras.Model(x, se_keras.squeeze_excitation(x, spec=spec, name="se"))
    se_keras.set_parameters(model, parameters, name="se")
    return model


def network(net: NetworkSpec, dtype: str, *, mode: str = "eager") -> NetworkBuilder:
    """Build a network that accepts any image size, eager or compiled."""
    model = empty_network(net, dtype)
    forward = _jit(model) if mode == "jit" else _forward(model, mode)

    def with_parameters(parameters: dict[str, np.ndarray]) -> Predictor:
        se_keras.set_parameters(model, parameters)
        return lambda x: _numpy(forward(ops.convert_to_tensor(x)))

    return with_parameters


def empty_network(net: NetworkSpec, dtype: str) -> se_keras.SENet:
    """Make a network whose parameters are 0; drawing them would have JAX compile an operation for each shape."""

    def zeros(self: Any, shape: Any, dtype: Any = None) -> Any:
        return ops.zeros(shape, dtype)

    random = (keras.initializers.RandomNormal, keras.initializers.RandomUniform)
    with mock.patch.object(random[0], "__call__", zeros), mock.patch.object(random[1], "__call__", zeros):
        return se_keras.senet(net, dtype=dtype)


def _jit(model: keras.Model) -> Callable[[Any], Any]:
    import jax

    compiled = jax.jit(lambda weights, rest, x: model.stateless_call(weights, rest, x)[0])

    def forward(x: Any) -> Any:
        each = (model.trainable_variables, model.non_trainable_variables)
        return compiled(*([one.value for one in variables] for variables in each), x)

    return forward


def _canonical(layer: se_keras.SqueezeExcitation) -> dict[str, Any]:
    parts = [part for part in ("reduce", "expand") if hasattr(layer, part)]
    variables = {f"{part}.weight": getattr(layer, part).kernel for part in parts}
    variables |= {f"{part}.bias": getattr(layer, part).bias for part in parts}
    return {name: variable for name, variable in variables.items() if variable is not None}


def _forward(model: keras.Model, mode: str) -> Callable[[Any], Any]:
    if mode in ("graph", "xla"):
        import tensorflow as tf

        return tf.function(model, jit_compile=mode == "xla")
    return model


def _tensorflow(model: keras.Model, x: Any, dy: Any, mode: str) -> tuple[Any, Any, list[Any]]:
    import tensorflow as tf

    def vjp(x: Any, dy: Any) -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
        dx, *rest = tape.gradient(y, [x, *(variable.value for variable in model.weights)], dy)
        return y, dx, rest

    return tf.function(vjp, jit_compile=True)(x, dy) if mode == "xla" else vjp(x, dy)


def _jax(model: keras.Model, x: Any, dy: Any, mode: str) -> tuple[Any, Any, list[Any]]:
    import jax

    def forward(x: Any, weights: Any) -> Any:
        return model.stateless_call(weights, [], x)[0]

    def vjp(weights: Any, x: Any, dy: Any) -> tuple[Any, Any, list[Any]]:
        y, back = jax.vjp(forward, x, weights)
        return y, *back(dy)

    compiled = jax.jit(vjp) if mode == "jit" else vjp
    return compiled([variable.value for variable in model.trainable_variables], x, dy)


def _torch(model: keras.Model, x: Any, dy: Any, mode: str) -> tuple[Any, Any, list[Any]]:
    y = model(x.requires_grad_())
    y.backward(dy)
    return y, x.grad, [variable.value.grad for variable in model.weights]


_VJP = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


def versions() -> str:
    """Versions and the backend's device, as in ``keras 3.15.1 on tensorflow 2.21.0 (cpu)``."""
    framework = importlib.import_module(BACKEND)
    has_gpu = {
        "tensorflow": lambda: framework.config.list_physical_devices("GPU"),
        "jax": lambda: framework.default_backend() != "cpu",
        "torch": lambda: framework.cuda.is_available(),
    }[BACKEND]()
    return f"keras {keras.__version__} on {BACKEND} {framework.__version__} ({'gpu' if has_gpu else 'cpu'})"
