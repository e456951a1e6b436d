"""Transfer of canonical NumPy parameters into and out of NNX modules."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from se_spec import ParameterError

from ..parameters import (
    Path,
    add_optional_paths,
    check_targets,
    find_stack_axes,
    from_tree,
    to_jax_like,
    to_paths,
    to_tree,
)
from .block import SqueezeExcitation
from .networks import SENet


def set_parameters(block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block or network (SPEC K-2, K-3).

    Args:
        block: the block or network. Its parameters keep their dtype, devices, sharding and kind of memory. It may be
            abstract (``nnx.eval_shape``), so that no random parameters are drawn first; an abstract parameter gets the
            sharding of its shape. The key of a network's dropout is no parameter and stays abstract;
            ``nnx.reseed(model, default=0)`` sets one that ``nnx.Rngs(0)`` made.
        parameters: the canonical dict, any float type. For blocks that ``nnx.vmap`` stacked, the arrays are stacked
            along their first axis.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape (the message names all), or a layer was
            replaced. The module is then unchanged.

    >>> @nnx.split_rngs(splits=3)
    ... @nnx.vmap(in_axes=0, out_axes=0)
    ... def stacked(rngs):
    ...     return SqueezeExcitation(8, hidden=2, rngs=rngs)
    >>> blocks = stacked(nnx.Rngs(0))
    >>> set_parameters(blocks, {"reduce.weight": np.ones((3, 2, 8)), "expand.weight": np.ones((3, 8, 2))})
    >>> blocks.reduce.kernel.shape
    (3, 8, 2)
    """
    targets = _read_all(block)
    tree = to_tree(parameters, block.spec, find_stack_axes(targets, block.spec))
    check_targets(tree, targets)
    values = {path: to_jax_like(array, targets[path]) for path, array in tree.items()}
    for path, value in values.items():
        write(block, path, value)


def get_parameters(block: SqueezeExcitation | SENet) -> dict[str, np.ndarray]:
    """Copy a module's parameters to canonical NumPy arrays.

    Args:
        block: the block or network. Parameters that are split over the devices of this process are gathered.

    Returns:
        The arrays by canonical name, in canonical order and orientation, in the parameters' dtype. Those of blocks that
        ``nnx.vmap`` stacked have the axis of the stack first.

    Raises:
        ParameterError: a layer was replaced or quantized, or has other parameters, such as the factors of
            ``nnx.LoRALinear``; the axis of a stack is not the first; or the parameters are abstract.

    >>> block = SqueezeExcitation(8, hidden=2, rngs=nnx.Rngs(0))
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_spec import network
    >>> model = nnx.eval_shape(lambda: SENet(network("se_resnet20"), rngs=nnx.Rngs(0)))
    >>> set_parameters(model, {name: np.ones(shape) for name, shape in model.spec.parameter_shapes().items()})
    >>> list(get_parameters(model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    found = _read_all(block)
    return from_tree(unflatten_dict(found), spec=block.spec)


def _read_all(block: SqueezeExcitation | SENet) -> dict[Path, Any]:
    """Return the variable at each path of the spec; refuse a module that has parameters elsewhere."""
    found = {path: _read(_find(block, path)) for path in add_optional_paths(to_paths(block.spec))}
    held = flatten_dict(nnx.to_pure_dict(nnx.state(block, nnx.Param)))
    others = [".".join(map(str, path)) for path in held if path not in found]
    if others:
        raise ParameterError(
            f"the module holds {', '.join(others)} beside its own parameters; merge or remove what was added first"
        )
    return found


def _find(block: SqueezeExcitation | SENet, path: Path) -> Any:
    found: Any = block
    for name in path:
        found = getattr(found, name, None)
    return found


def _read(variable: Any) -> Any:
    """Return a variable's value; return an array that a user put in its place unchanged."""
    if not isinstance(variable, nnx.Variable):
        return variable
    return variable.get_value() if hasattr(variable, "get_value") else variable.value  # Flax 0.12.0


def write(block: SqueezeExcitation | SENet, path: Path, value: jax.Array) -> None:
    """Set the variable at a path, or an array that a user put in its place."""
    variable = _find(block, path)
    if not isinstance(variable, nnx.Variable):
        setattr(_find(block, path[:-1]), path[-1], value)
    elif hasattr(variable, "set_value"):
        variable.set_value(value)
    else:
        variable.value = value  # Flax 0.12.0
