"""PyTorch modules as functions of NumPy arrays."""

import copy
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

import se_spec
from se_spec import SESpec, SpecError

from .base import AdaptedBlock, Arrays, own_excitation, shapes_of
from .matching import NativeParameter, match
from .torch_weights import keep_tensors, make_weights_plain


def adapt_torch(block: torch.nn.Module, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt a module, which runs in eval mode and in x's dtype."""
    adapter = _Block(block, names)
    ways = {
        "with gradients": adapter.run_with_gradients,
        "channels last in memory": adapter.run_channels_last,
        "training mode": adapter.run_in_training,
    }
    excitation = own_excitation(block, adapter.excitation)
    return AdaptedBlock(
        adapter.run, adapter.vjp, excitation, data_format, adapter.reset, ways=ways, notes=adapter.notes
    )


class _Block:
    """Keeps one deep copy per dtype from call to call, so that a block with state shows it."""

    def __init__(self, block: torch.nn.Module, names: Mapping[str, str] | None) -> None:
        self.block, self.names = block, names
        self.copies: dict[torch.dtype, torch.nn.Module] = {}
        self.native: list[NativeParameter] = []
        self.notes: list[str] = []

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        if any(torch.nn.parameter.is_lazy(value) for value in self.block.parameters()):
            raise SpecError("the block's parameters have no shapes yet; call it once on a map of the right width")
        self.copies, self.native = {}, []
        self._copy(getattr(torch, dtype))
        self._match_parameters(se_spec.parameters.shapes(spec))

    def run(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_tensor, _ = self._load_parameters(x, parameters)
        with torch.no_grad():
            return _to_array(block(x_tensor))

    def run_with_gradients(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_tensor, _ = self._load_parameters(x, parameters)
        with torch.enable_grad():
            return _to_array(block(x_tensor))

    def run_channels_last(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_tensor, _ = self._load_parameters(x, parameters)
        with torch.no_grad():
            return _to_array(block(x_tensor.movedim(1, -1).contiguous().movedim(-1, 1)))

    def run_in_training(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_tensor, _ = self._load_parameters(x, parameters)
        block.train()
        try:
            with torch.no_grad():
                return _to_array(block(x_tensor))
        finally:
            block.eval()

    def excitation(self, x: np.ndarray, parameters: Arrays) -> object:
        block, x_tensor, _ = self._load_parameters(x, parameters)
        with torch.no_grad():
            return _to_array(block.excitation(x_tensor))

    def vjp(self, x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        block, x_tensor, matched = self._load_parameters(x, parameters)
        y = block(x_tensor.requires_grad_())
        weights = dict(block.named_parameters())
        leaves = [x_tensor, *(weights[parameter.name] for parameter in matched.values())]
        dx, *gradients = torch.autograd.grad(y, leaves, to_tensor(dy).to(y.device), materialize_grads=True)
        pairs = zip(matched.items(), gradients, strict=True)
        return to_numpy(dx), {name: native.to_canonical(to_numpy(gradient)) for (name, native), gradient in pairs}

    def _load_parameters(
        self, x: np.ndarray, parameters: Arrays
    ) -> tuple[Any, torch.Tensor, dict[str, NativeParameter]]:
        """Load the parameters into the copy; on a CPU tensors share the arrays' memory, so that changes show."""
        x_tensor = to_tensor(x)
        block = self._copy(x_tensor.dtype)
        weights, device = dict(block.named_parameters()), x_tensor.device
        matched = self._match_parameters(shapes_of(parameters))
        for name, native in matched.items():
            weight = weights[native.name]
            weight.data = to_tensor(native.from_canonical(parameters[name])).to(weight.device, weight.dtype)
            device = weight.device
        return block, x_tensor.to(device), matched

    def _copy(self, dtype: torch.dtype) -> torch.nn.Module:
        if dtype not in self.copies:
            block, self.notes[:] = make_weights_plain(self._make_copy().eval())
            self.native = [NativeParameter(name, tuple(value.shape), "out") for name, value in block.named_parameters()]
            self.copies[dtype] = block.to(dtype).eval()
            for parameter in block.parameters():
                parameter.requires_grad_()
        return self.copies[dtype]

    def _make_copy(self) -> torch.nn.Module:
        try:
            with torch.no_grad():  # copies of TorchScript's parameters would be computed ones
                return copy.deepcopy(self.block, keep_tensors(self.block))
        except Exception as error:
            raise SpecError(
                f"copy.deepcopy of the block raises {type(error).__name__}: {str(error)[:200]}; the judge works on a "
                "copy, so give the block a __deepcopy__, or check a function that calls it"
            ) from error

    def _match_parameters(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NativeParameter]:
        return match(shapes, self.native, self.names, ordered=True)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Convert an array to a tensor, which shares its memory if the array is contiguous and writable."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(value: Any) -> object:
    return to_numpy(value) if isinstance(value, torch.Tensor) else value


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Convert a tensor to an array, without its gradient; bfloat16 is ``ml_dtypes.bfloat16``."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
