"""PyTorch modules as functions of NumPy arrays."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

import se_spec
from se_spec import SESpec, SpecError

from .adapted import Adapted, Arrays
from .matching import Own, match


def adapt_torch(block: torch.nn.Module, names: Mapping[str, str] | None, data_format: str) -> Adapted:
    """The module, run in eval mode and in x's dtype."""
    made = _Block(block, names)
    has_gate = inspect.isfunction(getattr(type(block), "excitation", None))  # not a submodule of that name
    return Adapted(made.run, made.vjp, made.excitation if has_gate else None, data_format, made.begin)


class _Block:
    """One deep copy per dtype, kept from call to call, so that a block that remembers is seen to."""

    def __init__(self, block: torch.nn.Module, names: Mapping[str, str] | None) -> None:
        self.block, self.names = block, names
        self.copies: dict[torch.dtype, torch.nn.Module] = {}

    def begin(self, spec: SESpec, dtype: str, data_format: str) -> None:
        if any(torch.nn.parameter.is_lazy(value) for value in self.block.parameters()):
            raise SpecError("the block's parameters have no shapes yet; call it once on a map of the right width")
        self._matched(se_spec.parameters.shapes(spec))
        self.copies = {}
        self._copy(getattr(torch, dtype))

    def run(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_there, _ = self._given(x, parameters)
        with torch.no_grad():
            return _to_array(block(x_there))

    def excitation(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_there, _ = self._given(x, parameters)
        with torch.no_grad():
            return _to_array(block.excitation(x_there))  # type: ignore[operator]

    def vjp(self, x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        block, x_there, leaves = self._given(x, parameters)
        y = block(x_there.requires_grad_())
        dy_there = _to_tensor(dy).to(y.device)
        dx, *gradients = torch.autograd.grad(y, [x_there, *leaves.values()], dy_there, materialize_grads=True)
        back = {name: _numpy(one).reshape(parameters[name].shape) for name, one in zip(leaves, gradients, strict=True)}
        return _numpy(dx), back

    def _given(
        self, x: np.ndarray, parameters: Arrays
    ) -> tuple[torch.nn.Module, torch.Tensor, dict[str, torch.Tensor]]:
        """The copy, x, and the parameters: on a CPU all share memory with the arrays, so that changes can be seen."""
        x_there = _to_tensor(x)
        block = self._copy(x_there.dtype)
        own = dict(block.named_parameters())
        leaves = {}
        for name, one in self._matched({name: array.shape for name, array in parameters.items()}).items():
            leaves[name] = own[one.name]
            value = _to_tensor(one.from_canonical(parameters[name]))
            leaves[name].data = value.to(leaves[name].device, leaves[name].dtype)
        device = next((leaf.device for leaf in leaves.values()), x_there.device)
        return block, x_there.to(device), leaves

    def _copy(self, dtype: torch.dtype) -> torch.nn.Module:
        if dtype not in self.copies:
            self.copies[dtype] = copy.deepcopy(self.block).to(dtype).eval().requires_grad_()
        return self.copies[dtype]

    def _matched(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Own]:
        own = [Own(name, tuple(value.shape), "out") for name, value in self.block.named_parameters()]
        return match(shapes, own, self.names, ordered=True)


def _to_tensor(array: np.ndarray) -> torch.Tensor:
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(value: Any) -> object:
    return _numpy(value) if isinstance(value, torch.Tensor) else value


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
