"""Transfer of canonical NumPy parameters into and out of NNX modules."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import se_spec
from se_spec import ParameterError

from ..examination import to_native
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
from .recognition import Recognized, examine_model
from .variables import list_parts, list_variables, read_value, write_value


def set_parameters(model: nnx.Module, parameters: Mapping[str, np.ndarray], path: str | None = None) -> None:
    """Copy canonical parameters into a block or network (SPEC K-2, K-3).

    Args:
        model: the block or network, or a model that holds it. Its parameters keep their dtype, devices, sharding and
            kind of memory. It may be abstract (``nnx.eval_shape``), so that no random parameters are drawn first; an
            abstract parameter gets the sharding of its shape. The key of a network's dropout is no parameter and stays
            abstract; ``nnx.reseed(model, default=0)`` sets one that ``nnx.Rngs(0)`` made.
        parameters: the canonical dict, any float type. For blocks that ``nnx.vmap`` stacked, the arrays are stacked
            along their first axis.
        path: the path of the block in the model, ours or that of another library; None if the model is the block, or
            holds one of ours.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape (the message names all), there is no such
            block, or a layer was replaced. The module is then unchanged.

    >>> @nnx.split_rngs(splits=3)
    ... @nnx.vmap(in_axes=0, out_axes=0)
    ... def stacked(rngs):
    ...     return SqueezeExcitation(8, hidden=2, rngs=rngs)
    >>> blocks = stacked(nnx.Rngs(0))
    >>> set_parameters(blocks, {"reduce.weight": np.ones((3, 2, 8)), "expand.weight": np.ones((3, 8, 2))})
    >>> blocks.reduce.kernel.shape
    (3, 8, 2)
    """
    block = _find_block(model, path)
    if isinstance(block, Recognized):
        _set_foreign(block, parameters)
        return
    targets = _read_all(block)
    tree = to_tree(parameters, block.spec, find_stack_axes(targets, block.spec))
    check_targets(tree, targets)
    values = {place: to_jax_like(array, targets[place]) for place, array in tree.items()}
    for place, value in values.items():
        write(block, place, value)


def get_parameters(model: nnx.Module, path: str | None = None) -> dict[str, np.ndarray]:
    """Copy a module's parameters to canonical NumPy arrays.

    Args:
        model: the block or network, or a model that holds it. Parameters that are split over the devices of this
            process are gathered.
        path: the path of the block in the model, as for ``set_parameters``.

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
    >>> list(get_parameters(model, "stage1.block0.se"))
    ['reduce.weight', 'expand.weight']
    """
    block = _find_block(model, path)
    if isinstance(block, Recognized):
        return block.block.parameters
    found = _read_all(block)
    return from_tree(unflatten_dict(found), spec=block.spec)


def _find_block(model: Any, path: str | None) -> Any:
    """Return the block or network of ours at a path, or the one that a model holds, or another library's block."""
    if path:
        module = _find_module(model, path)
        if module is None:
            raise ParameterError(f"the model has no module {path!r}; its blocks are {', '.join(_list_held(model))}")
        model = module
    if isinstance(model, SqueezeExcitation | SENet):
        return model
    if path is None:
        held = _list_held(model)
        if len(held) == 1:
            return next(iter(held.values()))
        if held:
            raise ParameterError(f"expected one block, the model holds: {', '.join(held)}; give its path")
    found, left = examine_model(model, is_named=True)
    if "" not in found:
        where = repr(path) if path else "the model"
        reason = left.get("", "it computes nothing like one")
        raise ParameterError(f"{where} is no SE block: {reason}; give a block's path")
    return found[""]


def _find_module(model: Any, path: str) -> Any:
    """Follow a path of attributes, and of indices or keys of lists and dicts."""
    for name in path.split("."):
        if isinstance(model, dict):
            model = model.get(name)
        elif name.isdigit():
            model = next((entry for index, entry in enumerate(model) if index == int(name)), None)
        else:
            model = getattr(model, name, None)
    return model if isinstance(model, nnx.Module) else None


def _list_held(model: Any) -> dict[str, Any]:
    """List the networks of ours that a model holds, else the blocks."""
    parts = list_parts(model)
    nets = {name: part for name, part in parts.items() if isinstance(part, SENet)}
    return nets or {name: part for name, part in parts.items() if isinstance(part, SqueezeExcitation)}


def _set_foreign(found: Recognized, parameters: Mapping[str, np.ndarray]) -> None:
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(found.block.spec))
    lacking = [name for name, array in parameters.items() if name not in found.block.names and array.any()]
    if lacking:
        raise ParameterError(f"the module has no {', '.join(lacking)}, expected zeros")
    variables = list_variables(found.module)
    for name, own in found.match.reading.tensors.items():
        variable = variables[own.name]
        write_value(variable, to_native(parameters[name], own.is_transposed, read_value(variable)))


def _read_all(block: SqueezeExcitation | SENet) -> dict[Path, Any]:
    """Return the variable at each path of the spec; refuse a module that has parameters elsewhere."""
    found = {path: read_value(_find(block, path)) for path in add_optional_paths(to_paths(block.spec))}
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


def write(block: SqueezeExcitation | SENet, path: Path, value: jax.Array) -> None:
    """Set the variable at a path, or an array that a user put in its place."""
    variable = _find(block, path)
    if not isinstance(variable, nnx.Variable):
        setattr(_find(block, path[:-1]), path[-1], value)
    else:
        write_value(variable, value)
