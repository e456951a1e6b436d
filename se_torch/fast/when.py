"""Faster ways to compute the block, and the rule that chooses among them.

``choose_way`` is the rule. Where none of its ways applies, the block's formula is computed op by op: for second
derivatives, forward mode, batches of gradients, and where operations are recorded, since a record holds for all sizes.

*Loops*, on a processor. Training: autograd makes four arrays of x's size on the way to dx, and scales and sums in
separate passes. Here dx is the only such array: one pass reads dy and x for the sum of their product, another reads dy
for dx. Autograd differentiates the small part, from the mean to the gate. Half precision: x is summed and scaled
without a float32 copy; in bfloat16 the mean is rounded once, and the gate (SPEC N-1). Channels last: positions are
summed in the order of memory; PyTorch's mean reads them in another order.

*Kernels*, on a GPU: one launch each way, which reads x once and writes y once. *Operators* are the same kernels, as
``torch.compile`` takes them. *Narrow*, on a GPU, is the formula for half precision where the kernels do not apply: x is
summed in float32 and scaled without a float32 copy. In bfloat16 the gate is rounded once.

In place, on request: y is written over x, which nobody reads afterwards.
"""

from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from se_spec import SESpec

from ..nonlinearities import Activation, Gate
from . import gpu, loops, operators
from .gpu import Options, Weights
from .loops import cast, multiply, widen

MIN_ELEMENTS_TRAINING = 1 << 19
"""Elements of x from which the gradients written here are faster than autograd's on a processor."""
UNBOUNDED_GATES = "relu", "identity"
"""Gates that may be infinite."""
KERNEL_DEVICES = {"cuda"}
"""Types of devices that have the kernels. Tests add the processor, on which Triton's interpreter runs them."""
KERNEL_DTYPES = torch.float32, torch.bfloat16, torch.float16
MAX_HIDDEN_PER_POSITION = 4
"""Hidden values for each position up to which the kernels are used: each sample reads all weights again."""
MAX_SAMPLES = 1 << 20
"""Samples up to which the programs of a launch can be counted."""


class Way(Enum):
    """A faster way than the formula."""

    LOOPS = "loops"
    KERNELS = "kernels"
    OPERATORS = "operators"
    NARROW = "narrow"


class Block(Protocol):
    """The parts of ``SqueezeExcitation`` that ``run`` needs: its formula, which PyTorch differentiates."""

    _spec: SESpec
    _activation: Activation
    _gate: Gate

    def _apply_formula(self, x: Tensor, weights: Weights | None, inplace: bool = False) -> Tensor:
        """Map x to y."""

    def _scale_factors(self, z: Tensor, weights: Weights | None) -> Tensor:
        """Map the mean z, (N, C) in float32 or float64, to s of the same shape."""


def choose_way(x: Tensor, spec: SESpec, weights: Weights | None) -> Way | None:
    """Choose the fastest way that is right for these tensors; None is the formula.

    Args:
        x: the map, which has been checked.
        spec: the block's.
        weights: weight and bias of each projection; None if the layers must be called.
    """
    on_gpu = x.device.type in KERNEL_DEVICES
    if torch.compiler.is_compiling() and on_gpu and not _is_exported():
        suits = _suits_kernels(x, spec, weights) and not _is_transformed(x)
        return Way.OPERATORS if suits and gpu.is_usable(x.device) else None
    if _is_recorded() or _is_transformed(x):
        return None
    if not on_gpu:
        return Way.LOOPS if _suits_loops(x, spec, weights) else None
    if _suits_kernels(x, spec, weights) and gpu.is_usable(x.device) and not _has_tangent(x, weights):
        return Way.KERNELS
    return Way.NARROW if _suits_narrow(x, spec, weights) else None


