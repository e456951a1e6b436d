"""Canonical NumPy parameters into and out of PyTorch modules; the names of the state_dict are the canonical ones."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch

import se_spec

from .block import SqueezeExcitation


def set_parameters(block: SqueezeExcitation, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy canonical parameters into a block, cast to its dtype and moved to its device (SPEC K-2, K-3).

    Raises:
        ParameterError: names all that is missing, left over or misshapen; the block is then unchanged.
    """
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(block.spec))
    targets = dict(block.named_parameters())
    with torch.no_grad():
        for name, array in parameters.items():
            targets[name].copy_(_to_tensor(array))


def get_parameters(block: SqueezeExcitation) -> dict[str, np.ndarray]:
    """A block's parameters as canonical NumPy arrays, copied, in their own dtype; bfloat16 as ``ml_dtypes.bfloat16``.

    >>> block = SqueezeExcitation(8, hidden=2)
    >>> {name: array.shape for name, array in get_parameters(block).items()}
    {'reduce.weight': (2, 8), 'expand.weight': (8, 2)}
    """
    return {name: _to_array(value) for name, value in block.named_parameters()}


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
