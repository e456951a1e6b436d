"""The kernels as operators of ``torch.library``, which ``torch.compile`` calls and does not look into.

``when.choose_way`` decides whether they are called; they have no other way than the kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import gpu
from .gpu import Options, Weights


def apply(x: Tensor, weights: Weights, options: Options) -> Tensor:
    """Compute y; its derivative is the second operator's."""
    w1, b1, w2, b2 = (None, None, *weights) if len(weights) == 2 else weights
    (activation, slope), (gate, *numbers), gain, residual = options
    y, _ = torch.ops.se_torch.forward(x, w1, b1, w2, b2, activation, slope, gate, numbers, gain, residual)
    return y


@torch.library.custom_op("se_torch::forward", mutates_args=())
def forward(
    x: Tensor,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str,
    slope: float,
    gate: str,
    numbers: Sequence[float],
    gain: float,
    residual: bool,
) -> tuple[Tensor, Tensor]:
    """Compute y, and what ``backward`` needs."""
    weights, options = _weights(w1, b1, w2, b2), _options(activation, slope, gate, numbers, gain, residual)
    x, y = _to_dense(x), torch.empty_like(x)
    kept = gpu.forward(x, weights, options, y, fresh=True)
    if kept is None:
        raise _unbuilt_error()
    return y, kept


@forward.register_fake
def _(x: Tensor, w1: Any, b1: Any, w2: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(_kept(x, w2), dtype=torch.float32)


@torch.library.custom_op("se_torch::backward", mutates_args=())
def backward(
    dy: Tensor,
    x: Tensor,
    kept: Tensor,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str,
    slope: float,
    gate: str,
    numbers: Sequence[float],
    gain: float,
    residual: bool,
) -> list[Tensor]:
    """Compute dx, and the gradients of the weights that there are."""
    weights, options = _weights(w1, b1, w2, b2), _options(activation, slope, gate, numbers, gain, residual)
    gradients = gpu.backward(dy, _to_dense(x), kept, weights, options, fresh=True)
    if gradients is None:
        raise _unbuilt_error()
    return [value for value in gradients if value is not None]


@backward.register_fake
def _(dy: Tensor, x: Tensor, kept: Tensor, *others: Any) -> list[Tensor]:
    return [torch.empty_like(value) for value in (x, *others[:4]) if value is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w1, b1, w2, b2, *ctx.options = inputs
    ctx.save_for_backward(x, output[1], w1, b1, w2, b2)


def _differentiate(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, kept, *weights = ctx.saved_tensors
    gradients = iter(torch.ops.se_torch.backward(dy, x, kept, *weights, *ctx.options))
    found = [None if value is None else next(gradients) for value in (x, *weights)]
    return *found, *(None for _ in ctx.options)


forward.register_autograd(_differentiate, setup_context=_setup_context)


def _unbuilt_error() -> RuntimeError:
    return RuntimeError(
        "Triton could not build the kernels of se_torch, as a warning says; without torch.compile it runs"
    )


def _weights(w1: Tensor | None, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Weights:
    return (w2, b2) if w1 is None else (w1, b1, w2, b2)


def _options(
    activation: str, slope: float, gate: str, numbers: Sequence[float], gain: float, residual: bool
) -> Options:
    first, second, third, fourth = numbers
    return Options((activation, slope), (gate, first, second, third, fourth), gain, residual)


def _kept(x: Tensor, w2: Tensor) -> int:
    """Return the numbers that the forward kernel keeps."""
    return x.shape[0] * (x.shape[1] + w2.shape[1])


def _to_dense(x: Tensor) -> Tensor:
    """Return x as the kernels take it: a compiler may have laid it out in another way than the block has seen."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)
    return x if x.is_contiguous() or x.is_contiguous(memory_format=last) else x.contiguous()
