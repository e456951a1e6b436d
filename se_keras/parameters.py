"""Canonical NumPy parameters into and out of Keras layers and models: a kernel is its weight with the axes reversed.

Of a convolution, whose weight is (O, I, k, k) and whose kernel (k, k, I, O), the last two keep their order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

import se_spec
from se_spec import ParameterError

from .block import SqueezeExcitation
from .networks import SENet, layer_name

BATCH_NORM = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}


def set_parameters(
    model: keras.Model | SqueezeExcitation, parameters: Mapping[str, np.ndarray], *, name: str | None = None
) -> None:
    """Copy canonical parameters into a network or a built block, cast to its variables' dtype (SPEC K-2, K-3).

    Args:
        model: the network, the layer, or a model that holds one.
        parameters: the canonical dict.
        name: of the network or layer in the model, or its path in a network; needed where the model is no network and
            holds more than one.

    Raises:
        ParameterError: no such block, or names all that is missing, left over or misshapen; nothing is changed then.
    """
    block = _block(model, name)
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(block.spec))
    variables = _variables(block)
    for key, array in parameters.items():
        variable = variables[key]
        variable.assign(_turned(array, (2, 3, 1, 0)).astype(variable.dtype))


def get_parameters(model: keras.Model | SqueezeExcitation, *, name: str | None = None) -> dict[str, np.ndarray]:
    """Its parameters as canonical NumPy arrays, copied, in their own dtype. Arguments as ``set_parameters``.

    >>> model = keras.Sequential([keras.Input((None, None, 8)), SqueezeExcitation(8, hidden=2, name="se")])
    >>> {name: array.shape for name, array in get_parameters(model, name="se").items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_keras import senet
    >>> from se_spec import network
    >>> model = senet(network("se_resnet20"))
    >>> list(get_parameters(model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    >>> list(get_parameters(model, name="stage1.block0.se"))
    ['reduce.weight', 'expand.weight']
    """
    variables = _variables(_block(model, name))
    return {key: np.array(_turned(np.asarray(value), (3, 2, 0, 1)), order="C") for key, value in variables.items()}


def _block(model: Any, name: str | None) -> SqueezeExcitation | SENet:
    if name is None and isinstance(model, SENet):
        return model
    blocks = [layer for layer in _layers(model) if isinstance(layer, SqueezeExcitation | SENet)]
    found = [block for block in blocks if name is None or block.name in (name, layer_name(name))]
    if len(found) != 1:
        wanted = "one block" if name is None else f"one block named {name!r}"
        held = ", ".join(block.name for block in blocks) or "none"
        raise ParameterError(f"expected {wanted}, the model holds: {held}; give name=..., or the block itself")
    if not found[0].built:
        raise ParameterError(f"block {found[0].name!r} has no parameters yet; call or build it first")
    return found[0]


def _layers(model: Any) -> Iterator[Any]:
    """The layer itself, and all within it."""
    yield model
    for layer in getattr(model, "layers", []):
        yield from _layers(layer)


def _variables(block: SqueezeExcitation | SENet) -> dict[str, Any]:
    """By canonical name, in order."""
    if isinstance(block, SqueezeExcitation):
        return {key: _variable(block, key) for key in se_spec.parameters.shapes(block.spec)}
    layers = {layer.name: layer for layer in block.layers}
    return {
        f"{layer.name}.{key}": _variable(layers[layer_name(layer.name)], key)
        for layer in block.spec.layers
        for key in layer.parameter_shapes()
    }


def _variable(layer: keras.layers.Layer, key: str) -> Any:
    return getattr(layer, BATCH_NORM.get(key) or key.replace(".", "_").replace("weight", "kernel"))


def _turned(array: np.ndarray, convolution: tuple[int, int, int, int]) -> np.ndarray:
    return array.transpose(convolution) if array.ndim == 4 else array.T
