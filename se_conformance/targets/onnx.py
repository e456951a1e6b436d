"""``se_torch`` exported to ONNX with N and the spatial axes dynamic, run by onnxruntime."""

import contextlib
import io
import logging
import warnings

import onnxruntime
import torch

from se_spec import SESpec

from ..cases import Inputs
from ..comparison import Result
from .torch import block_of, to_array, to_tensor


def run(spec: SESpec, inputs: Inputs, *, gradients: bool = True) -> Result:
    """Forward and gate; onnxruntime has no gradients."""
    x = to_tensor(inputs.x).cpu()
    session = onnxruntime.InferenceSession(exported(spec, inputs), providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x.numpy()}
    y, g = session.run(None, feeds)
    return Result(to_array(torch.from_numpy(y)), g)


def exported(spec: SESpec, inputs: Inputs) -> bytes:
    """The model, traced at a size that is not the input's, so that a baked-in size would show."""
    block = _WithGate(block_of(spec, inputs.parameters, to_tensor(inputs.x).dtype)).cpu()
    rank = inputs.x.ndim
    example = torch.ones((2, spec.channels, *range(4, 2 + rank)), dtype=to_tensor(inputs.x).dtype)
    dynamic = {axis: torch.export.Dim(f"axis{axis}") for axis in range(rank) if axis != 1}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(block, (example,), dynamic_shapes=(dynamic,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


class _WithGate(torch.nn.Module):
    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.block(x), self.block.excitation(x)


def versions() -> str:
    """As in ``onnxruntime 1.31.1 (cpu)``."""
    return f"onnxruntime {onnxruntime.__version__} (cpu)"
