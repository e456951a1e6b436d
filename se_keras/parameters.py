"""Canonical NumPy parameters into and out of Keras layers and models: a kernel is the transpose of its weight."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

import se_spec
from se_spec import ParameterError

from .block import SqueezeExcitation


def set_parameters(
    model: keras.Model | SqueezeExcitation, parameters: Mapping[str, np.ndarray], *, name: str | None = None
) -> None:
    """Copy canonical parameters into a built block, cast to its variables' dtype (SPEC K-2, K-3).

    Args:
        model: the layer, or a model that holds it.
        parameters: the canonical dict.
        name: of the layer in the model; needed where the model holds more than one block.

    Raises:
        ParameterError: no such block, or names all that is missing, left over or misshapen; nothing is changed then.
    """
    layer = _block(model, name)
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(layer.spec))
    for key, array in parameters.items():
        variable = _variable(layer, key)
        variable.assign(array.T.astype(np.asarray(variable).dtype))


def get_parameters(model: keras.Model | SqueezeExcitation, *, name: str | None = None) -> dict[str, np.ndarray]:
    """A block's parameters as canonical NumPy arrays, copied, in their own dtype. Arguments as ``set_parameters``.

    >>> model = keras.Sequential([keras.Input((None, None, 8)), SqueezeExcitation(8, hidden=2, name="se")])
    >>> {name: array.shape for name, array in get_parameters(model, name="se").items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    """
    layer = _block(model, name)
    return {key: np.array(np.asarray(_variable(layer, key)).T) for key in se_spec.parameters.shapes(layer.spec)}


def _block(model: Any, name: str | None) -> SqueezeExcitation:
    blocks = [layer for layer in _layers(model) if isinstance(layer, SqueezeExcitation)]
    found = [block for block in blocks if name is None or block.name == name]
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


def _variable(layer: SqueezeExcitation, key: str) -> Any:
    return getattr(layer, key.replace(".", "_").replace("weight", "kernel"))
