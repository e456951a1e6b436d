"""Transfer of canonical NumPy parameters into and out of PyTorch modules.

The names in the ``state_dict`` are the canonical ones, except that batch norm has torch's own.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn

import se_spec
from se_spec import ParameterError
from se_spec.networks.layers import STATISTICS

from .block import SqueezeExcitation
from .networks import SENet

BATCH_NORM = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def set_parameters(block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block or network (SPEC K-2, K-3).

    Args:
        block: the block or network, compiled or not. Its parameters keep their dtype, device and sharding
            (``DTensor``).
        parameters: the canonical dict, any float type; every process of a sharded module passes the same arrays.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape (the message names all), a parameter of the
            module is not a plain tensor with storage, or the module has other parameters. The module is then unchanged.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> set_parameters(block, {"reduce.weight": np.ones((2, 8)), "expand.weight": np.zeros((8, 2))})
    >>> block.reduce.weight.sum().item()
    16.0
    """
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(block.spec))
    targets = _collect_targets(block)
    with torch.no_grad():
        for name, array in parameters.items():
            _copy(targets[name], to_tensor(array.astype(_name_dtype(targets[name]))))


def get_parameters(block: SqueezeExcitation | SENet) -> dict[str, np.ndarray]:
    """Copy a module's parameters to canonical NumPy arrays.

    Args:
        block: the block or network. A sharded parameter (``DTensor``) is gathered, so every process must call this.

    Returns:
        The arrays by canonical name, in canonical order and orientation, in the parameters' dtype; bfloat16 is
        ``ml_dtypes.bfloat16``.

    Raises:
        ParameterError: as ``set_parameters``.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_spec import network
    >>> list(get_parameters(SENet(network("se_resnet20"))))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    return {name: _to_array(value) for name, value in _collect_targets(block).items()}


def _collect_targets(block: SqueezeExcitation | SENet) -> dict[str, torch.Tensor]:
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
    if not _is_plain(value) and not _is_sharded(value):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise ParameterError(f"{name} is a {kind}, expected a plain tensor or a DTensor; convert it back first")
    return value


def _is_sharded(value: torch.Tensor) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor  # takes half a second, so only where a tensor is not plain

    return isinstance(value, DTensor)


def _copy(target: Any, value: torch.Tensor) -> None:
    if _is_plain(target):
        target.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor

    mesh = target.device_mesh
    value = value.to(mesh.device_type)
    target.copy_(distribute_tensor(value, mesh, target.placements))


def _is_plain(value: torch.Tensor) -> bool:
    return type(value) in (torch.Tensor, nn.Parameter)


def _name_dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Copy an array to a tensor of its dtype."""
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(value: Any) -> np.ndarray:
    value = value.detach() if _is_plain(value) else value.detach().full_tensor()
    value = value.cpu().clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
