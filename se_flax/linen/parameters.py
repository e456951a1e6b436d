"""Transfer of canonical NumPy parameters to linen variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.core import unfreeze
from flax.core.meta import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict

from ..parameters import (
    STATISTICS,
    Path,
    beside,
    check_targets,
    from_tree,
    stack_of,
    to_jax,
    to_jax_like,
    to_paths,
    to_tree,
    unboxed,
)
from .block import SqueezeExcitation
from .networks import SENet


def set_parameters(
    block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray], like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Convert canonical parameters to variables (SPEC K-2, K-3).

    Args:
        block: the module that they are for.
        parameters: canonical NumPy arrays.
        like: variables of the module, drawn or abstract (``jax.eval_shape(block.init, key, x)``), whose dtypes, boxes
            (``nn.Partitioned``), shardings and other entries the result keeps. If they are of blocks that ``nn.vmap``
            or ``nn.scan`` stacked, ``parameters`` must be stacked likewise, along the first axis. Without ``like``, the
            result is plain arrays of the module's ``param_dtype`` on JAX's default device.

    Raises:
        ParameterError: names all that is missing, left over or misshapen, in ``parameters`` or in ``like``.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> parameters = {"reduce.weight": np.ones((2, 8)), "expand.weight": np.ones((8, 2))}
    >>> import jax
    >>> jax.tree.map(np.shape, set_parameters(block, parameters))
    {'params': {'expand': {'kernel': (2, 8)}, 'reduce': {'kernel': (8, 2)}}}
    """
    if like is None:
        tree = to_tree(parameters, block.spec)
        return unflatten_dict({_place(path): to_jax(array, block.param_dtype) for path, array in tree.items()})
    flat = flatten_dict(unfreeze(like), keep_empty_nodes=True)
    targets = {path: unboxed(flat.get(_place(path))) for path in beside(to_paths(block.spec))}
    tree = to_tree(parameters, block.spec, stack_of(targets, block.spec))
    check_targets(tree, targets)
    for path, array in tree.items():
        old, value = flat[_place(path)], to_jax_like(array, targets[path])
        flat[_place(path)] = old.replace_boxed(value) if isinstance(old, AxisMetadata) else value
    return unflatten_dict(flat)


def _place(path: Path) -> Path:
    """Put the collection before the path."""
    return ("batch_stats" if path[-1] in STATISTICS else "params", *path)


def get_parameters(
    variables: Mapping[str, Any], block: SqueezeExcitation | SENet | None = None
) -> dict[str, np.ndarray]:
    """Copy variables to canonical NumPy arrays of the same dtype.

    Args:
        variables: a block's or a network's, in boxes (``nn.Partitioned``) or without; what is split over the devices of
            this process comes whole.
        block: the module that they are of. Variables do not tell the order of a network's layers; without it, names
            come in the order of the variables, which JAX sorts, and a stack of blocks (``nn.vmap``) is refused.

    Raises:
        ParameterError: a parameter of ``block`` is missing, or one is abstract or quantized.

    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20"))
    >>> ones = {name: np.ones(shape) for name, shape in model.spec.parameter_shapes().items()}
    >>> list(get_parameters(set_parameters(model, ones), model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    spec = None if block is None else block.spec
    return from_tree(variables["params"], variables.get("batch_stats", {}), spec=spec)