def _suits_loops(x: Tensor, spec: SESpec, weights: Weights | None) -> bool:
    if weights is None or spec.squeeze != "avg":
        return False
    is_large, is_better = x.numel() >= MIN_ELEMENTS_TRAINING, _stays_half(x, spec) or loops.is_pooled(x)
    if not (is_large or is_better):
        return False
    tensors = [tensor for tensor in (x, *weights) if tensor is not None]
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not (is_large if trains else is_better):
        return False
    return not _has_tangent(x, weights) and (not trains or _is_dense(x))


def _suits_narrow(x: Tensor, spec: SESpec, weights: Weights | None) -> bool:
    """Decide whether the formula needs no float32 copy of x; a gate in float16 could overflow, and is not rounded."""
    if spec.residual or x.dtype not in (torch.bfloat16, torch.float16):
        return False
    return x.dtype == torch.bfloat16 or not (torch.is_grad_enabled() or _has_tangent(x, weights))


def _suits_kernels(x: Tensor, spec: SESpec, weights: Weights | None) -> bool:
    if weights is None or spec.squeeze != "avg" or x.dtype not in KERNEL_DTYPES or not _is_dense(x):
        return False
    if not all(weight is None or weight.is_contiguous() for weight in weights):
        return False
    hidden: int = weights[-2].shape[1]  # type: ignore[union-attr]
    return hidden <= MAX_HIDDEN_PER_POSITION * x.shape[2:].numel() and x.shape[0] <= MAX_SAMPLES


def can_write_in_place(x: Tensor, spec: SESpec) -> bool:
    """Decide whether y may be written over x."""
    if torch.is_grad_enabled() or spec.residual or _is_recorded():
        return False
    return not _is_transformed(x) and _is_dense(x)


def run(block: Block, x: Tensor, weights: Any, inplace: bool, way: Way) -> Tensor:
    """Compute y of the block, over x where ``inplace``."""
    if way is Way.OPERATORS:
        return operators.apply(x, weights, _options(block))
    if way is Way.NARROW:
        return _narrow_formula(block, x, weights, inplace)
    if torch.is_grad_enabled():
        return _FusedSE.apply(x, block, way, *weights)
    if way is Way.LOOPS:
        return _forward(block, x, weights, inplace)[0]
    y = x if inplace else torch.empty_like(x)
    if gpu.forward(x, weights, _options(block), y) is None:
        return block._apply_formula(x, weights, inplace)
    if inplace and not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return y


def _options(block: Block) -> Options:
    return Options(block._activation, block._gate, block._spec.gain, block._spec.residual)


def _narrow_formula(block: Block, x: Tensor, weights: Weights | None, inplace: bool) -> Tensor:
    """Compute y in half precision, with z and the gate in float32."""
    squeeze = block._spec.squeeze
    z = loops.mean(x) if squeeze == "avg" else loops.squeeze_maximum(x, squeeze)
    s = block._scale_factors(z, weights)
    if x.dtype == torch.float16:
        return torch.mul(x, s[(..., *(None,) * (x.ndim - 2))], out=x if inplace else torch.empty_like(x))
    return multiply(x, cast(s, x.dtype), inplace=inplace)


def _forward(block: Block, x: Tensor, weights: Weights, inplace: bool) -> tuple[Tensor, Tensor]:
    """Compute y and z."""
    spec = block._spec
    stays = _stays_half(x, spec)
    wide = x if stays else widen(x)
    z = loops.mean(wide)
    s = block._scale_factors(z, weights)
    if stays and (x.dtype == torch.float16 or (loops.is_normalized(x) and spec.gate not in UNBOUNDED_GATES)):
        return loops.scale(x, s, x if inplace else torch.empty_like(x)), z
    return cast(multiply(wide, cast(s, wide.dtype), spec.residual, inplace), x.dtype), z


