"""Blocks in onnxruntime: our block and the tutorials', as PyTorch exports them."""

from collections.abc import Callable
from functools import partial
from io import BytesIO

import numpy as np
import onnxruntime
import torch

from .blocks import Run, Runs, Task
from .torch_blocks import make_arrays, make_block


def make_runs(task: Task) -> Runs:
    """Make the runs of a task in float32, forward alone."""
    found = {}
    for name in ("ours", "tutorial"):
        block, (x, _) = make_block(name, "NCHW", task), make_arrays(task, "NCHW")
        file = BytesIO()
        torch.onnx.export(block.eval(), (x,), dynamo=True, verbose=False).save(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: x.numpy()}

        call = partial(session.run, None, given)
        found[f"{name}, onnxruntime"] = Run(call, partial(_as_tuple, call))
    return found


def _as_tuple(call: Callable[[], list[np.ndarray]]) -> tuple[np.ndarray, ...]:
    return tuple(call())
