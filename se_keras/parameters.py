"""Transfer of canonical NumPy parameters into and out of Keras layers and models.

A dense kernel is the transpose of its weight. A convolution has the weight (O, I, k, k) and the kernel (k, k, I, O).
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

import se_spec
from se_spec import ParameterError

from .block import SqueezeExcitation
from .examination import Recognized, assign_parameters
from .networks import SENet, layer_name
from .recognition import examine_model

BATCH_NORM = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def set_parameters(
    model: keras.Model | SqueezeExcitation,
    parameters: Mapping[str, np.ndarray],
    path: str | None = None,
    *,
    name: str | None = None,
) -> None:
    """Copy canonical parameters into a network or a built block (SPEC K-2, K-3).

    Args:
        model: the network, the layer, or a model that holds one. Its variables keep their dtype and sharding.
        parameters: the canonical dict, any float type.
        path: the name of the network or layer in the model, its path in a network, or the path that ``find_blocks``
            has, of ours or of another library's block; needed if the model is no network and holds more than one.
        name: the same, the older word for it.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape (the message names all), there is no such
            block, or a layer of it is quantized, has LoRA, or was replaced. The model is then unchanged.

    >>> layer = SqueezeExcitation(8, hidden=2)
    >>> layer.build((None, None, None, 8))
    >>> set_parameters(layer, {"reduce.weight": np.ones((2, 8)), "expand.weight": np.zeros((8, 2))})
    >>> float(ops.sum(layer.reduce.kernel))
    16.0
    """
    block = _find_block(model, path or name)
    if isinstance(block, Recognized):
        _set_foreign(block, parameters)
        return
    shapes = se_spec.parameters.shapes(block.spec)
    se_spec.parameters.check(parameters, shapes)
    variables = collect_variables(block)
    for key, array in parameters.items():
        variable = variables[key]
        variable.assign(_place_like(_transpose(array, _TO_KERNEL).astype(variable.dtype), variable))


def get_parameters(
    model: keras.Model | SqueezeExcitation, path: str | None = None, *, name: str | None = None
) -> dict[str, np.ndarray]:
    """Copy a layer's or network's parameters to canonical NumPy arrays.

    Args:
        model: the network, the layer, or a model that holds one.
        path: the name or path of the network or layer in the model, as for ``set_parameters``.
        name: the same, the older word for it.

    Returns:
        The arrays by canonical name, in canonical order and orientation, in the variables' dtype; LoRA's factors are
        merged into the kernel.

    Raises:
        ParameterError: there is no such block, it is not built, or a layer of it is quantized or was replaced.

    >>> model = keras.Sequential([keras.Input((None, None, 8)), SqueezeExcitation(8, hidden=2, name="se")])
    >>> {name: array.shape for name, array in get_parameters(model, name="se").items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> model = SENet("se_resnet20")
    >>> list(get_parameters(model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    >>> list(get_parameters(model, "stage1.block0.se"))
    ['reduce.weight', 'expand.weight']
    """
    block = _find_block(model, path or name)
    if isinstance(block, Recognized):
        return block.block.parameters
    shapes = se_spec.parameters.shapes(block.spec)
    return {
        key: np.array(_transpose(_to_array(_check_variable(key, value, shapes[key])), _FROM_KERNEL), order="C")
        for key, value in _collect_values(block).items()
    }


def collect_variables(block: SqueezeExcitation | SENet) -> dict[str, Any]:
    """Return the variable of each canonical name, in order; refuse a layer that computes a parameter."""
    shapes = se_spec.parameters.shapes(block.spec)
    return {key: _require_variable(key, value, shapes[key]) for key, value in _collect_values(block).items()}


def transpose(tensor: Any, rank: int) -> Any:
    """Return a canonical tensor as the variable of its layer has it."""
    return tensor if rank == 1 else ops.transpose(tensor, _TO_KERNEL if rank == 4 else (1, 0))


def _set_foreign(found: Recognized, parameters: Mapping[str, np.ndarray]) -> None:
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(found.block.spec))
    lacking = [key for key, array in parameters.items() if key not in found.block.names and array.any()]
    if lacking:
        raise ParameterError(f"the block has no {', '.join(lacking)}, expected zeros")
    assign_parameters(found, parameters)


def _find_block(model: Any, name: str | None) -> Any:
    if name is None and isinstance(model, SENet):
        return model
    blocks = [layer for layer in _iterate_layers(model) if isinstance(layer, SqueezeExcitation | SENet)]
    found = [block for block in blocks if name is None or block.name in (name, layer_name(name))]
    if not found and name is not None:
        foreign = examine_model(model)[0].get(name)
        if foreign is not None:
            return foreign.layer if isinstance(foreign.layer, SqueezeExcitation) else foreign
    if len(found) != 1:
        wanted = "one block" if name is None else f"one block named {name!r}"
        held = ", ".join(block.name for block in blocks) or "none"
        raise ParameterError(f"expected {wanted}, the model holds: {held}; give name=..., or the block itself")
    if not found[0].built:
        raise ParameterError(f"block {found[0].name!r} has no parameters yet; call or build it first")
    return found[0]


def _iterate_layers(model: Any) -> Iterator[Any]:
    """Iterate over the layer and all layers inside it."""
    yield model
    for layer in getattr(model, "layers", []):
        yield from _iterate_layers(layer)


def _collect_values(block: SqueezeExcitation | SENet) -> dict[str, Any]:
    """Collect variables by canonical name, in order; None for a layer without such a variable."""
    if isinstance(block, SqueezeExcitation):
        return {key: _find_value(block, key) for key in se_spec.parameters.shapes(block.spec)}
    layers = {layer.name: layer for layer in block.layers}
    return {
        f"{layer.name}.{key}": _find_value(layers[layer_name(layer.name)], key)
        for layer in block.spec.layers
        for key in layer.parameter_shapes()
    }


def _find_value(layer: keras.layers.Layer, key: str) -> Any:
    *path, last = key.split(".")
    for part in path:
        layer = getattr(layer, part)
    quantized = layer.quantization_mode is not None
    return None if quantized else getattr(layer, BATCH_NORM.get(last) or last.replace("weight", "kernel"), None)


def _check_variable(key: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return the variable, or the tensor computed from it, that holds this parameter alone."""
    if value is None:
        raise ParameterError(f"the layer of {key} has no such parameter: it is quantized, or another layer's")
    tensor = value.value if isinstance(value, keras.Variable) else value
    expected = tuple(shape[axis] for axis in _TO_KERNEL) if len(shape) == 4 else shape[::-1]
    if tuple(tensor.shape) != expected:
        raise ParameterError(f"the variable of {key} has shape {tuple(tensor.shape)}, expected {expected}")
    return value


def _require_variable(key: str, value: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(_check_variable(key, value, shape), keras.Variable):
        raise ParameterError(f"{key} is computed of several variables, as with LoRA; set it before enable_lora")
    return value


def _place_like(array: np.ndarray, variable: Any) -> Any:
    """Place an array as the variable is sharded; Keras' own ``assign`` knows Keras' distribution alone."""
    if keras.backend.backend() != "jax":
        return array
    return importlib.import_module("jax").device_put(array, variable.value.sharding)


def _to_array(value: Any) -> np.ndarray:
    return np.asarray(value if isinstance(value, keras.Variable) else ops.convert_to_numpy(value))


_TO_KERNEL, _FROM_KERNEL = (2, 3, 1, 0), (3, 2, 0, 1)


def _transpose(array: np.ndarray, convolution: tuple[int, ...]) -> np.ndarray:
    return array.transpose(convolution) if array.ndim == 4 else array.T
