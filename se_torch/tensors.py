"""Tensors and NumPy arrays: plain, in bfloat16, or sharded."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn


def is_sharded(value: torch.Tensor) -> bool:
    """Return whether a parameter is a ``DTensor``."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor  # takes half a second, so only where a tensor is not plain

    return isinstance(value, DTensor)


def copy_to(target: Any, value: torch.Tensor) -> None:
    """Copy a tensor into a parameter, sharded or not."""
    if is_plain(target):
        target.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor

    mesh = target.device_mesh
    value = value.to(mesh.device_type)
    target.copy_(distribute_tensor(value, mesh, target.placements))


def is_plain(value: torch.Tensor) -> bool:
    """Return whether a tensor is of no subclass."""
    return type(value) in (torch.Tensor, nn.Parameter)


def name_dtype(value: torch.Tensor) -> str:
    """Return NumPy's name of a tensor's dtype."""
    return str(value.dtype).removeprefix("torch.")


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Copy an array to a tensor of its dtype."""
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(value: Any) -> np.ndarray:
    """Copy a tensor to an array, gathered if it is sharded."""
    value = value.detach() if is_plain(value) else value.detach().full_tensor()
    value = value.cpu().clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
