"""Shorter ways through memory, for PyTorch that runs op by op; a compiler finds them itself.

Training: autograd makes four arrays of x's size on the way to dx, and scales and sums in passes of their own. Here dx
is the only one: dy and x are read once for the sum of their product, and dy once more for dx. What is small, from the
mean to the gate, is left to autograd.

bfloat16: x is summed and scaled as it is, not widened before; the mean is rounded once, and the gate (SPEC N-1).

Channels last: the positions are summed as they lie in memory; PyTorch's mean reads them otherwise.

In place, where it is asked for: y is written over x, which nobody reads afterwards.

``fits`` is the rule, ``overwrites`` that of the last; ``passes`` has the loops over memory. Whatever else asks for
derivatives (twice, forwards, of a batch of gradients) has the formula's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from se_spec import SESpec

from . import kernels
from .kernels import cast, multiply, widened

LARGE = 1 << 19
"""Elements of x from which gradients by hand are faster."""
UNBOUNDED = "relu", "identity"
"""Gates that may be infinite."""
Weights = tuple[Tensor | None, ...]
"""Of each projection weight and bias."""


class Formula(NamedTuple):
    """The block by operations that PyTorch differentiates.

    ``whole`` maps x to y, and ``factors`` maps the mean z to s, both (N, C), in float32 or float64. ``inplace`` says
    whether y may be written over x.
    """

    spec: SESpec
    whole: Callable[[Tensor, Weights], Tensor]
    factors: Callable[[Tensor, Weights], Tensor]
    inplace: bool


def fits(x: Tensor, spec: SESpec, weights: Weights) -> bool:
    """Whether ``run`` is right for them, and faster."""
    if spec.squeeze != "avg" or _is_recorded() or _is_transformed(x):
        return False
    large, better = x.numel() >= LARGE, _narrow(x, spec) or kernels.pools(x)
    if not (large or better):
        return False
    tensors = [one for one in (x, *weights) if one is not None]
    trained = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    if not (large if trained else better):
        return False
    pushed = any(forward_ad.unpack_dual(one).tangent is not None for one in tensors)
    return not pushed and (not trained or _is_dense(x))


def overwrites(x: Tensor, spec: SESpec) -> bool:
    """Whether y may be written over x."""
    if torch.is_grad_enabled() or spec.residual or _is_recorded():
        return False
    return not _is_transformed(x) and _is_dense(x)


def run(x: Tensor, formula: Formula, weights: Weights) -> Tensor:
    """``formula.whole(x, weights)``."""
    if torch.is_grad_enabled():
        return _Scaled.apply(x, formula, *weights)
    return _forward(x, formula, weights)[0]


def _forward(x: Tensor, formula: Formula, weights: Weights) -> tuple[Tensor, Tensor]:
    """y and z."""
    narrow = _narrow(x, formula.spec)
    wide = x if narrow else widened(x)
    z = kernels.mean(wide)
    s = formula.factors(z, weights)
    if narrow and kernels.scales(x) and formula.spec.gate not in UNBOUNDED:
        return kernels.scaled(x, s, x if formula.inplace else torch.empty_like(x)), z
    return cast(multiply(wide, cast(s, wide.dtype), formula.spec.residual, formula.inplace), x.dtype), z


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, *weights: Tensor | None) -> Tensor:
        y, z = _forward(x, formula, weights)
        ctx.formula = formula
        ctx.save_for_backward(x, z, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, z, *weights = ctx.saved_tensors
        formula, (wanted, _, *others) = ctx.formula, ctx.needs_input_grad
        if torch.is_grad_enabled() or _is_transformed(dy):
            with torch.enable_grad():
                y = formula.whole(x, tuple(weights))
                dx, *dweights = _gradients(y, [x, *weights], [wanted, *others], dy, create_graph=True)
            return dx, None, *dweights
        with torch.enable_grad():
            small = [None if one is None else one.detach().requires_grad_() for one in (z, *weights)]
            s = formula.factors(small[0], tuple(small[1:]))
        dz, *dweights = _gradients(s, small, [wanted, *others], kernels.dot(dy, x))
        return kernels.dx(dy, s.detach() + formula.spec.residual, dz, x) if wanted else None, None, *dweights


def _gradients(y: Tensor, inputs: list[Any], wanted: list[bool], dy: Tensor, **options: bool) -> list[Tensor | None]:
    """Of the inputs that are wanted; None of the others."""
    chosen = [one for one, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(y, chosen, dy, **options))
    return [next(found) if want else None for want in wanted]


def _narrow(x: Tensor, spec: SESpec) -> bool:
    """Whether x may be scaled without being widened."""
    return x.dtype == torch.bfloat16 and not spec.residual


def _is_dense(x: Tensor) -> bool:
    """Whether the positions are one axis in memory: x is contiguous, or channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


def _is_recorded() -> bool:
    """Whether the operations are recorded, by a compiler, ``torch.jit.trace`` or ``make_fx``.

    A record must hold for other sizes, too; the rules here and the loops in ``passes`` read the size.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _is_transformed(x: Tensor) -> bool:
    """Whether shape and memory of x are not those of its values, as in ``torch.func`` or in a subclass of Tensor."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return True
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(x)
