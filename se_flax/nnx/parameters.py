"""Canonical NumPy parameters into and out of NNX modules."""

from collections.abc import Mapping

import numpy as np
from flax import nnx

from ..parameters import from_tree, to_jax, to_tree
from .block import SqueezeExcitation


def set_parameters(block: SqueezeExcitation, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block, cast to its ``param_dtype`` (SPEC K-2, K-3).

    The block may be abstract (``nnx.eval_shape``): then nothing is drawn at random only to be overwritten.

    Raises:
        ParameterError: names all that is missing, left over or misshapen; the block is then unchanged.
    """
    for projection, arrays in to_tree(parameters, block.spec).items():
        for kind, array in arrays.items():
            target = getattr(getattr(block, projection), kind)
            target.set_value(to_jax(array, target.dtype))


def get_parameters(block: SqueezeExcitation) -> dict[str, np.ndarray]:
    """A block's parameters as canonical NumPy arrays, copied, in their own dtype.

    >>> block = SqueezeExcitation(8, hidden=2, rngs=nnx.Rngs(0))
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    """
    return from_tree(nnx.to_pure_dict(nnx.state(block, nnx.Param)))
