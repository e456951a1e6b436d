"""Transfer of canonical NumPy parameters into and out of PyTorch modules.

The names in the ``state_dict`` are the canonical ones, except that batch norm has torch's own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import se_spec
from se_spec import ParameterError
from se_spec.networks.layers import STATISTICS

from .block import SqueezeExcitation
from .examination import Recognized, examine_module
from .networks import SENet
from .tensors import copy_to, is_plain, is_sharded, name_dtype, to_array, to_tensor

BATCH_NORM = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def set_parameters(model: nn.Module, parameters: Mapping[str, np.ndarray], path: str | None = None) -> None:
    """Copy canonical parameters into a block or network (SPEC K-2, K-3).

    Args:
        model: the block or network, compiled or not, or a model that holds it. Its parameters keep their dtype, device
            and sharding (``DTensor``).
        parameters: the canonical dict, any float type; every process of a sharded module passes the same arrays.
        path: the path of the block in the model, ours or that of another library; None if the model is the block, or
            holds one of ours.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape (the message names all), there is no such
            block, a parameter is not a plain tensor with storage, or the module has other parameters. The module is
            then unchanged.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> set_parameters(block, {"reduce.weight": np.ones((2, 8)), "expand.weight": np.zeros((8, 2))})
    >>> block.reduce.weight.sum().item()
    16.0
    """
    block = _find_block(model, path)
    if isinstance(block, Recognized):
        _set_foreign(block, parameters)
        return
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(block.spec))
    targets = collect_targets(block)
    with torch.no_grad():
        for name, array in parameters.items():
            copy_to(targets[name], to_tensor(array.astype(name_dtype(targets[name]))))


def get_parameters(model: nn.Module, path: str | None = None) -> dict[str, np.ndarray]:
    """Copy a module's parameters to canonical NumPy arrays.

    Args:
        model: the block or network, or a model that holds it. A sharded parameter (``DTensor``) is gathered, so every
            process must call this.
        path: the path of the block in the model, as for ``set_parameters``.

    Returns:
        The arrays by canonical name, in canonical order and orientation, in the parameters' dtype; bfloat16 is
        ``ml_dtypes.bfloat16``.

    Raises:
        ParameterError: as ``set_parameters``.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20"))
    >>> list(get_parameters(model))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    >>> list(get_parameters(model, "stage1.block0.se"))
    ['reduce.weight', 'expand.weight']
    """
    block = _find_block(model, path)
    if isinstance(block, Recognized):
        return block.block.parameters
    return {name: to_array(value) for name, value in collect_targets(block).items()}


def _find_block(model: nn.Module, path: str | None) -> Any:
    """Return the block or network of ours at a path, or the one that a model holds, or another library's block."""
    model = getattr(model, "_orig_mod", model)
    if path:
        try:
            model = model.get_submodule(path)
        except AttributeError as error:
            raise ParameterError(f"the model has no module {path!r}: {error}") from None
        model = getattr(model, "_orig_mod", model)
    if isinstance(model, SqueezeExcitation | SENet):
        return model
    if path is None:
        held = {name: part for name, part in model.named_modules() if isinstance(part, SqueezeExcitation | SENet)}
        nets = [part for part in held.values() if isinstance(part, SENet)]
        if len(nets or held) == 1:
            return [*nets, *held.values()][0]
        if held:
            raise ParameterError(f"expected one block, the model holds: {', '.join(held)}; give its path")
    found = examine_module(model)
    if not isinstance(found, Recognized):
        where = repr(path) if path else "the model"
        raise ParameterError(f"{where} is no SE block: {found or 'it computes nothing like one'}; give a block's path")
    return found


def _set_foreign(found: Recognized, parameters: Mapping[str, np.ndarray]) -> None:
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(found.block.spec))
    lacking = [name for name, array in parameters.items() if name not in found.block.names and array.any()]
    if lacking:
        raise ParameterError(f"the module has no {', '.join(lacking)}, expected zeros")
    with torch.no_grad():
        for name, own in found.reading.tensors.items():
            target = found.module.get_parameter(own.name)
            value = to_tensor(parameters[name].astype(name_dtype(target)))
            target.copy_((value.T if own.is_transposed else value).reshape(target.shape))


def collect_targets(block: SqueezeExcitation | SENet) -> dict[str, torch.Tensor]:
    """Collect a module's parameters and running statistics by canonical name, compiled modules included."""
    module: Any = getattr(block, "_orig_mod", block)
    shapes = se_spec.parameters.shapes(block.spec)
    paths = {name: to_torch_path(name) for name in shapes}
    targets = {name: _find(module, name, path) for name, path in paths.items()}
    others = [path for path, _ in module.named_parameters() if path not in paths.values()]
    if others:
        raise ParameterError(
            f"the module holds {', '.join(others)} beside its own parameters; merge or remove what was added first"
        )
    for name, value in targets.items():
        if tuple(value.shape) != shapes[name]:
            raise ParameterError(
                f"{name} has shape {tuple(value.shape)} in the module, expected {shapes[name]}; "
                "gather it first if it is sharded or flattened"
            )
    return targets


def to_torch_path(name: str) -> str:
    """Convert a canonical name to that of the ``state_dict``."""
    path, dot, own = name.rpartition(".")
    return path + dot + BATCH_NORM.get(own, own)


def _find(module: nn.Module, name: str, path: str) -> torch.Tensor:
    find = module.get_buffer if name.rpartition(".")[2] in STATISTICS else module.get_parameter
    try:
        value = find(path)
    except AttributeError:
        raise ParameterError(
            f"{name} is not a parameter of this module: it is computed, or its layer was replaced; "
            "undo the parametrization, pruning or quantization first"
        ) from None
    if value.is_meta:
        raise ParameterError(
            f"{name} has no storage on the meta device; call block.to_empty(device=...) first, or end its offloading"
        )
    if not is_plain(value) and not is_sharded(value):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise ParameterError(f"{name} is a {kind}, expected a plain tensor or a DTensor; convert it back first")
    return value
