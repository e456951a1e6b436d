"""Blocks in PyTorch: ours, the tutorials', timm's and torchvision's; eager and compiled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import se_torch

from ..peer_blocks import import_object
from .blocks import Run, Runs, Task

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Tutorial(nn.Module):
    """The block as most tutorials write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 16, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; the gate is expanded to the shape of x."""
        n, c = x.shape[:2]
        return x * self.fc(self.pool(x).view(n, c)).view(n, c, 1, 1).expand_as(x)


def _timm(channels: int) -> nn.Module:
    return import_object("timm.layers.SEModule")(channels, rd_channels=channels // 16, bias=False)


def _torchvision(channels: int) -> nn.Module:
    block = import_object("torchvision.ops.SqueezeExcitation")(channels, channels // 16)
    nn.init.zeros_(block.fc1.bias)
    nn.init.zeros_(block.fc2.bias)
    return block


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "ours": lambda channels: se_torch.SqueezeExcitation(channels),
    "tutorial": Tutorial,
    "timm": _timm,
    "torchvision": _torchvision,
}


def make_runs(task: Task) -> Runs:
    """Make the runs of four blocks in both layouts, and of ours in place."""
    return _runs(task, lambda block: block) | ({} if task.training else _in_place(task))


def make_compiled_runs(task: Task) -> Runs:
    """Make the runs of the four blocks under torch.compile; a graph break is an error."""
    torch.compiler.reset()
    return _runs(task, lambda block: torch.compile(block, fullgraph=True, dynamic=False))


def _runs(task: Task, way: Callable[[nn.Module], Any]) -> Runs:
    found = {}
    for layout in LAYOUTS:
        x, dy = make_arrays(task, layout)
        for name in BLOCKS:
            found[f"{name}, {layout}"] = _run(way(make_block(name, layout, task)), x, dy, task)
    return found


def _in_place(task: Task) -> Runs:
    """Make the runs in place; they are timed on zeros, which stay zeros, and verified on x."""
    found = {}
    for layout in LAYOUTS:
        block, (x, dy) = make_block("ours", layout, task), make_arrays(task, layout)
        block.inplace = True
        run = _run(block, x, dy, task)
        found[f"ours in place, {layout}"] = run._replace(call=_run(block, torch.zeros_like(x), dy, task).call)
    return found


def make_floor_calls(task: Task) -> dict[str, Callable[[], Any]]:
    """Make the calls of the memory floor: a sum of x, and a product of x with a number."""
    x, _ = make_arrays(task, "NCHW")
    return {"sum, floor": lambda: x.sum(), "scale, floor": lambda: x * 2.0}


def make_block(name: str, layout: str, task: Task) -> nn.Module:
    """Make a block with the task's weights."""
    block = BLOCKS[name](task.shape[1]).to(getattr(torch, task.dtype))
    weights = [value for value in block.parameters() if value.ndim > 1]
    values = task.parameters()
    with torch.no_grad():
        for weight, value in zip(weights, (values["reduce.weight"], values["expand.weight"]), strict=True):
            weight.copy_(torch.from_numpy(value.astype(np.float32)).reshape(weight.shape))
    return block.to(memory_format=LAYOUTS[layout])


def make_arrays(task: Task, layout: str) -> list[Tensor]:
    """Make the tensors x and dy."""
    options = {"dtype": getattr(torch, task.dtype), "memory_format": LAYOUTS[layout]}
    return [torch.from_numpy(value.astype(np.float32)).to(**options) for value in task.draw()[:2]]


def _run(block: Any, x: Tensor, dy: Tensor, task: Task) -> Run:
    leaves = [x.requires_grad_(), *block.parameters()] if task.training else []

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (block(x),)

    def step() -> tuple[Tensor, ...]:
        y = block(x)
        return y, *torch.autograd.grad(y, leaves, dy)

    call = step if task.training else forward
    return Run(call, lambda: tuple(array.detach().double().numpy() for array in call()[:2]))
