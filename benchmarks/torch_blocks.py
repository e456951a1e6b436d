"""PyTorch: ours, the tutorials' SELayer, timm's SEModule, torchvision's SqueezeExcitation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import se_torch
from se_conformance.peers import get

from .blocks import Run, Task

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Tutorial(nn.Module):
    """The block as most write it."""

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
        """The gate's shape is that of x, by expansion."""
        n, c = x.shape[:2]
        return x * self.fc(self.pool(x).view(n, c)).view(n, c, 1, 1).expand_as(x)


def _timm(channels: int) -> nn.Module:
    return get("timm.layers.SEModule")(channels, rd_channels=channels // 16, bias=False)


def _torchvision(channels: int) -> nn.Module:
    block = get("torchvision.ops.SqueezeExcitation")(channels, channels // 16)
    nn.init.zeros_(block.fc1.bias)
    nn.init.zeros_(block.fc2.bias)
    return block


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "ours": lambda channels: se_torch.SqueezeExcitation(channels),
    "tutorial": Tutorial,
    "timm": _timm,
    "torchvision": _torchvision,
}


def runs(task: Task, *, compiled: bool = False) -> dict[str, Run]:
    """By block and layout."""
    x, dy, parameters = task.drawn()
    made = {}
    for name, make in BLOCKS.items():
        for layout, memory_format in LAYOUTS.items():
            block = make(task.shape[1]).to(getattr(torch, task.dtype))
            weights = [value for value in block.parameters() if value.ndim > 1]
            with torch.no_grad():
                for weight, value in zip(
                    weights, (parameters["reduce.weight"], parameters["expand.weight"]), strict=True
                ):
                    weight.copy_(torch.from_numpy(value.astype(np.float32)).reshape(weight.shape))
            if layout == "channels_last":
                block = block.to(memory_format=torch.channels_last)
            arrays = [_tensor(value, task.dtype, memory_format) for value in (x, dy)]
            made[f"{name} {layout}"] = _run(torch.compile(block) if compiled else block, *arrays, task)
    return made


def _tensor(value: np.ndarray, dtype: str, memory_format: Any) -> Tensor:
    return torch.from_numpy(value.astype(np.float32)).to(getattr(torch, dtype)).contiguous(memory_format=memory_format)


def _run(block: nn.Module, x: Tensor, dy: Tensor, task: Task) -> Run:
    leaves = [x.requires_grad_(), *block.parameters()] if task.training else []

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (block(x),)

    def step() -> tuple[Tensor, ...]:
        y = block(x)
        return y, *torch.autograd.grad(y, leaves, dy)

    call = step if task.training else forward
    return Run(call, lambda: tuple(one.detach().double().numpy() for one in call()))


def floor(task: Task) -> dict[str, Callable[[], Any]]:
    """Reading x for a sum, and reading and writing it for a product: what memory allows of the three passes."""
    x = _tensor(task.drawn()[0], task.dtype, torch.contiguous_format)
    return {"sum": lambda: x.sum(), "scale": lambda: x * 2.0}
