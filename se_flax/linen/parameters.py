"""Canonical NumPy parameters as linen variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

import se_spec

from ..parameters import STATISTICS, from_tree, to_jax, to_tree
from .block import SqueezeExcitation
from .networks import SENet


def set_parameters(block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables that hold canonical parameters, cast to the module's ``param_dtype`` (SPEC K-2, K-3).

    Raises:
        ParameterError: names all that is missing, left over or misshapen.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> parameters = {"reduce.weight": np.ones((2, 8)), "expand.weight": np.ones((8, 2))}
    >>> import jax
    >>> jax.tree.map(np.shape, set_parameters(block, parameters))
    {'params': {'expand': {'kernel': (2, 8)}, 'reduce': {'kernel': (8, 2)}}}
    """
    variables = {}
    for path, array in to_tree(parameters, block.spec).items():
        collection = "batch_stats" if path[-1] in STATISTICS else "params"
        variables[(collection, *path)] = to_jax(array, block.param_dtype)
    return unflatten_dict(variables)


def get_parameters(
    variables: Mapping[str, Any], block: SqueezeExcitation | SENet | None = None
) -> dict[str, np.ndarray]:
    """The canonical NumPy arrays that variables hold, copied, in their own dtype.

    Args:
        variables: a block's or a network's.
        block: the module that they are of. Variables do not tell the order of a network's layers; without it, names
            come in the order of the variables, which JAX sorts.

    Raises:
        ParameterError: a parameter of ``block`` is missing, or one is abstract.

    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20"))
    >>> ones = {name: np.ones(shape) for name, shape in model.spec.parameter_shapes().items()}
    >>> list(get_parameters(set_parameters(model, ones), model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    names = None if block is None else se_spec.parameters.shapes(block.spec)
    return from_tree(variables["params"], variables.get("batch_stats", {}), names=names)