class _FusedSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, way: Way, *weights: Tensor | None) -> Tensor:
        kept: Tensor | None
        if way is Way.LOOPS:
            y, kept = _forward(block, x, weights, inplace=False)
        else:
            y = torch.empty_like(x)
            kept = gpu.forward(x, weights, _options(block), y)
            if kept is None:
                y = block._apply_formula(x, weights)
        ctx.block, ctx.way = block, way
        ctx.save_for_backward(x, kept, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, *weights = ctx.saved_tensors
        block, (needs_dx, _, _, *needs) = ctx.block, ctx.needs_input_grad
        twice, gradients = torch.is_grad_enabled() or _is_transformed(dy), None
        if ctx.way is Way.KERNELS and kept is not None and not twice:
            gradients = gpu.backward(dy, x, kept, tuple(weights), _options(block))
        elif kept is not None and not twice:
            gradients = _backward(block, dy, x, kept, weights, needs_dx, needs)
        if gradients is None:
            with torch.enable_grad():
                if not twice:
                    x, *weights = (
                        value if value is None else value.detach().requires_grad_() for value in (x, *weights)
                    )
                y = block._apply_formula(x, tuple(weights))
            gradients = tuple(_gradients(y, [x, *weights], [needs_dx, *needs], dy, create_graph=twice))
        dx, *dweights = (
            gradient if need else None for gradient, need in zip(gradients, [needs_dx, *needs], strict=True)
        )
        return dx, None, None, *dweights


def _backward(
    block: Block, dy: Tensor, x: Tensor, z: Tensor, weights: list[Tensor | None], needs_dx: bool, needs: list[bool]
) -> tuple[Tensor | None, ...]:
    """Compute the gradients by the loops."""
    with torch.enable_grad():
        z, *weights = (None if value is None else value.detach().requires_grad_() for value in (z, *weights))
        s = block._scale_factors(z, tuple(weights))
    dz, *dweights = _gradients(s, [z, *weights], [needs_dx, *needs], loops.sum_of_products(dy, x))
    dx = loops.dx(dy, s.detach() + block._spec.residual, dz, x) if dz is not None else None
    return dx, *dweights


def _gradients(y: Tensor, inputs: list[Any], needs: list[bool], dy: Tensor, **options: bool) -> list[Tensor | None]:
    """Differentiate y; an input that needs no gradient has None."""
    chosen = [value for value, need in zip(inputs, needs, strict=True) if need]
    gradients = iter(torch.autograd.grad(y, chosen, dy, **options))
    return [next(gradients) if need else None for need in needs]


def _has_tangent(x: Tensor, weights: Weights | None) -> bool:
    """Return whether x or a weight has a tangent of forward mode."""
    if forward_ad._current_level < 0:  # outside it, a question to each tensor would take a microsecond
        return False
    tensors = [tensor for tensor in (x, *(weights or ())) if tensor is not None]
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _stays_half(x: Tensor, spec: SESpec) -> bool:
    """Decide whether a processor may sum and scale x without a float32 copy."""
    if spec.residual:
        return False
    if x.dtype == torch.float16:  # by batch normalization
        return x.device.type == "cpu" and x.numel() > 0 and spec.gate not in UNBOUNDED_GATES and _is_dense(x)
    return x.dtype == torch.bfloat16


def _is_dense(x: Tensor) -> bool:
    """Return whether the positions are one axis in memory: x is contiguous, or channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


def _is_recorded() -> bool:
    """Return whether a compiler, ``torch.jit.trace`` or ``make_fx`` records the operations.

    A record must hold for other sizes, too, and the rules here and the loops in ``loops`` read the size.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _is_exported() -> bool:
    """Return whether ``torch.export`` records; the public question is answered by yes in any compiler up to 2.11."""
    return bool(getattr(torch.compiler, "_is_exporting_flag", False))


def _is_transformed(x: Tensor) -> bool:
    """Return whether the storage of x cannot be read: in ``torch.func``, in legacy vmap, in tensor subclasses."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return True
    if torch._C._are_functorch_transforms_active():
        return True
    # A compiler cannot trace this question, and does not know legacy vmap.
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(x)
