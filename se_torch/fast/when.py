"""Faster ways to compute the block eagerly, and the rules for their use; a compiler finds such ways itself.

Training: autograd makes four arrays of x's size on the way to dx, and scales and sums in separate passes. Here dx is
the only such array: one pass reads dy and x for the sum of their product, another reads dy for dx. Autograd
differentiates the small part, from the mean to the gate.

bfloat16: x is summed and scaled without a float32 copy; the mean is rounded once, and the gate (SPEC N-1).

Channels last: positions are summed in the order of memory; PyTorch's mean reads them in another order.

In place, on request: y is written over x, which nobody reads afterwards.

``is_applicable`` and ``can_write_in_place`` are the rules; ``kernels`` has the loops over memory. Second derivatives,
forward mode and batches of gradients use the formula.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from se_spec import SESpec

from . import kernels
from .kernels import cast, multiply, widen

MIN_ELEMENTS_TRAINING = 1 << 19
"""Elements of x from which the gradients written here are faster than autograd's."""
UNBOUNDED_GATES = "relu", "identity"
"""Gates that may be infinite."""
Weights = tuple[Tensor | None, ...]
"""Weight and bias of each projection."""


class Block(Protocol):
    """The parts of ``SqueezeExcitation`` that ``run`` needs: its formula, which PyTorch differentiates."""

    _spec: SESpec

    def _apply_formula(self, x: Tensor, weights: Weights) -> Tensor:
        """Map x to y."""

    def _scale_factors(self, z: Tensor, weights: Weights) -> Tensor:
        """Map the mean z, (N, C) in float32 or float64, to s of the same shape."""


def is_applicable(x: Tensor, spec: SESpec, weights: Weights) -> bool:
    """Decide whether ``run`` is right for these tensors, and faster than the formula."""
    if spec.squeeze != "avg" or _is_recorded() or _is_transformed(x):
        return False
    is_large, is_better = x.numel() >= MIN_ELEMENTS_TRAINING, _stays_bfloat16(x, spec) or kernels.is_pooled(x)
    if not (is_large or is_better):
        return False
    tensors = [tensor for tensor in (x, *weights) if tensor is not None]
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not (is_large if trains else is_better):
        return False
    has_tangent = any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    return not has_tangent and (not trains or _is_dense(x))


def can_write_in_place(x: Tensor, spec: SESpec) -> bool:
    """Decide whether y may be written over x."""
    if torch.is_grad_enabled() or spec.residual or _is_recorded():
        return False
    return not _is_transformed(x) and _is_dense(x)


def run(block: Block, x: Tensor, weights: Weights, inplace: bool) -> Tensor:
    """Compute y of the block, over x where ``inplace``."""
    if torch.is_grad_enabled():
        return _FusedSE.apply(x, block, *weights)
    return _forward(block, x, weights, inplace)[0]


def _forward(block: Block, x: Tensor, weights: Weights, inplace: bool) -> tuple[Tensor, Tensor]:
    """Compute y and z."""
    spec = block._spec
    stays = _stays_bfloat16(x, spec)
    wide = x if stays else widen(x)
    z = kernels.mean(wide)
    s = block._scale_factors(z, weights)
    if stays and kernels.is_normalized(x) and spec.gate not in UNBOUNDED_GATES:
        return kernels.scale(x, s, x if inplace else torch.empty_like(x)), z
    return cast(multiply(wide, cast(s, wide.dtype), spec.residual, inplace), x.dtype), z


class _FusedSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, *weights: Tensor | None) -> Tensor:
        y, z = _forward(block, x, weights, inplace=False)
        ctx.block = block
        ctx.save_for_backward(x, z, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, z, *weights = ctx.saved_tensors
        block, (needs_dx, _, *needs) = ctx.block, ctx.needs_input_grad
        if torch.is_grad_enabled() or _is_transformed(dy):
            with torch.enable_grad():
                y = block._apply_formula(x, tuple(weights))
                dx, *dweights = _gradients(y, [x, *weights], [needs_dx, *needs], dy, create_graph=True)
            return dx, None, *dweights
        with torch.enable_grad():
            z, *weights = (None if value is None else value.detach().requires_grad_() for value in (z, *weights))
            s = block._scale_factors(z, tuple(weights))
        dz, *dweights = _gradients(s, [z, *weights], [needs_dx, *needs], kernels.sum_of_products(dy, x))
        dx = kernels.dx(dy, s.detach() + block._spec.residual, dz, x) if needs_dx else None
        return dx, None, *dweights


def _gradients(y: Tensor, inputs: list[Any], needs: list[bool], dy: Tensor, **options: bool) -> list[Tensor | None]:
    """Differentiate y; an input that needs no gradient has None."""
    chosen = [value for value, need in zip(inputs, needs, strict=True) if need]
    gradients = iter(torch.autograd.grad(y, chosen, dy, **options))
    return [next(gradients) if need else None for need in needs]


def _stays_bfloat16(x: Tensor, spec: SESpec) -> bool:
    """Decide whether x may be summed and scaled without a float32 copy."""
    return x.dtype == torch.bfloat16 and not spec.residual


def _is_dense(x: Tensor) -> bool:
    """Return whether the positions are one axis in memory: x is contiguous, or channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


def _is_recorded() -> bool:
    """Return whether a compiler, ``torch.jit.trace`` or ``make_fx`` records the operations.

    A record must hold for other sizes, too, and the rules here and the loops in ``kernels`` read the size.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _is_transformed(x: Tensor) -> bool:
    """Return whether the storage of x cannot be read: in ``torch.func``, in legacy vmap, in tensor subclasses."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return True
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(x)
