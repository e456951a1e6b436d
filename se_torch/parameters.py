"""Canonical NumPy parameters into and out of PyTorch modules.

The names in the state_dict are the canonical ones, but that batch norm has torch's own.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch

import se_spec
from se_spec import ParameterError
from se_spec.networks.layers import STATISTICS

from .block import SqueezeExcitation
from .networks import SENet

BATCH_NORM = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}


def set_parameters(block: SqueezeExcitation | SENet, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block or network, cast to its dtype and moved to its device (SPEC K-2, K-3).

    Raises:
        ParameterError: names all that is missing, left over or misshapen, or its own parameters are not plain tensors
            with storage; it is then unchanged.
    """
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(block.spec))
    targets = _targets(block)
    with torch.no_grad():
        for name, array in parameters.items():
            targets[name].copy_(_to_tensor(array.astype(_dtype_name(targets[name]))))


def get_parameters(block: SqueezeExcitation | SENet) -> dict[str, np.ndarray]:
    """Its parameters as canonical NumPy arrays, copied, in their own dtype; bfloat16 as ``ml_dtypes.bfloat16``.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    >>> from se_spec import network
    >>> list(get_parameters(SENet(network("se_resnet20"))))[:5]
    ['stem.conv1.weight', 'stem.bn1.scale', 'stem.bn1.offset', 'stem.bn1.mean', 'stem.bn1.variance']
    """
    return {name: _to_array(value) for name, value in _targets(block).items()}


def _targets(block: SqueezeExcitation | SENet) -> dict[str, torch.Tensor]:
    """Its own parameters and running statistics, also of one that is compiled."""
    targets = {}
    for name in se_spec.parameters.shapes(block.spec):
        path, dot, own = name.rpartition(".")
        find = block.get_buffer if own in STATISTICS else block.get_parameter
        try:
            targets[name] = find(path + dot + BATCH_NORM.get(own, own))
        except AttributeError:
            raise ParameterError(
                f"{name} is not a parameter of this block but computed; undo its parametrization"
            ) from None
        if targets[name].is_meta:
            raise ParameterError(f"{name} has no storage on the meta device; call block.to_empty(device=...) first")
    return targets


def _dtype_name(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _to_tensor(array: np.ndarray) -> torch.Tensor:
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(value: torch.Tensor) -> np.ndarray:
    value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
