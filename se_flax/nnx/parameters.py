"""Canonical NumPy parameters into and out of NNX modules."""

from collections.abc import Mapping
from functools import reduce

import numpy as np
from flax import nnx

import se_spec
from se_spec import ParameterError

from ..parameters import from_tree, to_jax, to_tree
from .block import SqueezeExcitation
from .networks import SENet


def set_parameters(block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block or network, cast to its own dtype (SPEC K-2, K-3).

    It may be abstract (``nnx.eval_shape``): then nothing is drawn at random only to be overwritten. (The key of a
    network's dropout is no parameter and stays abstract; ``nnx.reseed(model, default=0)`` sets one of ``nnx.Rngs(0)``.)

    Raises:
        ParameterError: names all that is missing, left over or misshapen, or a layer has been replaced; nothing has
            changed then.
    """
    tree = to_tree(parameters, block.spec)
    targets = {path: _target(block, path) for path in tree}
    values = {path: to_jax(array, targets[path].dtype) for path, array in tree.items()}
    for path, value in values.items():
        targets[path].set_value(value)


def get_parameters(block: SqueezeExcitation | SENet) -> dict[str, np.ndarray]:
    """Its parameters as canonical NumPy arrays, copied, in their own dtype.

    Raises:
        ParameterError: a layer has been replaced, or the parameters are abstract.

    >>> block = SqueezeExcitation(8, hidden=2, rngs=nnx.Rngs(0))
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_spec import network
    >>> model = nnx.eval_shape(lambda: SENet(network("se_resnet20"), rngs=nnx.Rngs(0)))
    >>> set_parameters(model, {name: np.ones(shape) for name, shape in model.spec.parameter_shapes().items()})
    >>> list(get_parameters(model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    state = nnx.state(block, (nnx.Param, nnx.BatchStat))
    return from_tree(nnx.to_pure_dict(state), names=se_spec.parameters.shapes(block.spec))


def _target(block: SqueezeExcitation | SENet, path: tuple[str, ...]) -> nnx.Variable:
    try:
        return reduce(getattr, path, block)
    except AttributeError:
        raise ParameterError(f"{'.'.join(path)} is not there; was its layer replaced?") from None
