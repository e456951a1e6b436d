"""Exports ``se_torch`` to ONNX with dynamic batch and spatial axes, and runs it with onnxruntime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import onnxruntime
import torch

import se_torch
from se_conformance.cases import Inputs
from se_conformance.comparison import Result
from se_spec import NetworkSpec, SESpec

from .base import NetworkBuilder, Predictor
from .torch import block_of, empty_network, to_array, to_tensor


def run(spec: SESpec, inputs: Inputs, *, gradients: bool = True) -> Result:
    """Compute y and the gate; the model is traced at another size, so that a fixed size would show."""
    block = _WithGate(block_of(spec, inputs.parameters, to_tensor(inputs.x).dtype))
    rank = inputs.x.ndim
    session = _session(block, (2, spec.channels, *range(4, 2 + rank)), [axis for axis in range(rank) if axis != 1])
    y, g = session(to_tensor(inputs.x))
    return Result(to_array(torch.from_numpy(y)), g)


def network(net: NetworkSpec, dtype: str) -> NetworkBuilder:
    """Build a network, which is exported for each height and width."""
    model = empty_network(net, dtype).eval()

    def with_parameters(parameters: dict[str, np.ndarray]) -> Predictor:
        se_torch.set_parameters(model, parameters)
        graph = cache(lambda height, width: _session(model, (2, net.channels, height, width), [0]))
        return lambda x: graph(*x.shape[1:3])(to_tensor(x))[0]

    return with_parameters


def _session(
    model: torch.nn.Module, shape: tuple[int, ...], dynamic: list[int]
) -> Callable[[torch.Tensor], list[np.ndarray]]:
    """Export a model traced at ``shape``, of which the axes in ``dynamic`` may change, and loads it."""
    example = torch.ones(shape, dtype=next(model.parameters()).dtype)
    shapes = {axis: torch.export.Dim(f"axis{axis}") for axis in dynamic}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # warnings of the exporter
        program = torch.onnx.export(model.cpu(), (example,), dynamic_shapes=(shapes,), dynamo=True, verbose=False)
    assert program is not None
    serialized = program.model_proto.SerializeToString()
    # onnxruntime 1.30 fuses SiLU in float64 into an operation without a kernel
    session = onnxruntime.InferenceSession(
        serialized, providers=["CPUExecutionProvider"], disabled_optimizers=["QuickGeluFusion"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.cpu().numpy()})


class _WithGate(torch.nn.Module):
    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.block(x), self.block.excitation(x)


def versions() -> str:
    """Versions and device, as in ``onnxruntime 1.31.1 (cpu)``."""
    return f"onnxruntime {onnxruntime.__version__} (cpu)"
