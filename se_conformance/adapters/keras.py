"""Keras layers and models, on whichever backend, as functions of NumPy arrays."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

import se_spec
from se_spec import SESpec, SpecError

from .base import AdaptedBlock, Arrays, own_excitation, shapes_of
from .matching import NativeParameter, match

BACKEND = keras.backend.backend()


def adapt_keras(block: Any, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt a layer or model; it must have been built in the dtype that is judged."""
    adapter = _Block(block, names, data_format)
    find_contradictions = adapter.find_contradictions if BACKEND == "tensorflow" else None
    return AdaptedBlock(
        adapter.run,
        adapter.vjp,
        own_excitation(block, adapter.excitation),
        data_format,
        adapter.reset,
        find_contradictions,
        {"training mode": adapter.run_in_training, **{way: partial(adapter.run_compiled, way) for way in _COMPILED}},
        adapter.notes,
    )


class _Block:
    """Calls the block with other values in place of its variables.

    What the block assigns to its other variables is kept from call to call, so that a block with state shows it.
    """

    def __init__(self, block: Any, names: Mapping[str, str] | None, data_format: str) -> None:
        self.given, self.names = block, names
        self.block: Any = block if block.built else None
        self.state: dict[int, Any] = {}
        self.notes: list[str] = []
        self.compiled: dict[tuple[str, str], Callable[..., Any]] = {}

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        self.state, self.compiled = {}, {}
        if BACKEND == "jax":
            from .jax import refuse_float64

            refuse_float64(dtype)
        if not self.given.built:
            self.block = _built_copy(self.given, spec.channels, dtype, data_format)
        _refuse_fixed_size(self.block, data_format)
        _refuse_dtype(self.block, dtype)
        lora = [variable for variable in self.block.weights if _is_of_lora(variable)]
        self.state = {id(variable): ops.zeros(variable.shape, variable.dtype) for variable in lora}
        self.notes[:] = [
            f"{variable.path}: LoRA is enabled; judged with the kernel that it is added to" for variable in lora[::2]
        ]
        self._match_parameters(se_spec.parameters.shapes(spec))

    def run(self, x: np.ndarray, parameters: Arrays) -> object:
        variables, values = self._load_parameters(parameters)
        return _to_array(self._call(variables, values, ops.convert_to_tensor(x)))

    def run_in_training(self, x: np.ndarray, parameters: Arrays) -> object:
        variables, values = self._load_parameters(parameters)
        return _to_array(self._call(variables, values, ops.convert_to_tensor(x), keep=False, training=True))

    def run_compiled(self, way: str, x: np.ndarray, parameters: Arrays) -> object:
        """Run in a graph of the backend, as ``predict`` does."""
        variables, values = self._load_parameters(parameters)

        def forward(x: Any, *values: Any) -> Any:
            return self._call(variables, values, x, keep=False)

        key = way, x.dtype.name
        if key not in self.compiled:
            self.compiled[key] = _COMPILED[way](forward)
        return _to_array(self.compiled[key](ops.convert_to_tensor(x), *values))

    def excitation(self, x: np.ndarray, parameters: Arrays) -> object:
        variables, values = self._load_parameters(parameters)
        return _to_array(self._call(variables, values, ops.convert_to_tensor(x), "excitation"))

    def vjp(self, x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        variables, values = self._load_parameters(parameters)

        def forward(x: Any, *values: Any) -> Any:
            return self._call(variables, values, x, keep=False)  # tracers of a transformation must not be kept

        arguments = [ops.convert_to_tensor(x), *values]
        dx, *gradients = _VJP[BACKEND](forward, arguments, ops.convert_to_tensor(dy))
        matched = self._match_parameters(shapes_of(parameters)).items()
        return _numpy(dx), {
            name: native.to_canonical(_numpy(gradient))
            for (name, native), gradient in zip(matched, gradients, strict=True)
        }

    def find_contradictions(self, x: np.ndarray, way: str = "", raised: str = "") -> list[str]:
        """Find TensorFlow's own mistakes: operations of the block on an empty batch x, NaN lost in a graph."""
        from . import empty_batch, graph_faults

        if not way:
            return empty_batch.find_contradictions(self.block, x.shape, x.dtype.name)
        lost = [] if np.isfinite(x).all() else graph_faults.find_lost_nan(_COMPILED[way], x.dtype.name)
        return lost + graph_faults.find_uncompiled(raised)

    def _load_parameters(self, parameters: Arrays) -> tuple[list[Any], list[Any]]:
        """List the block's variables and the values that replace them: the parameters in the variables' dtype."""
        if self.block is None:
            raise SpecError("the layer is not built; build it, or call prepare first")
        by_name = dict(_variables(self.block))
        matched = self._match_parameters(shapes_of(parameters))
        variables = [by_name[native.name] for native in matched.values()]
        arrays = (native.from_canonical(parameters[name]) for name, native in matched.items())
        pairs = zip(arrays, variables, strict=True)
        return variables, [ops.convert_to_tensor(array, dtype=variable.dtype) for array, variable in pairs]

    def _call(
        self,
        variables: list[Any],
        values: Any,
        x: Any,
        method: str = "__call__",
        *,
        keep: bool = True,
        **options: Any,
    ) -> Any:
        others = [other for other in self.block.variables if all(other is not variable for variable in variables)]
        kept = [(other, self.state[id(other)]) for other in others if id(other) in self.state]
        with keras.StatelessScope(state_mapping=[*zip(variables, values, strict=True), *kept]) as scope:
            y = getattr(self.block, method)(x, **options)
        if keep:
            assigned = ((other, scope.get_current_value(other)) for other in others)
            self.state |= {id(other): value for other, value in assigned if value is not None}
        return y

    def _match_parameters(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NativeParameter]:
        native = [NativeParameter(path, tuple(variable.shape), "in") for path, variable in _variables(self.block)]
        return match(shapes, native, self.names, ordered=True)


def _tensorflow(forward: Callable[..., Any], arguments: list[Any], dy: Any) -> list[Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = forward(*arguments)
    gradients: list[Any] = tape.gradient(y, arguments, dy, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return gradients


def _jax(forward: Callable[..., Any], arguments: list[Any], dy: Any) -> list[Any]:
    import jax

    from .jax import choose_quick_options

    def vjp(arguments: list[Any], dy: Any) -> list[Any]:
        return list(jax.vjp(forward, *arguments)[1](dy))

    compiled = jax.jit(vjp, compiler_options=choose_quick_options())  # op by op, each would be compiled alone
    return compiled(arguments, dy)


def _torch(forward: Callable[..., Any], arguments: list[Any], dy: Any) -> list[Any]:
    import torch

    leaves = [argument.detach().requires_grad_() for argument in arguments]
    return list(torch.autograd.grad(forward(*leaves), leaves, dy, materialize_grads=True))


def _in_graph(forward: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(forward, reduce_retracing=True, **options)
    return compiled


def _in_jit(forward: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    compiled: Callable[..., Any] = jax.jit(forward)
    return compiled


_COMPILERS: dict[str, dict[str, Callable[..., Any]]] = {
    "tensorflow": {"graph": _in_graph, "XLA": partial(_in_graph, jit_compile=True)},
    "jax": {"jit": _in_jit},
}
_COMPILED = _COMPILERS.get(BACKEND, {})
"""The ways in which the backend compiles a block."""
_VJP = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _variables(block: Any) -> Iterator[tuple[str, Any]]:
    """Yield weights by path in creation order; a repeated path gets a number at its end."""
    seen: dict[str, int] = {}
    for variable in block.weights:
        if _is_of_lora(variable):
            continue
        number = seen[variable.path] = seen.get(variable.path, 0) + 1
        yield variable.path if number == 1 else f"{variable.path}:{number}", variable


def _is_of_lora(variable: Any) -> bool:
    """Whether a weight is one of the two whose product ``enable_lora`` adds to a kernel."""
    return variable.name in ("lora_kernel_a", "lora_kernel_b")


def _built_copy(layer: Any, channels: int, dtype: str, data_format: str) -> Any:
    """Build a copy of the layer, on a map of two spatial axes if it accepts one."""
    first = None
    for rank in (2, 1, 3):
        space = (None,) * rank
        shape = (channels, *space) if data_format == "channels_first" else (*space, channels)
        try:
            copy = type(layer).from_config(layer.get_config())
            copy(keras.Input(shape, dtype=dtype))
        except Exception as error:
            first = first or error
            continue
        return copy
    why = " ".join(re.sub("\x1b\\[[0-9]*m", "", str(first)).split())  # Keras prints its messages in bold
    raise SpecError(f"the layer is not built, and no copy of it can be built ({why}); build it first")


def _layers(block: Any) -> Iterator[Any]:
    """Yield all layers of the block that compute something, itself included."""
    inner = getattr(block, "layers", None) or getattr(block, "_layers", [])
    if not isinstance(block, (keras.Model, keras.layers.InputLayer)):
        yield block
    for layer in inner:
        yield from _layers(layer)


def _refuse_dtype(block: Any, dtype: str) -> None:
    for layer in _layers(block):
        mode = getattr(layer, "quantization_mode", None) or getattr(layer.dtype_policy, "quantization_mode", None)
        if mode:
            raise SpecError(
                f"layer {layer.name!r} is quantized ({mode}), and computes with integers, whose rounding is beyond "
                "every bound; judge the block before quantize()"
            )
    others = [layer for layer in _layers(block) if layer.compute_dtype != dtype]
    if others:
        raise SpecError(
            f"layer {others[0].name!r} computes in {others[0].compute_dtype}, but {dtype} is judged; build the "
            f"block with dtype={dtype!r}, or after keras.config.set_dtype_policy({dtype!r})"
        )


def _refuse_fixed_size(block: Any, data_format: str) -> None:
    """Refuse a functional model whose Input has a fixed batch or spatial size."""
    inputs = getattr(block, "inputs", None) or []
    if not inputs:
        return
    if len(inputs) > 1:
        raise SpecError(f"the model has {len(inputs)} inputs; it must have one, the feature map")
    shape = tuple(inputs[0].shape)
    space = shape[2:] if data_format == "channels_first" else shape[1:-1]
    if (shape[0], *space) != (None,) * (1 + len(space)):
        raise SpecError(f"the model accepts {shape} alone; build it on keras.Input with None for every spatial axis")


def _to_array(value: Any) -> object:
    return _numpy(value) if ops.is_tensor(value) else value


def _numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))
