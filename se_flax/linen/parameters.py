"""Transfer of canonical NumPy parameters to linen variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.core.meta import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict

from se_spec import ParameterError, SESpec

from ..parameters import (
    STATISTICS,
    Path,
    add_optional_paths,
    check_targets,
    find_stack_axes,
    from_tree,
    to_jax,
    to_jax_like,
    to_paths,
    to_tree,
    unbox,
)
from .block import SqueezeExcitation
from .networks import SENet


def set_parameters(
    block: nn.Module,
    parameters: Mapping[str, np.ndarray],
    like: Mapping[str, Any] | None = None,
    path: str | None = None,
) -> dict[str, Any]:
    """Convert canonical parameters to variables (SPEC K-2, K-3).

    Args:
        block: the module for which the variables are made: the block or network, or with ``path`` a model that holds a
            block of ours.
        parameters: the canonical dict, any float type.
        like: variables of the module, drawn or abstract (``jax.eval_shape(block.init, key, x)``), whose dtypes, boxes
            (``nn.Partitioned``), shardings and other entries the result keeps. For variables of blocks that ``nn.vmap``
            or ``nn.scan`` stacked, the arrays of ``parameters`` are stacked along their first axis.
        path: the path of the block in the variables of the model, joined by ``/`` or ``.``; it needs ``like``.

    Returns:
        The variables, of the whole model; without ``like``, plain arrays of the module's ``param_dtype`` on JAX's
        default device.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape, in ``parameters`` or in ``like``; the message
            names all.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> parameters = {"reduce.weight": np.ones((2, 8)), "expand.weight": np.ones((8, 2))}
    >>> import jax
    >>> jax.tree.map(np.shape, set_parameters(block, parameters))
    {'params': {'expand': {'kernel': (2, 8)}, 'reduce': {'kernel': (8, 2)}}}
    """
    if path:
        return _set_at(_split(path), parameters, like)
    if like is None:
        tree = to_tree(parameters, block.spec)
        return unflatten_dict({add_collection(path): to_jax(array, block.param_dtype) for path, array in tree.items()})
    flat = flatten_dict(unfreeze(like), keep_empty_nodes=True)
    targets = {path: unbox(flat.get(add_collection(path))) for path in add_optional_paths(to_paths(block.spec))}
    tree = to_tree(parameters, block.spec, find_stack_axes(targets, block.spec))
    check_targets(tree, targets)
    for place, array in tree.items():
        old, value = flat[add_collection(place)], to_jax_like(array, targets[place])
        flat[add_collection(place)] = old.replace_boxed(value) if isinstance(old, AxisMetadata) else value
    return unflatten_dict(flat)


def add_collection(path: Path) -> Path:
    """Add the collection before the path."""
    return ("batch_stats" if path[-1] in STATISTICS else "params", *path)


def get_parameters(
    variables: Mapping[str, Any], block: SqueezeExcitation | SENet | None = None, path: str | None = None
) -> dict[str, np.ndarray]:
    """Copy variables to canonical NumPy arrays.

    Args:
        variables: a block's or a network's, in boxes (``nn.Partitioned``) or without. Arrays that are split over the
            devices of this process are gathered.
        block: the module to which they belong, which gives the order of a network's layers. Without it, names are in
            the order of the variables, which JAX sorts, and a stack of blocks (``nn.vmap``) is refused.
        path: the path of the block in the variables of a model, joined by ``/`` or ``.``.

    Returns:
        The arrays by canonical name, in canonical orientation and the variables' dtype.

    Raises:
        ParameterError: a parameter of ``block`` is missing, or one is abstract or quantized; nothing is at the path.

    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20"))
    >>> ones = {name: np.ones(shape) for name, shape in model.spec.parameter_shapes().items()}
    >>> list(get_parameters(set_parameters(model, ones), model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    >>> list(get_parameters(set_parameters(model, ones), path="stage1/block0/se"))
    ['reduce.weight', 'expand.weight']
    """
    if path:
        return get_parameters({"params": _find_at(_split(path), variables)}, None if _is_model(block) else block)
    spec = None if block is None else block.spec
    return from_tree(variables["params"], variables.get("batch_stats", {}), spec=spec)


def _set_at(path: Path, parameters: Mapping[str, np.ndarray], like: Mapping[str, Any] | None) -> dict[str, Any]:
    """Set the parameters of the block at a path of a model's variables."""
    if like is None:
        raise ParameterError("a path needs the variables of the model; give like=variables")
    tree = _find_at(path, like)
    block = SqueezeExcitation(_read_spec(path, tree))
    flat = flatten_dict(unfreeze(like), keep_empty_nodes=True)
    for name, value in flatten_dict(set_parameters(block, parameters, {"params": tree})["params"]).items():
        flat[("params", *path, *name)] = value
    return unflatten_dict(flat)


def _find_at(path: Path, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    tree: Any = variables["params"]
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    if not isinstance(tree, Mapping) or "expand" not in tree:
        raise ParameterError(f"the variables have no block of ours at {'/'.join(path)!r}; give its path")
    return tree


def _read_spec(path: Path, tree: Mapping[str, Any]) -> SESpec:
    """Read the widths and biases of a block from its variables; the other fields have no part in its parameters."""
    kernel = unbox(tree["expand"].get("kernel"))
    if getattr(kernel, "ndim", 0) != 2:
        raise ParameterError(f"the block at {'/'.join(path)!r} is a stack, or has no kernel; give the block itself")
    width: dict[str, Any] = {"hidden": kernel.shape[0]} if "reduce" in tree else {"single_projection": True}
    return SESpec(kernel.shape[1], bias="bias" in tree["expand"], **width)


def _split(path: str) -> Path:
    return tuple(path.replace("/", ".").split("."))


def _is_model(block: Any) -> bool:
    return block is not None and not isinstance(block, SqueezeExcitation)
