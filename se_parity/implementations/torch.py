"""Runs ``se_torch`` on NumPy arrays."""

import os

import numpy as np
import torch

import se_torch
from se_conformance.adapters.torch import to_numpy
from se_conformance.adapters.torch import to_tensor as from_numpy
from se_conformance.cases import Inputs
from se_conformance.comparison import Result
from se_spec import NetworkSpec, SESpec

from .base import NetworkBuilder, Predictor, device

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
torch.backends.cudnn.allow_tf32 = False  # PyTorch's convolutions on a GPU are TF32 by default


def run(
    spec: SESpec, inputs: Inputs, *, layout: str = "contiguous", mode: str = "eager", gradients: bool = True
) -> Result:
    """Compute y, the gate and gradients, eager or compiled, in either memory format."""
    x, dy = (to_tensor(array, layout) for array in inputs[:2])
    block = block_of(spec, inputs.parameters, x.dtype)
    torch.compiler.reset()  # all blocks share one forward, and the ninth would exceed the recompile limit
    forward = torch.compile(block, fullgraph=True) if mode == "compile" else block
    y, g = forward(x.requires_grad_(gradients)), block.excitation(x)
    if not gradients:
        return Result(to_array(y), g.detach().cpu().numpy())
    y.backward(dy)
    dparameters = {name: to_numpy(value.grad) for name, value in block.named_parameters()}
    return Result(to_array(y), to_numpy(g), to_array(x.grad), dparameters)


def block_of(
    spec: SESpec, parameters: dict[str, np.ndarray], dtype: torch.dtype | None = None
) -> se_torch.SqueezeExcitation:
    """Make a block with these parameters in ``dtype``."""
    block = se_torch.SqueezeExcitation(spec, device=device(), dtype=dtype)
    se_torch.set_parameters(block, parameters)
    return block


def network(net: NetworkSpec, dtype: str, *, layout: str = "contiguous", mode: str = "eager") -> NetworkBuilder:
    """Build a network in either memory format, eager or compiled."""
    model = empty_network(net, dtype).eval()
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    torch.compiler.reset()
    forward = torch.compile(model, fullgraph=True) if mode == "compile" else model

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return to_numpy(forward(to_tensor(x, layout)))

    def with_parameters(parameters: dict[str, np.ndarray]) -> Predictor:
        se_torch.set_parameters(model, parameters)
        return predict

    return with_parameters


def empty_network(net: NetworkSpec, dtype: str) -> se_torch.SENet:
    """Make a network without initial parameters."""
    return se_torch.SENet(net, device="meta", dtype=getattr(torch, dtype)).to_empty(device=device())


def to_tensor(array: np.ndarray, layout: str = "contiguous") -> torch.Tensor:
    """Convert a channels-last array to a channels-first tensor; ``layout`` is its memory format."""
    tensor = from_numpy(np.moveaxis(array, -1, 1))
    if layout == "channels_last" and tensor.ndim > 3:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        tensor = tensor.contiguous(memory_format=formats[tensor.ndim])
    return tensor.to(device())


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Convert a channels-first tensor to a channels-last array."""
    return np.moveaxis(to_numpy(tensor), 1, -1)


def versions() -> str:
    """Return versions and device, as in ``torch 2.13.0 (cpu)``."""
    return f"torch {torch.__version__} ({device()})"
