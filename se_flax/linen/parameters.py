"""Canonical NumPy parameters as linen variables and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..parameters import from_tree, to_jax, to_tree
from .block import SqueezeExcitation


def set_parameters(block: SqueezeExcitation, parameters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables that hold canonical parameters, cast to the block's ``param_dtype`` (SPEC K-2, K-3).

    Raises:
        ParameterError: names all that is missing, left over or misshapen.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> parameters = {"reduce.weight": np.ones((2, 8)), "expand.weight": np.ones((8, 2))}
    >>> jax.tree.map(np.shape, set_parameters(block, parameters))
    {'params': {'expand': {'kernel': (2, 8)}, 'reduce': {'kernel': (8, 2)}}}
    """
    tree = to_tree(parameters, block.spec)
    return {"params": jax.tree.map(lambda array: to_jax(array, block.param_dtype), tree)}


def get_parameters(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The canonical NumPy arrays that variables hold, copied, in their own dtype."""
    return from_tree(variables["params"])
